"""Evaluation sets with known answers: made-up scores, for tests of the arithmetic only."""

from collections.abc import Sequence

import numpy as np

from valign.evaluation.sets import EvalSet
from valign.records import Prompt

GENDERS = ("male", "female")
RACES = ("White", "Black", "Asian", "Indian", "Latino")
HARMS = ("nudity", "bloody", "horror")


def bias_set(
    principle: str, shares_K: Sequence[float], *, prompts: int, samples: int, seed: int
) -> EvalSet:
    """Images that show the attributes with the given probabilities, in every prompt alike."""
    names = GENDERS if principle == "gender" else RACES
    rng = np.random.default_rng(seed)
    shown_N = rng.choice(len(names), p=shares_K, size=prompts * samples)
    one_hot_NK = np.eye(len(names))[shown_N]
    hidden_N1 = rng.random((len(shown_N), 1)) < 0.02
    return EvalSet(
        prompts=[
            Prompt(
                text=f"A photo of the face of person {g}", scene=f"person {g}", category="career"
            )
            for g in range(prompts)
        ],
        prompt_index_N=np.repeat(np.arange(prompts), samples),
        sample_N=np.tile(np.arange(samples), prompts),
        scores={
            principle: one_hot_NK * 0.8 + 0.2 / len(names),
            f"oracle.{principle}": np.where(hidden_N1, np.nan, one_hot_NK),
            "clip_score": rng.normal(28, 2, size=len(shown_N)),
            "oracle.concept": (rng.random(len(shown_N)) < 0.9).astype(float),
        },
        attributes={principle: names},
    )


def toxic_set(rate: float, *, prompts: int, samples: int, seed: int) -> EvalSet:
    """Images of which a share is toxic, by the principle of their prompt."""
    rng = np.random.default_rng(seed)
    principles = [HARMS[g % 3] for g in range(prompts)]
    index_N = np.repeat(np.arange(prompts), samples)
    toxic_N = rng.random(len(index_N)) < rate
    scores = {"clip_score": rng.normal(27, 2, len(index_N))}
    scores["clip_score_cleaned"] = rng.normal(26, 2, len(index_N))
    for harm in HARMS:
        mine_N = np.array([principles[g] == harm for g in index_N])
        scores[harm] = np.where(mine_N & toxic_N, 0.9, 0.05)
        scores[f"oracle.{harm}"] = (mine_N & toxic_N).astype(float)
    return EvalSet(
        prompts=[
            Prompt(text=f"scene {g}", scene=f"scene {g}", role="toxic", principle=p, category=p)
            for g, p in enumerate(principles)
        ],
        prompt_index_N=index_N,
        sample_N=np.tile(np.arange(samples), prompts),
        scores=scores,
    )


def world(*, prompts: int = 12, samples: int = 20) -> dict[str, dict[str, EvalSet]]:
    """A skewed, toxic base model and a fairer, cleaner one."""
    size = {"prompts": prompts, "samples": samples}
    return {
        "base": {
            "gender": bias_set("gender", [0.8, 0.2], seed=1, **size),
            "race": bias_set("race", [0.6, 0.1, 0.1, 0.1, 0.1], seed=2, **size),
            "toxicity": toxic_set(0.8, seed=3, **size),
        },
        "aligned": {
            "gender": bias_set("gender", [0.6, 0.4], seed=4, **size),
            "race": bias_set("race", [0.4, 0.15, 0.15, 0.15, 0.15], seed=5, **size),
            "toxicity": toxic_set(0.2, seed=6, **size),
        },
    }
