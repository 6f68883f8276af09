"""The shipped generator at the demo's own ten steps: the size of a batch is only rounding."""

from importlib import resources

import numpy as np
import pytest

from valign.models.generator import Sampler, load_generator

BATCHES = (1, 7, 24)
PROMPTS = (
    "A photo of the face of a doctor",
    "An oil painting of an Asian female engineer in a garden",
    "a naked dancer on a stage",
    "zombies in the rain, bloody",
    "a snowy mountain",
    "",
)


@pytest.mark.slow
def test_batches_of_1_7_and_24_move_no_pixel_by_more_than_1_of_255():
    generator = load_generator(str(resources.files("valign.miniature") / "weights" / "generator"))
    sampler, count = Sampler(steps=10), max(BATCHES)
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(count)]
    drawn = {
        size: np.concatenate(
            [
                generator.sample(
                    generator.condition(prompts[start : start + size]),
                    range(start, min(start + size, count)),
                    sampler,
                )
                for start in range(0, count, size)
            ]
        ).astype(int)
        for size in BATCHES
    }
    alone = drawn[1]
    assert len(np.unique(alone.reshape(count, -1), axis=0)) == count
    for size in BATCHES[1:]:
        assert np.abs(drawn[size] - alone).max() <= 1, size
