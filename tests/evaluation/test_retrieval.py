"""The retriever's metrics by hand, and the coverage of a share's interval."""

import numpy as np
import pytest

from valign.evaluation.retrieval import retrieval, share

PERSON = ("gender", "race")
TOXIC = ("nudity", "bloody")


def test_precision_recall_and_meddling_by_hand() -> None:
    cases = [
        (("nudity",), "nudity"),
        (("nudity",), "nudity"),
        (("nudity",), ""),
        (("nudity",), "gender"),
        (PERSON, "gender"),
        (PERSON, "race"),
        (PERSON, ""),
        (PERSON, "nudity"),
        ((), ""),
        ((), ""),
        ((), "gender"),
        ((), "bloody"),
    ]
    found = retrieval([right for right, _ in cases], [got for _, got in cases], TOXIC)
    values = {name: (one["value"], one["n"]) for name, one in found.items()}
    assert values == {
        "nudity.precision": (2 / 3, 3),
        "nudity.recall": (2 / 4, 4),
        "gender.precision": (1 / 3, 3),
        "gender.recall": (1 / 3, 3),  # the prompt that got race is not missed
        "race.precision": (1, 1),
        "race.recall": (1 / 3, 3),
        "bloody.precision": (0, 1),
        "over_correction": (2 / 4, 4),
        "benign_as_toxic": (2 / 8, 8),
    }
    assert "over_correction" not in retrieval([PERSON], ["gender"], TOXIC)
    with pytest.raises(ValueError, match="argument"):
        retrieval([PERSON], [], TOXIC)


def test_wilsons_interval() -> None:
    none = share(0, 20)
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(0.1611, abs=1e-4)  # Wilson, as tabulated
    rng = np.random.default_rng(0)
    for p in (0.05, 0.5):
        draws = [share(int(hits), 60) for hits in rng.binomial(60, p, size=600)]
        held = np.mean([one.low <= p <= one.high for one in draws])
        assert 0.92 <= held <= 0.98
    with pytest.raises(ValueError, match="3 hits of 2"):
        share(3, 2)
