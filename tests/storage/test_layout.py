"""Names are keys that every store can hold, and sort as numbers do."""

import pytest

from valign.storage import layout

NUMBERED = [layout.part, layout.quarantine, layout.marker]


@pytest.mark.parametrize("name", NUMBERED)
def test_shards_sort_by_number(name) -> None:
    keys = [name("evaluate/base-2", shard) for shard in (0, 9, 10, 99999)]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


def test_every_name_is_a_key() -> None:
    keys = [name("generate", 3) for name in (*NUMBERED, layout.checkpoint)]
    keys += [name("generate") for name in (layout.plan, layout.started, layout.manifest)]
    keys += [layout.attempt("generate", 3, 0), layout.pairs(), layout.RECIPE, layout.RESULTS]
    assert [layout.check_key(key) for key in keys] == keys
    assert len(set(keys)) == len(keys)


def test_names_start_with_what_lists_them() -> None:
    assert layout.part("score", 1).startswith(layout.parts("score"))
    assert layout.marker("score", 1).startswith(layout.markers("score"))
    assert layout.attempt("score", 1, 2).startswith(layout.attempts("score"))
    assert layout.checkpoint("train", 1).startswith(layout.checkpoints("train"))
