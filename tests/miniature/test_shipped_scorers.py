"""The shipped voters: loaded as the real ones are, and of use."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import valign.miniature
from valign.catalogue.concepts import concepts
from valign.catalogue.scenarios import neutral_prompt
from valign.miniature.renderer import render
from valign.miniature.scenes import Meaning, badge, draw
from valign.models.scorers import ScorerRef, load_scorers
from valign.records import Prompt

WEIGHTS = Path(valign.miniature.__file__).parent / "weights"
VOTERS = {"clip": "clip", "hpsv2": "hpsv2", "pickscore": "pickscore", "aesthetic": "aesthetic"}


@pytest.fixture(scope="module")
def pairs():
    """What the voters say of 60 well drawn emblems, and of the same ones drawn badly."""
    rng = np.random.default_rng(8)
    chosen = concepts(split="eval")[::9][:60]
    scenes = [draw(Meaning(person=1, **badge(c)), rng) for c in chosen]
    good = [replace(s, blur=0.2, missing=-1, harmony=0.9, dx=0, dy=0) for s in scenes]
    bad = [replace(s, blur=1.2, missing=1, harmony=0.1) for s in scenes]
    prompts = [Prompt(text=neutral_prompt(c), scene=neutral_prompt(c)) for c in chosen]
    group = load_scorers(
        [ScorerRef(name=n, kind=k, source=str(WEIGHTS / n)) for n, k in VOTERS.items()]
    )
    columns = group.score(np.stack([render(s) for s in [*good, *bad]]), prompts * 2)
    return {name: column.values.reshape(2, -1) for name, column in columns.items()}


@pytest.mark.parametrize("voter", ["hpsv2", "pickscore", "aesthetic"])
def test_a_voter_likes_what_is_well_drawn(pairs, voter):
    good_N, bad_N = pairs[voter]
    assert np.isfinite(pairs[voter]).all()
    assert (good_N > bad_N).mean() > 0.7


def test_the_voters_are_not_one_another(pairs):
    liked = [pairs[name][0] - pairs[name][1] for name in ("clip_score", *VOTERS) if name in pairs]
    assert len(liked) == 4
    apart = np.corrcoef(liked)[np.triu_indices(4, 1)]
    assert apart.max() < 0.98
