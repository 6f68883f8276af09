"""Importing what others made: the same parts as generate's, and a reason for every row left out."""

import json

import pyarrow as pa
import pytest
from PIL import Image

from tests import tiny_run
from tests.stages.foreign_sources import folder, pair, pick_a_pic, png
from tests.stages.hostile_pictures import HOSTILE, LIMIT
from valign.stages.execute import execute
from valign.stages.image_files import pixels
from valign.stages.inline import Inline
from valign.stages.work import part_keys
from valign.storage import layout, manifests, tables
from valign.storage.objects import open_store

ALL_BAD = "resources.max_bad_fraction=1"


def imported(recipe, root, source, *overrides):
    words = (f"imports.source={source}", "generate.shard_rows=4", ALL_BAD, *overrides)
    run = tiny_run.load(recipe, root, *words)
    execute(("generate",), run, Inline())
    return run, open_store(run.root)


def images_of(store):
    keys = part_keys(store, "generate")
    rows = [row for key in keys for row in tables.read(store, key, tables.IMAGES).to_pylist()]
    return {row["image_id"]: row for row in rows}


def labels_of(store):
    """Return (first picture, second picture, label) of every pair."""
    found = images_of(store)
    rows = tables.read(store, layout.candidates(), tables.CANDIDATES).to_pylist()
    return [
        (found[r["first"]]["image"]["bytes"], found[r["second"]]["image"]["bytes"], r["human"])
        for r in rows
        if {r["first"], r["second"]} <= found.keys()
    ]


def reasons(store):
    keys = store.list("generate/quarantine")
    rows = [r for key in keys for r in tables.read(store, key, tables.QUARANTINE).to_pylist()]
    return {(row["file"], row["row"]): row["reason"] for row in rows}


def test_pick_a_pic_gives_images_captions_and_labels(recipe, tmp_path):
    rows = [
        pair(1, 2, 1.0),
        pair(3, 1, 0.5),
        pair(4, 5, 0.0, "a boat"),
        pair(6, 7, None, "a boat"),
    ]
    source = pick_a_pic(tmp_path / "pickapic" / "train.parquet", rows)
    _, store = imported(recipe, tmp_path / "root", source.parent)
    wanted = [(1, 2, 1), (3, 1, 0), (4, 5, -1), (6, 7, None)]
    assert labels_of(store) == [(png(a), png(b), human) for a, b, human in wanted]
    found = images_of(store)
    assert len(found) == 7  # uid-1 came twice
    assert sorted(row["sample"] for row in found.values() if row["text"] == "a boat") == [
        0,
        1,
        2,
        3,
    ]
    assert {(row["role"], row["generator"]) for row in found.values()} == {("user", "imported")}
    manifest = manifests.get(store, "generate")
    assert (manifest.counts["images"], manifest.counts["pairs"]) == (7, 4)
    assert set(part_keys(store, "generate")) < set(manifest.parts)
    assert {layout.candidates(), layout.sources()} < set(manifest.parts)


def test_a_folder_of_pairs_with_a_csv(recipe, tmp_path):
    files = {"a/1.png": png(1), "a/2.png": png(2, (20, 12)), "3.png": png(3)}
    rows = [
        {"image_0": "a/1.png", "image_1": "a/2.png", "caption": "a tree", "label_0": "0"},
        {"image_0": "a/2.png", "image_1": "3.png", "caption": "a tree", "label_0": ""},
    ]
    _, store = imported(recipe, tmp_path / "root", folder(tmp_path / "mine", files, rows))
    assert labels_of(store) == [
        (png(1), png(2, (20, 12)), -1),
        (png(2, (20, 12)), png(3), None),
    ]


def test_ones_own_images_by_csv_jsonl_or_text_files(recipe, tmp_path):
    files = {"1.png": png(1), "2.png": png(2)}
    listed = [{"file_name": "1.png", "text": "a tree"}, {"file_name": "2.png", "text": "a cat"}]
    by_csv = folder(tmp_path / "csv", files, listed, "metadata.csv")
    by_jsonl = folder(tmp_path / "jsonl", files, listed)
    (by_jsonl / "pairs.csv").unlink()
    (by_jsonl / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in listed))
    by_text = folder(tmp_path / "text", files, listed)
    (by_text / "pairs.csv").unlink()
    (by_text / "1.txt").write_text("a tree\n")
    (by_text / "2.txt").write_text("a cat")
    for source in (by_csv, by_jsonl, by_text):
        _, store = imported(recipe, tmp_path / f"root-{source.name}", source)
        found = {row["text"]: row["image"]["bytes"] for row in images_of(store).values()}
        assert found == {"a tree": png(1), "a cat": png(2)}
        assert not store.exists(layout.candidates())


def test_an_import_is_resumed_repeated_and_refused_when_the_source_changes(
    recipe, tmp_path, capsys
):
    source = pick_a_pic(tmp_path / "s.parquet", [pair(i, i + 1, 1.0) for i in range(0, 12, 2)])
    run, store = imported(recipe, tmp_path / "root", source)
    before = tiny_run.tree(tmp_path / "root")
    execute(("generate",), run, Inline())
    assert "finished before" in capsys.readouterr().out
    for key in (layout.manifest("generate"), layout.marker("generate", 1)):
        store.delete(key)
    execute(("generate",), run, Inline())
    assert tiny_run.tree(tmp_path / "root") == before
    pick_a_pic(source, [pair(i, i + 1, 0.0) for i in range(0, 12, 2)])
    with pytest.raises(ValueError, match="the source's files was made anew"):
        execute(("generate",), run, Inline())


def test_every_hostile_row_is_quarantined_with_its_reason(recipe, tmp_path):
    good = pair(1, 2, 1.0)
    rows = [
        good,
        {**pair(3, 4, 1.0), "jpg_0": b""},
        {**pair(5, 6, 1.0), "jpg_1": png(6)[:200]},
        pair(7, 8, float("nan")),
        pair(9, 10, 0.3),
        pair(11, 12, 1.0, "   "),
        {**pair(13, 14, 1.0), "caption": None},
        pair(1, 2, 0.0),
        pair(15, 15, 1.0),
        pair(16, 17, 1.0, "a naked child"),
        {**pair(18, 19, 0.0), "jpg_0": None},
    ]
    source = tmp_path / "hostile"
    pick_a_pic(source / "a.parquet", rows)
    raw = pa.array([b"caf\xe9", b"ok"]).cast(pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())  # text that is not UTF-8
    pick_a_pic(source / "b.parquet", [pair(20, 21, 1.0), pair(22, 23, 1.0)], caption=text)
    pick_a_pic(source / "c.parquet", [pair(24, 25, 1.0)] * 2, caption=None)
    (source / "d.parquet").write_bytes(b"PAR1 and nothing else")
    _, store = imported(recipe, tmp_path / "root", source)
    found = reasons(store)
    expected = {
        ("a.parquet", 1): "zero bytes",
        ("a.parquet", 2): "truncated or damaged",
        ("a.parquet", 3): "the label is NaN",
        ("a.parquet", 4): "the label is 0.3, not 0, 0.5 or 1",
        ("a.parquet", 5): "empty",
        ("a.parquet", 6): "the caption is missing",
        ("a.parquet", 7): "the same pair as row 0 of a.parquet",
        ("a.parquet", 8): "both images have the same id",
        ("a.parquet", 9): "refused",
        ("a.parquet", 10): "there is no picture",
        ("b.parquet", 0): "not UTF-8",
        ("c.parquet", -1): "no column of captions",
        ("d.parquet", -1): "not a readable table",
    }
    assert found.keys() == expected.keys()
    assert all(part in found[key] for key, part in expected.items())
    assert labels_of(store) == [(png(1), png(2), 1), (png(22), png(23), 1)]
    counts = manifests.get(store, "generate").counts
    assert counts["refused"] == 1
    assert counts["quarantined"] == 3 + 2 * 8 + 2 + 1
    kept = b"".join(store.read(key) for key in store.list())
    assert b"naked child" not in kept


def test_every_hostile_picture_is_quarantined_and_the_others_come_in(recipe, tmp_path):
    files = {
        f"{number}/{file or 'a.png'}": (data, reason)
        for number, (data, file, reason) in enumerate(HOSTILE.values())
        if data is not None
    }
    files["good/a.png"] = (png(1), "")
    rows = [{"file_name": name, "caption": f"picture {name}"} for name in files]
    rows.append({"file_name": "none.png", "caption": "nothing"})
    source = folder(tmp_path / "mine", {name: data for name, (data, _) in files.items()}, rows)
    _, store = imported(recipe, tmp_path / "root", source, f"imports.max_pixels={LIMIT}")
    found = reasons(store)
    assert found.pop(("none.png", -1)) == "there is no picture of that name or in that cell"
    assert {name for name, _ in found} == files.keys() - {"good/a.png"}
    assert not [name for (name, _), reason in found.items() if files[name][1] not in reason]
    assert [row["text"] for row in images_of(store).values()] == ["picture good/a.png"]


def test_captions_that_are_not_utf8_are_refused_in_every_form(recipe, tmp_path):
    files = {f"{n}.png": png(n) for n in range(6)}
    by_csv = folder(tmp_path / "csv", files, [{"file_name": "0.png", "caption": "a hill"}])
    (by_csv / "pairs.csv").write_bytes(b"file_name,caption\n0.png,a hill\n1.png,caf\xe9\n")
    (by_csv / "b.tsv").write_bytes(b"file_name\tcaption\n2.png\tcaf\xe9\n")
    lines = b'{"file_name": "3.png", "caption": "caf\xe9"}\n[4]\n{"file_name": "4.png"}\n'
    (by_csv / "c.jsonl").write_bytes(lines)
    by_text = folder(tmp_path / "text", files, [{"x": "y"}])
    (by_text / "pairs.csv").unlink()
    (by_text / "0.txt").write_text("a hill")
    (by_text / "5.txt").write_bytes(b"caf\xe9")
    _, store = imported(recipe, tmp_path / "root-csv", by_csv)
    found = reasons(store)
    assert [row["text"] for row in images_of(store).values()] == ["a hill"]
    places = [("pairs.csv", 1), ("b.tsv", 0), ("c.jsonl", 0)]
    assert not [place for place in places if "not UTF-8" not in found.pop(place)]
    assert found == dict.fromkeys((("c.jsonl", 1), ("c.jsonl", 2)), "the caption is missing")
    _, store = imported(recipe, tmp_path / "root-text", by_text)
    found = reasons(store)
    assert [row["text"] for row in images_of(store).values()] == ["a hill"]
    assert "not UTF-8" in found.pop(("5.png", -1))
    assert set(found.values()) == {"there is no .txt file of the same name with its caption"}


def test_no_file_name_leads_out_of_the_folder(recipe, tmp_path):
    (tmp_path / "secret.png").write_bytes(png(9))
    files = {"1.png": png(1), "2.jpg": png(2)}
    names = ["1.png", "../secret.png", str(tmp_path / "secret.png"), "link.png", "2.jpg", "3.png"]
    rows = [{"image_id": n, "file": name, "caption": "a tree"} for n, name in enumerate(names)]
    rows.append({"image_id": 0, "file": "1.png", "caption": "a rock"})
    source = folder(tmp_path / "mine", files, rows)
    (source / "link.png").symlink_to(tmp_path / "secret.png")
    _, store = imported(recipe, tmp_path / "root", source)
    assert [row["image"]["bytes"] for row in images_of(store).values()] == [png(1)]
    found = reasons(store)
    assert "leads out" in found["pairs.csv", 1]
    assert "leads out" in found["pairs.csv", 2]
    assert "its id is also that of row 0" in found["pairs.csv", 6]
    assert "no picture" in found["link.png", -1]
    assert "says JPEG, but it holds PNG" in found["2.jpg", -1]
    assert "no picture" in found["3.png", -1]


def test_work_stops_when_too_much_is_bad_and_goes_on_when_more_is_allowed(recipe, tmp_path):
    rows = [pair(i, i + 1, 1.0) for i in range(0, 20, 2)]
    rows[3]["jpg_0"] = b"no picture"
    rows[5]["label_0"] = float("nan")
    source = pick_a_pic(tmp_path / "s.parquet", rows)
    words = (f"imports.source={source}", "generate.shard_rows=4")
    few = tiny_run.load(recipe, tmp_path / "root", *words, "resources.max_bad_fraction=0.14")
    with pytest.raises(
        ValueError, match=r"3 of 20 images could not be used.*max_bad_fraction=0.14"
    ):
        execute(("generate",), few, Inline())
    more = tiny_run.load(recipe, tmp_path / "root", *words, "resources.max_bad_fraction=0.15")
    made = execute(("generate",), more, Inline())["generate"]
    assert (made.counts["images"], made.counts["quarantined"]) == (17, 3)


def test_a_source_without_any_image_says_what_was_looked_for(recipe, tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column of pictures .* and captions .*; it has a, b"):
        imported(recipe, tmp_path / "root", tmp_path / "x.csv")


def test_toxic_captions_are_kept_apart(recipe, tmp_path):
    rows = [pair(1, 2, 1.0), pair(3, 4, 1.0, "a bloody corpse on the floor")]
    source = pick_a_pic(tmp_path / "s.parquet", rows)
    _, store = imported(recipe, tmp_path / "root", source)
    apart = [k for k in part_keys(store, "generate") if "/toxic/" in k]
    texts = [t for k in apart for t in tables.read(store, k, tables.IMAGES)["text"].to_pylist()]
    assert texts == ["a bloody corpse on the floor"] * 2


def test_a_run_of_ours_is_imported_with_its_ids_and_prompts(recipe, finished, tmp_path):
    _, store = imported(recipe, tmp_path / "root", finished)
    mine, theirs = images_of(store), images_of(open_store(str(finished)))
    assert mine == theirs


def test_imported_images_of_any_size_are_scored_and_encoded(recipe, tmp_path):
    files = {"1.png": png(1), "2.png": png(2, (40, 12)), "3.png": png(3, (9, 70))}
    rows = [
        {"image_0": "1.png", "image_1": "2.png", "caption": "a tree", "label_0": "1"},
        {"image_0": "3.png", "image_1": "2.png", "caption": "a tree", "label_0": "0"},
    ]
    source = folder(tmp_path / "mine", files, rows)
    run, store = imported(recipe, tmp_path / "root", source)
    execute(("score",), run, Inline())
    scored = tables.read_scores(store, layout.part("score", 0)).to_pylist()
    assert len(scored) == 3
    assert all(row["clip_score"][0] == row["clip_score"][0] for row in scored)
    assert Image.fromarray(pixels(png(2, (40, 12)))).size == (12, 40)
