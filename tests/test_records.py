"""Ids are content: equal content gives equal ids, any difference another one."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valign.records import Prompt, image_id, noise_seed, pair_id, prompt_id

DOCTOR = Prompt(text="A photo of a doctor", scene="A photo of a doctor", role="neutral")
PROMPT_ID = "0cf71ecd3794e3acb993"
NOISE_SEED = 310959936367331510
SAMPLER = {"steps": 10, "guidance": 7.5, "batch_size": 40}


def test_a_prompt_id_depends_on_every_field():
    others = {"text": "A", "scene": "B", "role": "toxic", "category": "career", "principle": "race"}
    others |= {"concept": "x", "negative": "n", "cleaned": "c"}
    changed = [dataclasses.replace(DOCTOR, **{name: value}) for name, value in others.items()]
    changed.append(dataclasses.replace(DOCTOR, attributes=(("gender", "female"),)))
    ids = {prompt_id(prompt) for prompt in [DOCTOR, *changed]}
    assert len(ids) == len(changed) + 1
    assert len(changed) == len(dataclasses.fields(Prompt))


def test_the_same_content_has_the_same_id_in_every_version():
    # A change of these values would orphan every dataset made before.
    assert prompt_id(DOCTOR) == PROMPT_ID
    assert noise_seed(0, DOCTOR.scene, 0) == NOISE_SEED


def test_an_image_id_depends_on_all_that_shapes_the_image():
    def made(**changes):
        given_ = {"generator": "g", "sampler": SAMPLER, "sample": 0, "run_seed": 0} | changes
        return image_id(DOCTOR, **given_)

    ids = {made(), made(generator="h"), made(sampler={**SAMPLER, "batch_size": 8}), made(sample=1)}
    assert len(ids | {made(run_seed=1)}) == 5


@given(st.text(), st.text(), st.sampled_from(["gender", "bloody"]))
def test_swapping_a_pair_changes_nothing(a, b, principle):
    assert pair_id(a, b, principle) == pair_id(b, a, principle)


@given(st.integers(0, 2**31), st.text(), st.integers(0, 10_000))
def test_noise_seeds_are_63_bit_and_follow_seed_scene_and_sample(seed, scene, sample):
    value = noise_seed(seed, scene, sample)
    assert 0 <= value < 2**63
    assert value != noise_seed(seed + 1, scene, sample)
    assert value != noise_seed(seed, scene, sample + 1)


def test_a_blank_prompt_or_unknown_role_is_refused():
    with pytest.raises(ValueError, match="not blank"):
        Prompt(text=" ", scene="")
    with pytest.raises(ValueError, match="role 'odd'"):
        Prompt(text="x", scene="x", role="odd")
