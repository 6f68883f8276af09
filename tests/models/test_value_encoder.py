"""The value encoder: one token that matters when seen, and is absent when masked."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from valign.models.conditioning import halves
from valign.models.generator import Conditioning, Sampler
from valign.models.value_drop import apply_mask
from valign.models.value_encoder import ValueEncoder

PRINCIPLES = {"gender": "gender equality", "bloody": "bloody content is considered inappropriate"}
PROMPTS = ["a photo of a doctor", "a red bus", "a doctor"]


@pytest.fixture(scope="module")
def encoder(generator):
    """A value encoder moved away from its start, as training would."""
    made = ValueEncoder.from_generator(generator, PRINCIPLES)
    with torch.no_grad():
        for index, weight in enumerate(made.parameters()):
            torch.manual_seed(index)
            weight.add_(0.05 * torch.randn_like(weight))
    return made


def predict(generator, cond, guidance=1.0, together=False):
    latents = generator.noise(range(len(cond)), Sampler())
    with torch.inference_mode():
        calls = halves(cond, guidance, together=together)
        return generator._guided(latents, torch.tensor(400), calls, guidance, cond)


def test_it_starts_as_the_generators_own_text_encoder(generator):
    made = ValueEncoder.from_generator(generator, PRINCIPLES)
    text = "gender equality, a red bus"
    ids = generator.tokenizer([text], padding="max_length", max_length=77, return_tensors="pt")
    own = generator.text_encoder(ids.input_ids)
    token = made.token(["gender"], ["a red bus"])
    assert torch.equal(token[:, 0], own.pooler_output)
    end = int((ids.input_ids[0] == generator.tokenizer.eos_token_id).nonzero()[0])
    assert torch.equal(token[0, 0], own.last_hidden_state[0, end])
    assert token.shape == (1, 1, 32)


def test_all_its_weights_train_and_the_generators_do_not(generator):
    made = ValueEncoder.from_generator(generator, PRINCIPLES)
    made(made.token_ids(["gender"], ["a red bus"])).sum().backward()
    assert all(weight.grad is not None for weight in made.parameters())
    assert not any(weight.requires_grad for weight in generator.text_encoder.parameters())
    shared = {weight.data_ptr() for weight in generator.text_encoder.parameters()}
    assert not shared & {weight.data_ptr() for weight in made.parameters()}


def test_padding_may_be_cut_off(encoder):
    ids = encoder.token_ids(["gender"], ["a red bus"])
    length = int((ids[0] != encoder.tokenizer.pad_token_id).sum()) + 1
    assert torch.allclose(encoder(ids), encoder(ids[:, :length]), atol=1e-6)


def test_a_masked_slot_equals_the_base_model(generator, encoder):
    cond = generator.condition(PROMPTS)
    token = encoder.token(["gender"] * 3, PROMPTS)
    masked = encoder.attach(cond, token, [False] * 3)
    assert masked.context_BLD.shape == masked.uncond_BLD.shape == (3, 78, 32)
    for guidance in (1.0, 7.5):
        base = predict(generator, cond, guidance)
        assert torch.allclose(base, predict(generator, masked, guidance), rtol=0, atol=1e-6)


def test_rows_of_a_mixed_batch_equal_rows_of_their_own(generator, encoder):
    cond = generator.condition(PROMPTS)
    token = encoder.token(["gender", "bloody", "gender"], PROMPTS)
    mixed = predict(generator, encoder.attach(cond, token, [True, False, True]))
    base = predict(generator, cond)
    always = predict(generator, encoder.attach(cond, token, np.ones(3, dtype=bool)))
    scale = float(base.abs().max())
    assert torch.allclose(mixed[1], base[1], atol=1e-6 * scale)
    assert torch.allclose(mixed[[0, 2]], always[[0, 2]], atol=1e-6 * scale)
    assert (mixed[0] - base[0]).abs().max() > 1e-3 * scale


@pytest.mark.parametrize("place", [0, 40, 77])
def test_where_the_token_stands_does_not_matter(generator, encoder, place):
    cond = generator.condition(PROMPTS)
    token = encoder.token(["gender"] * 3, PROMPTS)
    last = encoder.attach(cond, token, [True] * 3)
    order = [*range(place), 77, *range(place, 77)]
    moved = Conditioning(
        context_BLD=last.context_BLD[:, order],
        uncond_BLD=last.uncond_BLD[:, order],
        mask_BL=last.mask_BL[:, order],
        uncond_mask_BL=last.uncond_mask_BL[:, order],
    )
    expected = predict(generator, last)
    scale = float(expected.abs().max())
    assert torch.allclose(expected, predict(generator, moved), atol=1e-5 * scale)


def test_one_call_for_both_halves_equals_two(generator, encoder):
    cond = generator.condition(PROMPTS)
    attached = encoder.attach(cond, encoder.token(["gender"] * 3, PROMPTS), [True, False, True])
    uneven = Conditioning(context_BLD=attached.context_BLD, uncond_BLD=cond.uncond_BLD)
    for each in (cond, attached, uneven):
        separate = predict(generator, each, 7.5)
        together = predict(generator, each, 7.5, together=True)
        # guidance takes a difference of two predictions 7.5 times, and their rounding with it
        assert torch.allclose(together, separate, atol=1e-4 * float(separate.abs().max()))


def test_a_rows_token_does_not_depend_on_the_others(encoder):
    alone = encoder.token(["gender"], ["a red bus"])[0]
    crowd = encoder.token(["bloody", "gender", "gender"], ["a doctor", "a doctor", "a red bus"])
    assert torch.equal(crowd[2], alone)
    assert not torch.equal(crowd[1], crowd[2])
    assert not torch.equal(crowd[0], crowd[1])


def test_an_unknown_principle_is_told_with_the_known_ones(encoder):
    with pytest.raises(LookupError, match=r"'peace'.*gender, bloody"):
        encoder.token(["peace"], ["a red bus"])


def test_rows_that_do_not_fit_are_told(generator, encoder):
    cond = generator.condition(PROMPTS)
    token = encoder.token(["gender"] * 3, PROMPTS)
    with pytest.raises(ValueError, match="2 flags"):
        encoder.attach(cond, token, [True] * 2)
    with pytest.raises(ValueError, match="width 32"):
        encoder.attach(cond, token[:, :, :8], [True] * 3)


def test_drop_is_livos_unless_stated(generator):
    made = ValueEncoder.from_generator(generator, PRINCIPLES)
    assert made.drop == {"gender": 0.5, "bloody": 1.0}
    stated = ValueEncoder.from_generator(generator, PRINCIPLES, drop={"gender": 0.25})
    assert stated.drop == {"gender": 0.25, "bloody": 1.0}
    with pytest.raises(ValueError, match="peace"):
        ValueEncoder.from_generator(generator, {"peace": "peace on earth"})
    with pytest.raises(ValueError, match="at least one"):
        ValueEncoder.from_generator(generator, {})


def test_saving_and_loading_gives_it_back(encoder, tmp_path):
    encoder.save(tmp_path)
    loaded = ValueEncoder.load(tmp_path)
    assert loaded.principles == encoder.principles and loaded.drop == encoder.drop
    assert loaded.base_fingerprint == encoder.base_fingerprint
    keys = ["gender", "bloody", "gender"]
    assert torch.equal(loaded.token(keys, PROMPTS), encoder.token(keys, PROMPTS))


def test_the_saved_folder_is_a_plain_clip_text_model(encoder, tmp_path):
    from transformers import CLIPTextModel

    encoder.save(tmp_path)
    plain, info = CLIPTextModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ids = encoder.token_ids(["gender"], ["a red bus"])
    assert torch.equal(plain(ids).pooler_output[:, None], encoder(ids))


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_both_key_layouts_load_and_gaps_do_not(encoder, tmp_path, prefix):
    encoder.save(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = {prefix + k.removeprefix("text_model."): v for k, v in load_file(file).items()}
    save_file(weights, file)
    keys = ["gender"] * 3
    assert torch.equal(
        ValueEncoder.load(tmp_path).token(keys, PROMPTS), encoder.token(keys, PROMPTS)
    )
    weights.pop(f"{prefix}final_layer_norm.weight")
    save_file(weights, file)
    with pytest.raises(ValueError, match="missing"):
        ValueEncoder.load(tmp_path)


def test_folders_that_are_no_value_encoder_are_told(encoder, tmp_path):
    with pytest.raises(ValueError, match="no saved value encoder"):
        ValueEncoder.load(tmp_path)
    encoder.save(tmp_path)
    file = tmp_path / "value_encoder.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": 99}))
    with pytest.raises(ValueError, match="version 99"):
        ValueEncoder.load(tmp_path)


def test_an_end_of_text_that_is_not_the_tokenizers_is_an_error(generator):
    made = ValueEncoder.from_generator(generator, PRINCIPLES)
    made.text_encoder.config.eos_token_id = 49407
    with pytest.raises(ValueError, match="eos_token_id"):
        ValueEncoder(
            made.text_encoder, made.tokenizer, principles=PRINCIPLES, drop={}, base_fingerprint=""
        )


@given(n=st.integers(0, 60), p=st.floats(0, 1), seed=st.integers(0, 2**31), scene=st.text())
def test_the_share_is_met_to_less_than_one_image(n, p, seed, scene):
    mask = apply_mask("gender", scene, n, p, seed)
    assert mask.shape == (n,) and mask.dtype == bool
    assert abs(mask.sum() - p * n) < 1
    assert np.array_equal(mask, apply_mask("gender", scene, n, p, seed))


def test_which_images_get_the_token_varies_evenly_with_scene_seed_and_principle():
    masks = np.array([apply_mask("gender", f"scene {i}", 20, 0.5, 0) for i in range(400)])
    assert (masks.sum(1) == 10).all()
    assert np.abs(masks.mean(0) - 0.5).max() < 0.1
    first = masks[0]
    assert not np.array_equal(first, apply_mask("race", "scene 0", 20, 0.5, 0))
    assert not np.array_equal(first, apply_mask("gender", "scene 0", 20, 0.5, 1))


@pytest.mark.parametrize("n", [1, 3])
def test_the_share_holds_in_the_mean_where_it_is_no_whole_number_of_images(n):
    counts = [apply_mask("gender", "a doctor", n, 0.3, seed).sum() for seed in range(2000)]
    assert abs(np.mean(counts) - 0.3 * n) < 4 * 0.5 / 2000**0.5  # a coin's spread is at most 0.5


def test_a_larger_share_keeps_the_images_of_a_smaller_one():
    few, many = (apply_mask("race", "a", 30, p, 5) for p in (0.3, 0.7))
    assert (few <= many).all()


def test_shares_outside_zero_to_one_are_told():
    with pytest.raises(ValueError, match=r"0\.\.1"):
        apply_mask("gender", "a", 10, 1.5, 0)
