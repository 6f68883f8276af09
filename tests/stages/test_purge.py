"""What is purged is gone from every stage, what stays is whole, and no kill leaves a mixture."""

import itertools
import os
import shutil
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import crashing_store, tiny_run
from valign.stages.execute import DATASET, execute
from valign.stages.inline import Inline
from valign.stages.purge import DAY_S, finish, purge, select
from valign.storage import layout, manifests, tables
from valign.storage.objects import open_store


@pytest.fixture
def root(finished, tmp_path):
    """Return a copy of the finished run, of which the toxic prompts are purged in tests."""
    shutil.copytree(finished, tmp_path / "root")
    return tmp_path / "root"


def plan_of(root, prefix="generate"):
    return tables.read(open_store(str(root)), layout.plan(prefix), tables.PLAN).to_pylist()


def cells(root, *, without_plans=False):
    """Return every value of every table under a root, by the table's key."""
    found = {}
    for path in root.rglob("*.parquet"):
        if without_plans and path.name == "plan.parquet":
            continue
        table = pq.read_table(path)
        found[path.relative_to(root).as_posix()] = {
            value
            for column in table.columns
            if pa.types.is_string(column.type)
            for value in column.to_pylist()
        }
    return found


def rows_of(root, pattern):
    return [row for path in sorted(root.glob(pattern)) for row in pq.read_table(path).to_pylist()]


def test_a_principle_is_gone_from_every_table_and_the_rest_is_whole(recipe, finished, root, capsys):
    store = open_store(str(root))
    toxic = [row for row in plan_of(root) if row["principle"] == "nudity"]
    shown = [row for row in plan_of(root, "evaluate/images") if row["category"] == "nudity"]
    pairs = [row for row in rows_of(root, "label/pairs-*") if row["principle"] == "nudity"]
    assert toxic and shown and pairs
    for apart in (False, True):
        store.write(layout.sample(2, toxic=apart), b"a grid of prompts of the pairs")
    counts = purge(store, select(store, principle="nudity"))
    assert counts == {
        "images": len(toxic),
        "pairs": len(pairs),
        "evaluation images": len(shown),
    }
    gone = {row["image_id"] for row in (*toxic, *shown)}
    assert not [key for key, values in cells(root, without_plans=True).items() if values & gone]
    texts = {row[name] for row in (*toxic, *shown) for name in ("text", "scene", "cleaned")} - {""}
    assert not [key for key, values in cells(root).items() if values & texts]
    shows = (".html", ".md", ".png", ".svg")
    shown_in = [
        key for key in store.list() if key.startswith(("label/", "evaluate/", layout.SAMPLES))
    ]
    assert not [key for key in shown_in if key.endswith(shows)]
    words = [text.encode() for text in texts]
    assert not [key for key in store.list() if any(text in store.read(key) for text in words)]
    for pattern in ("generate/**/part-*", "score/part-*", "encode/part-*", "label/pairs-*"):
        before, after = rows_of(finished, pattern), rows_of(root, pattern)
        ids = [{row.get(name) for name in ("image_id", "winner", "loser")} for row in before]
        kept = [str(row) for row, named in zip(before, ids, strict=True) if not named & gone]
        assert [str(row) for row in after] == kept  # as texts, in which NaN equals NaN
        assert 0 < len(after) < len(before)
    for stage in (*DATASET, "evaluate"):
        parts = manifests.get(store, stage).parts
        assert parts and all(store.exists(key) for key in parts)
    run = tiny_run.load(recipe, root)
    execute(DATASET, run, Inline())
    assert f"generate: finished before ({len(toxic)} purged since)" in capsys.readouterr().out
    with pytest.raises(ValueError, match="label was made anew"):
        execute(("train",), run, Inline())
    shutil.rmtree(root / "train")
    made = execute(("train",), run, Inline())["train"]
    assert made.counts["pairs"] == len(rows_of(root, "label/pairs-*"))
    with pytest.raises(ValueError, match="nothing under .* fits"):
        select(store, principle="nudity")


def test_a_prompt_takes_its_whole_scene(root):
    store = open_store(str(root))
    scene = next(row["scene"] for row in plan_of(root) if row["role"] == "neutral")
    mine = [row for row in plan_of(root) if row["scene"] == scene]
    assert {row["role"] for row in mine} == {"neutral", "attribute"}
    counts = purge(store, select(store, prompt=scene))
    assert counts["images"] == len(mine)
    texts = {row["text"] for row in mine}
    assert not [key for key, values in cells(root).items() if values & texts]
    notes = store.read(layout.PURGED).decode()
    assert not [text for text in texts if text in notes]
    assert f'"images": {len(mine)}' in notes


def test_age_is_that_of_the_shards_markers(root):
    store, now_s = open_store(str(root)), time.time()
    old = root / layout.marker("generate", 1)
    os.utime(old, (now_s - 40 * DAY_S,) * 2)
    with pytest.raises(ValueError, match="nothing under .* fits"):
        select(store, older_than_days=41, now_s=now_s)
    selected = select(store, older_than_days=39, now_s=now_s)
    assert selected["gone"]["generate"] == [
        row["image_id"] for row in rows_of(root, layout.part("generate", 1))
    ]
    both = select(store, older_than_days=0, now_s=now_s + 1, principle="nudity")
    assert both["counts"] == select(store, principle="nudity")["counts"]


def test_two_purges_add_up(recipe, root, capsys):
    store = open_store(str(root))
    first = purge(store, select(store, principle="nudity"))
    scene = next(row["scene"] for row in plan_of(root) if row["role"] == "neutral")
    second = purge(store, select(store, prompt=scene))
    made = manifests.get(store, "generate")
    assert made.counts["purged"] == first["images"] + second["images"]
    execute(DATASET, tiny_run.load(recipe, root), Inline())
    assert capsys.readouterr().out.count("purged since") == 4


@pytest.mark.slow
def test_a_purge_killed_at_any_change_is_finished_to_the_same_bytes(recipe, root, tmp_path):
    wanted = tmp_path / "wanted"
    shutil.copytree(root, wanted)
    store = open_store(str(wanted))
    purge(store, select(store, principle="nudity"))
    for at in itertools.count(1):
        killed = tmp_path / f"killed-{at}"
        shutil.copytree(root, killed)
        code = purged_in_child(crashing_store.crashing_root(killed, at))
        store = open_store(str(killed))
        if code != 0:
            assert code == crashing_store.EXIT_CODE
            if store.exists(layout.PURGING):
                with pytest.raises(ValueError, match="a purge of .* was interrupted"):
                    execute(("train",), tiny_run.load(recipe, killed), Inline())
                finish(store)
            elif not store.exists(layout.PURGED):
                purge(store, select(store, principle="nudity"))
        left = {k: v for k, v in tiny_run.tree(killed).items() if not k.startswith("drivers/")}
        assert left == tiny_run.tree(wanted), f"killed before change {at}"
        shutil.rmtree(killed)
        if code == 0:
            break
    assert at > 20


def purged_in_child(root):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store = open_store(root)
            purge(store, select(store, principle="nudity"))
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_purge_needs_a_condition_and_a_run_that_is_whole(root):
    store = open_store(str(root))
    with pytest.raises(ValueError, match="a principle, a prompt or an age"):
        select(store)
    store.delete(layout.manifest("encode"))
    with pytest.raises(ValueError, match="encode was begun and not finished"):
        select(store, principle="nudity")
