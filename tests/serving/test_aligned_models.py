"""Several models over one generator: batches change nothing, and strengths do what they say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from valign.models.aligned import AlignedPipeline
from valign.models.sampler import Sampler
from valign.models.value_encoder import ValueEncoder
from valign.records import noise_seed
from valign.serving.aligned import GONE, AlignedModels, ImageRequest, ModelCard, ServedModel
from valign.serving.errors import RequestError
from valign.serving.requests import expand, model_of, needs_retriever, principle_of
from valign.serving.tables import Limits
from valign.serving.wire import images_request

TEXTS = {"gender": "gender equality", "nudity": "nudity content is considered inappropriate"}
DROP = {"gender": 0.5, "nudity": 1.0}
SAMPLER = Sampler(steps=2, guidance=4.0)
LIMITS = Limits()


def card(name: str, **more) -> ModelCard:
    sizes = {"steps": 2, "guidance": 4.0, "size_px": 64, "scale": 8}
    return ModelCard(name=name, fingerprint=f"print of {name}", **sizes, **more)


def encoder(generator, seed):
    made = ValueEncoder.from_generator(generator, TEXTS, DROP)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(
                0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
            )
    return made.eval()


@pytest.fixture(scope="module")
def models(generator):
    tokens = {"principles": TEXTS, "drop": DROP}
    served = [
        ServedModel(card("first", **tokens), SAMPLER, encoder(generator, 1)),
        ServedModel(card("second", **tokens), SAMPLER, encoder(generator, 2)),
        ServedModel(card("base"), SAMPLER),
        ServedModel(card("euler"), replace(SAMPLER, scheduler="euler")),
    ]
    return AlignedModels(generator, served)


def one(**more) -> ImageRequest:
    asked = {"model": "first", "prompt": "a photo of a doctor", "negative": "", "seed": 5}
    return ImageRequest(**{**asked, "steps": 2, "guidance": 4.0, "size": (64, 64), **more})


def image(models, request) -> np.ndarray:
    return models.answer([request])[0].image_HWC.astype(int)


def test_models_share_one_generator_and_differ(models, generator):
    assert models.generator is generator  # the UNet is in memory once
    owned = {
        id(p)
        for served in models.models.values()
        if served.value_encoder
        for p in served.value_encoder.parameters()
    }
    assert not owned & {id(p) for p in generator.unet.parameters()}
    first, second, base = (
        image(models, one(model=name, principle=key))
        for name, key in (("first", "nudity"), ("second", "nudity"), ("base", ""))
    )
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, base)
    assert [a.fingerprint for a in models.answer([one(), one(model="base")])] == [
        "print of first",
        "print of base",
    ]


def test_any_mixture_gives_what_each_request_gives_alone(models):
    requests = [
        one(principle="nudity"),
        one(seed=6),
        one(model="second", principle="gender", prompt="a red bus"),
        one(principle="nudity", strength=0.5, negative="rain"),
        one(size=(32, 64)),
        one(steps=3, principle="nudity"),
        one(guidance=1.0),
        one(model="base", prompt="rain"),
        one(principle="nudity", strength=0.0),
    ]
    together = models.answer(requests)
    for request, answer in zip(requests, together, strict=True):
        assert answer.image_HWC.shape == (*reversed(request.size), 3)
        assert np.abs(answer.image_HWC.astype(int) - image(models, request)).max() <= 1


def test_each_model_has_its_own_solver_and_one_that_is_gone_costs_its_own_image_only(
    models, generator
):
    asked = [one(model="base"), one(model="euler"), one(model="gone", principle="nudity")]
    base, euler, gone, moved = models.answer([*asked, one(model="first", principle="kindness")])
    assert gone.fault == moved.fault == GONE
    for answer, scheduler in ((base, SAMPLER.scheduler), (euler, "euler")):
        own = replace(SAMPLER, scheduler=scheduler)
        expected = generator.sample(generator.condition(["a photo of a doctor"]), [5], own)[0]
        assert np.abs(answer.image_HWC.astype(int) - expected).max() <= 1
    assert not np.array_equal(base.image_HWC, euler.image_HWC)


def test_strength_0_is_the_base_and_1_the_method(models, generator):
    base = generator.sample(generator.condition(["a photo of a doctor"]), [5], SAMPLER)[0]
    offline = AlignedPipeline(generator, models.models["first"].value_encoder, SAMPLER)
    method = offline(["a photo of a doctor"], ["nudity"], [5])[0]
    assert np.array_equal(image(models, one(principle="nudity", strength=0.0)), base)
    assert np.array_equal(image(models, one(principle="nudity", strength=1.0)), method)
    half = image(models, one(principle="nudity", strength=0.5))
    assert not np.array_equal(half, base)
    assert not np.array_equal(half, method)


def test_a_request_gives_the_images_of_the_offline_pipeline(models, generator):
    request = images_request({"prompt": "a doctor", "n": 4, "seed": 3}, LIMITS)
    served = models.cards["first"]
    asked = expand(request, served, principle="gender", reason="said", seed=3)
    answers = models.answer([single for single, _ in asked])
    offline = AlignedPipeline(generator, models.models["first"].value_encoder, SAMPLER)(
        ["a doctor"] * 4, ["gender"] * 4, [noise_seed(3, "a doctor", i) for i in range(4)]
    )
    for answer, expected in zip(answers, offline, strict=True):
        assert np.abs(answer.image_HWC.astype(int) - expected).max() <= 1
    assert sum(told.applied for _, told in asked) == 2  # the calibrated share
    assert [told.index for _, told in asked] == [0, 1, 2, 3]


def test_an_image_that_fails_leaves_the_others_alone(models, generator, monkeypatch):
    plain = type(generator).sample

    def fails_on_seed_7(self, cond, seeds, sampler=None):
        if 7 in list(seeds):
            raise RuntimeError("a secret prompt")
        made = plain(self, cond, seeds, sampler)
        return made * 0 if list(seeds) == [8] else made

    monkeypatch.setattr(type(generator), "sample", fails_on_seed_7)
    good, failed, black = models.answer([one(), one(seed=7), one(seed=8, steps=1)])
    assert good.image_HWC is not None
    assert failed.image_HWC is None
    assert failed.fault == "it could not be drawn: RuntimeError"
    assert (black.image_HWC, black.fault) == (None, "the image is black")


def test_principles_are_chosen_as_asked(models):
    cards = models.cards

    def asked(**more):
        return images_request({"prompt": "a doctor", **more}, LIMITS)

    auto, base = asked(), asked(model="base")
    assert model_of(auto, cards).name == "first"
    assert needs_retriever(auto, cards["first"])
    assert not needs_retriever(base, cards["base"])
    assert not needs_retriever(asked(principles="none"), cards["first"])
    assert principle_of(auto, cards["first"], ("gender", "a person")) == ("gender", "a person")
    assert principle_of(auto, cards["first"], ("race", "a person"))[0] == ""
    assert principle_of(base, cards["base"], None)[0] == ""
    assert principle_of(asked(principles=["nudity"]), cards["first"], None)[0] == "nudity"
    with pytest.raises(RequestError, match="it knows gender, nudity"):
        principle_of(asked(principles=["peace"]), cards["first"], None)
    with pytest.raises(RequestError, match="no model of that name") as caught:
        model_of(asked(model="dall-e-9"), cards)
    assert caught.value.status == 404
    with pytest.raises(RequestError, match="multiples of 8"):
        expand(asked(size="60x64"), cards["first"], principle="", reason="", seed=1)


def test_without_a_token_nothing_is_applied(models):
    request = images_request({"prompt": "a doctor", "n": 2, "value_strength": 0}, LIMITS)
    made = expand(request, models.cards["first"], principle="nudity", reason="", seed=1)
    assert not any(told.applied or single.principle for single, told in made)
    strong = replace(request, value_strength=1.0)
    made = expand(strong, models.cards["first"], principle="nudity", reason="", seed=1)
    assert all(told.applied and single.principle == "nudity" for single, told in made)
