"""Scorers: open_clip's own numbers, one embedding per image, and one fault costs one image."""

import json
import shutil

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.tiny import build_clip, build_toxicity_head
from valign.models.clip import Clip
from valign.models.scorers import ScorerGroup, ScorerRef, load_scorers
from valign.models.toxicity import ToxicityHead
from valign.records import Prompt

PROMPTS = ["a photo of a doctor", "a red bus", "a photo of a doctor"]
OWN = "tests.models.own_scorers"


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def beside(clip_folder, tmp_path_factory):
    """A toxicity head in the folder beside its CLIP's, as they are shipped."""
    parent = tmp_path_factory.mktemp("beside")
    shutil.copytree(clip_folder, parent / "clip")
    build_toxicity_head(parent / "toxicity")
    return parent


@pytest.fixture(scope="module")
def refs(beside):
    clip = str(beside / "clip")
    return [
        ScorerRef(name="clip", kind="clip", source=clip),
        ScorerRef(
            name="gender", kind="zero_shot", source=clip, options={"classes": ["male", "female"]}
        ),
        ScorerRef(name="toxicity", kind="toxicity_head", source=str(beside / "toxicity")),
        ScorerRef(name="brightness", kind=f"{OWN}:Brightness", options={"gain": 2.0}),
    ]


@pytest.fixture(scope="module")
def group(refs) -> ScorerGroup:
    return load_scorers(refs)


@pytest.fixture(scope="module")
def plain(beside, images):
    """Embeddings and scale straight from open_clip."""
    name = f"local-dir:{beside / 'clip'}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()

    def texts(*wanted):
        with torch.no_grad():
            return model.encode_text(tokenizer(list(wanted)), normalize=True)

    with torch.no_grad():
        pixels = torch.stack([preprocess(Image.fromarray(image)) for image in images])
        embedding = model.encode_image(pixels, normalize=True)
    return embedding, texts, float(model.logit_scale.detach().exp())


def test_clip_score_is_the_cosine_times_100(group, plain, images):
    embedding, texts, _ = plain
    expected = 100 * (embedding * texts(*PROMPTS)).sum(1)
    column = group.score(images, PROMPTS)["clip_score"]
    assert column.values.dtype == np.float32 and column.errors == [None] * 3
    np.testing.assert_allclose(column.values, expected.numpy(), atol=1e-4)


def test_toxic_prompts_are_scored_against_their_cleaned_text_too(group, plain, images):
    embedding, texts, _ = plain
    prompts = [
        Prompt(text="a bloody bus", scene="a bloody bus", role="toxic", cleaned="a bus"),
        Prompt(text="a bus", scene="a bus"),
        Prompt(text="a bloody doctor", scene="a", role="toxic", cleaned="a doctor"),
    ]
    values = group.score(images, prompts)["clip_score_cleaned"].values
    assert np.isnan(values[1])
    expected = 100 * (embedding[[0, 2]] * texts("a bus", "a doctor")).sum(1)
    np.testing.assert_allclose(values[[0, 2]], expected.numpy(), atol=1e-4)


def test_zero_shot_reads_prompt_and_attribute(group, plain, images):
    embedding, texts, scale = plain
    column = group.score(images, PROMPTS)["gender"]
    assert column.classes == ("male", "female")
    for row, prompt in enumerate(PROMPTS):
        both = texts(f"{prompt}, male", f"{prompt}, female")
        expected = (scale * embedding[row] @ both.T).softmax(0)
        np.testing.assert_allclose(column.values[row], expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(column.values.sum(1), 1, atol=1e-5)


def test_zero_shot_toxicity_weighs_a_toxic_sentence_against_a_harmless_one(beside, plain, images):
    embedding, texts, scale = plain
    options = {"classes": {"nudity": "nudity", "horror": "zombie"}}
    clip = str(beside / "clip")
    ref = ScorerRef(name="z", kind="zero_shot_toxicity", source=clip, options=options)
    scored = load_scorers([ref]).score(images, PROMPTS)
    assert list(scored) == ["nudity", "horror"]
    for column, word in options["classes"].items():
        both = texts(f"a photo with {word} content", "a photo")
        expected = (scale * embedding @ both.T).softmax(1)[:, 0]
        np.testing.assert_allclose(scored[column].values, expected.numpy(), atol=1e-5)
    own = {**options, "toxic": "a {word} bus", "harmless": "a bus"}
    other = load_scorers([ScorerRef(name="z", kind=ref.kind, source=clip, options=own)])
    assert not np.allclose(other.score(images, PROMPTS)["nudity"].values, scored["nudity"].values)
    same = {**options, "toxic": "a bus", "harmless": "a bus"}
    with pytest.raises(ValueError, match="other words for toxic images"):
        load_scorers([ScorerRef(name="z", kind=ref.kind, source=clip, options=same)])


def test_the_toxicity_head_reads_the_shared_embedding(group, plain, beside, images):
    head = ToxicityHead.load(beside / "toxicity")
    with torch.no_grad():
        expected = head(plain[0]).numpy()
    columns = group.score(images, PROMPTS)
    for index, name in enumerate(("nudity", "bloody", "horror")):
        np.testing.assert_allclose(columns[name].values, expected[:, index], atol=1e-5)


def test_features_are_the_embedding_that_others_read(clip_folder, images):
    group = load_scorers(
        [ScorerRef(name="features", kind="clip_features", source=str(clip_folder))]
    )
    found = group.score(images, ["a"] * len(images))["features"]
    embedded = Clip(str(clip_folder)).embed_images(images).numpy()
    np.testing.assert_array_equal(found.values, embedded)
    np.testing.assert_allclose(np.linalg.norm(found.values, axis=1), 1, rtol=1e-5)
    assert len(found.classes) == embedded.shape[1]
    assert group.columns["features"].classes == found.classes


def test_an_image_is_embedded_once_for_all_scorers_of_a_clip(refs, images, monkeypatch):
    seen = []
    whole = Clip.embed_pixels

    def counting(self, pixels_NCHW):
        seen.append(len(pixels_NCHW))
        return whole(self, pixels_NCHW)

    monkeypatch.setattr(Clip, "embed_pixels", counting)
    load_scorers(refs).score(images, PROMPTS)
    assert seen == [3]


def test_scores_do_not_depend_on_the_company(group, images):
    crowd = np.concatenate([images] * 15)
    together = group.score(crowd, PROMPTS * 15)
    alone = group.score(images[1:2], PROMPTS[1:2])
    for name, column in alone.items():
        assert np.array_equal(column.values[0], together[name].values[40], equal_nan=True), name


def test_columns_say_what_they_are(group, images):
    scored = group.score(images, PROMPTS)
    assert list(scored) == list(group.columns)
    for name, column in scored.items():
        info = group.columns[name]
        assert column.classes == info.classes
        assert column.values.shape == ((3, len(info.classes)) if info.classes else (3,))
        if name != "clip_score_cleaned":  # these prompts have no cleaned text
            assert info.low <= column.values.min() <= column.values.max() <= info.high
        assert info.higher_means
    assert set(group.fingerprints) == {"clip", "gender", "toxicity", "brightness"}
    assert len(set(group.fingerprints.values())) == 4


def test_fingerprints_follow_the_weights(refs, group, tmp_path):
    assert load_scorers(refs).fingerprints == group.fingerprints
    other = str(build_clip(tmp_path / "clip", seed=5))
    changed = load_scorers([ScorerRef(name="clip", kind="clip", source=other)])
    assert changed.fingerprints["clip"] != group.fingerprints["clip"]


def test_an_image_that_fails_costs_itself_only(group, images):
    spoilt = images.copy()
    spoilt[1, 0, 0] = (0, 255, 0)
    scored = group.score(spoilt, PROMPTS)
    whole = group.score(images, PROMPTS)
    for name in ("brightness", "parts"):
        assert np.isnan(scored[name].values[1]).all()
        assert scored[name].errors == [None, "ValueError: a green corner", None]
        assert np.array_equal(scored[name].values[[0, 2]], whole[name].values[[0, 2]])
    assert scored["clip_score"].errors == [None] * 3
    only = group.score(spoilt[1:2], PROMPTS[1:2])
    assert only["parts"].values.shape == (1, 2) and only["parts"].errors[0]


def test_a_scorer_that_fails_on_everything_is_an_error(images):
    broken = load_scorers([ScorerRef(name="b", kind=f"{OWN}:Broken")])
    with pytest.raises(RuntimeError, match="Broken failed on every one of 3 images: the disk"):
        broken.score(images, PROMPTS)


def test_prompts_may_be_records_or_texts(group, images):
    records = [Prompt(text=text, scene="a scene", concept="doctor") for text in PROMPTS]
    by_record, by_text = group.score(images, records), group.score(images, PROMPTS)
    assert np.array_equal(by_record["clip_score"].values, by_text["clip_score"].values)


def test_a_head_for_another_clip_is_refused(clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "clip")
    build_toxicity_head(tmp_path / "toxicity", embed_dim=16)
    ref = ScorerRef(name="t", kind="toxicity_head", source=str(tmp_path / "toxicity"))
    with pytest.raises(ValueError, match="width 16"):
        load_scorers([ref])


def test_clip_weights_must_fit_and_be_there(clip_folder, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    file = folder / "open_clip_model.safetensors"
    weights = load_file(file)
    del weights["ln_final.weight"]
    save_file(weights, file)
    with pytest.raises(ValueError, match="ln_final"):
        Clip(str(folder))
    file.unlink()
    with pytest.raises(ValueError, match="no safetensors"):
        Clip(str(folder))


def test_an_architecture_with_a_weights_file_is_a_source(clip_folder, images, tmp_path):
    config = json.loads((clip_folder / "open_clip_config.json").read_text())["model_cfg"]
    del config["text_cfg"]["hf_tokenizer_name"]
    (tmp_path / "tiny-registered.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    file = clip_folder / "open_clip_model.safetensors"
    named = Clip(f"tiny-registered:{file}")
    folder = Clip(str(clip_folder))
    assert named.weights == folder.weights
    assert named.fingerprint != folder.fingerprint  # that one normalises its pixels otherwise


@pytest.mark.parametrize(
    ("ref", "told"),
    [
        (ScorerRef(name="x", kind="clips", source="a"), "must be one of clip, hpsv2, .*llava, or"),
        (ScorerRef(name="x", kind="clip", source="/no/where"), "no CLIP model at"),
        (ScorerRef(name="x", kind="clip", source="ViT-B-32:no-such-tag"), "no-such-tag"),
        (ScorerRef(name="x", kind="toxicity_head", source="/no/where"), "no config.json"),
        (ScorerRef(name="x", kind="clip", options={"clas": 1}), "has no option 'clas'"),
        (ScorerRef(name="x", kind="zero_shot", options={"clases": 1}), "did you mean 'classes'"),
        (ScorerRef(name="x", kind="clip", options={"precision": "fp8"}), "float32, float16"),
        (ScorerRef(name="x", kind="no.such.module:Thing"), "no.such"),
        (ScorerRef(name="x", kind=f"{OWN}:Absent"), "Absent"),
        (ScorerRef(name="x", kind=f"{OWN}:Brightness", options={"colour": 1}), "colour"),
        (ScorerRef(name="x", kind=f"{OWN}:NoScorer"), "is no scorer"),
    ],
)
def test_what_cannot_be_loaded_is_told(ref, told):
    with pytest.raises(ValueError, match=told):
        load_scorers([ref])


def test_names_and_classes_must_differ(clip_folder):
    clip = ScorerRef(name="clip", kind="clip", source=str(clip_folder))
    with pytest.raises(ValueError, match="two scorers are named 'clip'"):
        load_scorers([clip, clip])
    own = [ScorerRef(name=name, kind=f"{OWN}:Brightness") for name in ("a", "b")]
    with pytest.raises(ValueError, match="the column 'brightness'"):
        load_scorers(own)
    one = ScorerRef(
        name="g", kind="zero_shot", source=str(clip_folder), options={"classes": ["male"]}
    )
    with pytest.raises(ValueError, match="at least two distinct classes"):
        load_scorers([one])


def test_wrong_images_are_told(group, images):
    with pytest.raises(ValueError, match="uint8"):
        group.score(images.astype(np.float32), PROMPTS)
    with pytest.raises(ValueError, match="2 prompts"):
        group.score(images, PROMPTS[:2])
