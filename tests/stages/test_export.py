"""Pairs in the forms of others: their scripts read what was labelled, picture by picture."""

import io
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny_run
from valign.stages.execute import execute
from valign.stages.export import export, read_pairs
from valign.stages.image_files import pixels
from valign.stages.inline import Inline
from valign.stages.work import part_keys
from valign.storage import layout, tables
from valign.storage.objects import open_store


def pictures_of(root):
    store = open_store(str(root))
    keys = part_keys(store, "generate")
    rows = [row for key in keys for row in tables.read(store, key, tables.IMAGES).to_pylist()]
    return {row["image_id"]: row["image"]["bytes"] for row in rows}


def loaded(tmp_path, files):
    """Return a Parquet dataset as the `datasets` library opens it, without a network."""
    import datasets

    return datasets.load_dataset(
        "parquet", data_files=[str(f) for f in files], split="train", cache_dir=str(tmp_path / "c")
    )


def chosen_first(examples):
    """Return (preferred, other) pixels and captions as Diffusion-DPO's scripts arrange them."""
    columns = [
        [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in examples[name]]
        for name in ("jpg_0", "jpg_1")
    ]
    both = zip(*columns, examples["label_0"], strict=True)
    turned = [(second, first) if label == 0 else (first, second) for first, second, label in both]
    return list(zip(turned, examples["caption"], strict=True))


@pytest.mark.parametrize("toxic", [False, True])
def test_diffusion_dpo_scripts_read_the_labelled_pairs(finished, tmp_path, toxic):
    out = tmp_path / "out"
    counts = export("pick-a-pic", str(finished), str(out), toxic=toxic)
    pairs = {pair["pair_id"]: pair for pair in read_pairs(open_store(str(finished)))}
    apart = {key for key, pair in pairs.items() if pair["principle"] == "nudity"}
    assert 0 < len(apart) < len(pairs)
    assert counts["pairs"] == len(pairs) - (0 if toxic else len(apart))
    files = sorted(out.rglob("*.parquet"))
    assert [f.parent.name for f in files] == ["data", "toxic"][: 1 + toxic]
    pictures = pictures_of(finished)
    read = [
        (winner.tobytes(), loser.tobytes(), caption)
        for (winner, loser), caption in chosen_first(loaded(tmp_path, files)[:])
    ]
    wanted = [
        (*(pixels(pictures[pair[side]]).tobytes() for side in ("winner", "loser")), pair["text"])
        for key, pair in pairs.items()
        if toxic or key not in apart
    ]
    assert sorted(read) == sorted(wanted)
    labels = loaded(tmp_path, files)["label_0"]
    assert set(labels) == {0.0, 1.0}  # the winner is not always the first


def test_an_export_is_imported_again_with_its_labels(recipe, finished, tmp_path):
    export("pick-a-pic", str(finished), str(tmp_path / "out"))
    run = tiny_run.load(
        recipe, tmp_path / "root", f"imports.source={tmp_path / 'out'}", "generate.shard_rows=16"
    )
    made = execute(("generate",), run, Inline())["generate"]
    pairs = [p for p in read_pairs(open_store(str(finished))) if p["principle"] != "nudity"]
    assert made.counts["labelled_pairs"] == made.counts["pairs"] == len(pairs)
    assert made.counts["quarantined"] == 0
    theirs, mine = pictures_of(finished), pictures_of(run.root)
    rows = tables.read(open_store(run.root), layout.candidates(), tables.CANDIDATES).to_pylist()
    ordered = [
        (row["first"], row["second"]) if row["human"] == 1 else (row["second"], row["first"])
        for row in rows
    ]
    assert sorted((mine[winner], mine[loser]) for winner, loser in ordered) == sorted(
        (theirs[pair["winner"]], theirs[pair["loser"]]) for pair in pairs
    )


def livo_trainer_reads(folder: Path):
    """Yield kind, caption, value, a preferred picture and another, as LiVO's trainer reads them."""
    for kind in sorted(folder.iterdir()):
        for scene in sorted(kind.iterdir()):
            lines = [json.loads(line) for line in (scene / "metadata.jsonl").open()]
            negative = [line["file_name"] for line in lines if line["label"] != 1]
            for line in lines:
                if line["label"] == 1:
                    other = random.Random(0).choice(negative)
                    both = [
                        Image.open(scene / n).convert("RGB") for n in (line["file_name"], other)
                    ]
                    yield kind.name, line["prompt"], line["value"], *map(np.asarray, both)


def test_livos_trainer_reads_every_preferred_picture_against_one_of_its_own_value(
    finished, tmp_path
):
    counts = export("livo", str(finished), str(tmp_path / "out"), toxic=True)
    pairs = read_pairs(open_store(str(finished)))
    assert counts["pairs"] == len(pairs)
    pictures = {key: pixels(data).tobytes() for key, data in pictures_of(finished).items()}
    values = {"gender": "gender equality", "nudity": "nudity content is considered inappropriate"}
    sides = {
        (side, pair["text"], values[pair["principle"]], pictures[pair[side]])
        for pair in pairs
        for side in ("winner", "loser")
    }
    read = list(livo_trainer_reads(tmp_path / "out"))
    assert {("winner", text, value, good.tobytes()) for _, text, value, good, _ in read} == {
        side for side in sides if side[0] == "winner"
    }
    assert {("loser", text, value, bad.tobytes()) for _, text, value, _, bad in read} <= sides
    assert {kind.split("-")[0] for kind, *_ in read} == {"gender", "nudity"}
    kinds = {kind: value for kind, _, value, *_ in read}
    assert len(kinds) == len({(kind, value) for kind, _, value, *_ in read})  # one value each
    export("livo", str(finished), str(tmp_path / "mild"))
    assert not [kind for kind in (tmp_path / "mild").iterdir() if "nudity" in kind.name]


def test_our_own_images_open_as_pictures(finished, tmp_path):
    files = sorted(finished.glob("generate/**/part-*.parquet"))
    opened = loaded(tmp_path, files)
    pictures = pictures_of(finished)
    assert len(opened) == len(pictures)
    for row in opened.select(range(0, len(opened), 5)):
        assert isinstance(row["image"], Image.Image)
        np.testing.assert_array_equal(
            np.asarray(row["image"].convert("RGB")), pixels(pictures[row["image_id"]])
        )


def test_what_cannot_be_exported_is_said(finished, tmp_path):
    with pytest.raises(ValueError, match="no export form 'csv'; there are pick-a-pic, livo"):
        export("csv", str(finished), str(tmp_path / "out"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("mine")
    with pytest.raises(ValueError, match="something under"):
        export("livo", str(finished), str(tmp_path / "full"))
    with pytest.raises(LookupError, match="run label on this root first"):
        export("livo", str(tmp_path / "none"), str(tmp_path / "out"))
    root = tmp_path / "toxic-only"
    shutil.copytree(finished, root)
    store = open_store(str(root))
    pairs = tables.read(store, layout.pairs(), tables.PAIRS)
    rows = [row for row in pairs.to_pylist() if row["principle"] == "nudity"]
    tables.write(store, layout.pairs(), rows, tables.PAIRS)
    with pytest.raises(ValueError, match=f"{len(rows)} have an image of a toxic prompt"):
        export("pick-a-pic", str(root), str(tmp_path / "out"))
