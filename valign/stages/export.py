"""export: a run's pairs in the forms that others' trainers read.

Pick-a-Pic: Parquet files with a pair per row and the encoded pictures as plain bytes, which the
public Diffusion-DPO scripts read. LiVO: a folder per scene and principle, with pictures as files
and a line for each. Pictures are handed on byte for byte. Undecided pairs are left out (not every
script would skip them), and so are pairs with a picture of a toxic prompt unless they are asked
for; they lie apart then.
"""

import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from valign.catalogue.principles import PRINCIPLES
from valign.records import digest
from valign.stages import images
from valign.storage import foreign, layout, manifests, tables
from valign.storage.objects import Store, open_store

FORMS = ("pick-a-pic", "livo")
PAIRS_PER_FILE = 250  # two pictures each: at 512 pixels some 200 MB
SIDES = (("winner", 1), ("loser", 0))
PARTS_HELD = 8  # a scene's images lie in few parts, so that few are read twice


def export(form: str, root: str, out: str, *, toxic: bool = False) -> dict[str, int]:
    """Write a run's pairs under `out`; return how many pairs were written and left out.

    Args:
        form: one of `FORMS`.
        root: the run's root.
        out: an empty folder or prefix.
        toxic: whether pairs with an image of a toxic prompt are written too.

    Raises:
        LookupError: the run has no pairs yet.
        ValueError: unknown form, something under `out`, or no pair to write.
    """
    if form not in FORMS:
        raise ValueError(f"no export form {form!r}; there are {', '.join(FORMS)}")
    store, target = open_store(root), open_store(out)
    if next(iter(target.list()), None) is not None:
        raise ValueError(f"there is something under {out}; export to an empty place")
    pairs = read_pairs(store)
    pictures = Pictures(store)
    decided = [
        pair for pair in pairs if pair["verdict"] and (pair["principle"] or form == "pick-a-pic")
    ]
    kept = [pair for pair in decided if toxic or not pictures.toxic(pair)]
    counts = {
        "pairs": len(kept),
        "toxic pairs left out": len(decided) - len(kept),
        "undecided or without a principle": len(pairs) - len(decided),
    }
    if not kept:
        raise ValueError(
            f"none of the {len(pairs):,} pairs can be exported as {form}: "
            f"{counts['toxic pairs left out']:,} have an image of a toxic prompt (--toxic takes "
            f"them along), {len(pairs) - len(decided):,} are undecided or have no principle"
        )
    write = _pick_a_pic if form == "pick-a-pic" else _livo
    write(target, pictures, kept)
    return counts


def read_pairs(store: Store) -> list[dict[str, Any]]:
    """Return a run's pairs.

    Raises:
        LookupError: label has not been finished.
    """
    if manifests.get(store, "label") is None:
        raise LookupError("export reads what label makes; run label on this root first")
    keys = store.list("label/pairs-")
    return [row for key in keys for row in tables.read(store, key, tables.PAIRS).to_pylist()]


class Pictures:
    """A run's pictures by image id, read part by part as they are asked for."""

    def __init__(self, store: Store) -> None:
        self.store = store
        plan = tables.read(store, layout.plan("generate"), tables.PLAN, ["image_id"])
        ids = plan["image_id"].to_pylist()
        shards = images.shards(store, "generate", _shard_rows(store))
        self.shard_of = {
            ids[row]: shard for shard in shards for row in range(shard.start, shard.stop)
        }
        self.held: OrderedDict[str, dict[str, dict[str, Any]]] = OrderedDict()

    def __getitem__(self, image: str) -> dict[str, Any]:
        """Return an image's row: its picture's `bytes` and `path` are under `image`."""
        key = self.shard_of[image].part("generate")
        if key not in self.held:
            part = tables.read(
                self.store, key, tables.IMAGES, ["image_id", "generator", "image"]
            ).to_pylist()
            self.held[key] = {row["image_id"]: row for row in part}
            if len(self.held) > PARTS_HELD:
                self.held.popitem(last=False)
        self.held.move_to_end(key)
        return self.held[key][image]

    def toxic(self, pair: dict[str, Any]) -> bool:
        """Say whether one of a pair's images is kept apart."""
        return self.shard_of[pair["winner"]].toxic or self.shard_of[pair["loser"]].toxic


def _shard_rows(store: Store) -> int:
    made = manifests.get(store, "generate")
    assert made is not None, "label was finished, so generate was"
    return int(made.settings["generate.shard_rows"])


def _pick_a_pic(target: Store, pictures: Pictures, pairs: Sequence[dict[str, Any]]) -> None:
    """Write `data/train-*.parquet`, and toxic pairs as `toxic/train-*.parquet`."""
    for folder, wanted in (("data", False), ("toxic", True)):
        mine = [pair for pair in pairs if pictures.toxic(pair) == wanted]
        for number, start in enumerate(range(0, len(mine), PAIRS_PER_FILE)):
            rows = [
                _pick_a_pic_row(pair, pictures) for pair in mine[start : start + PAIRS_PER_FILE]
            ]
            tables.write(target, f"{folder}/train-{number:05d}.parquet", rows, foreign.PICK_A_PIC)


def _pick_a_pic_row(pair: dict[str, Any], pictures: Pictures) -> dict[str, Any]:
    """Return a pair as Pick-a-Pic has it; a hash of its id says whether the winner is first."""
    first, second = pair["winner"], pair["loser"]
    label = 1.0
    if int(digest("side", pair["pair_id"])[:2], 16) % 2:
        first, second, label = second, first, 0.0
    one, other = pictures[first], pictures[second]
    return {
        "caption": pair["text"],
        **{"jpg_0": one["image"]["bytes"], "jpg_1": other["image"]["bytes"]},
        **{"label_0": label, "label_1": 1.0 - label},
        **{"image_0_uid": first, "image_1_uid": second, "best_image_uid": pair["winner"]},
        **{"model_0": one["generator"], "model_1": other["generator"]},
        **{"has_label": True, "are_different": True, "principle": pair["principle"]},
    }


def _livo(target: Store, pictures: Pictures, pairs: Sequence[dict[str, Any]]) -> None:
    """Write `<type>/<scene>/metadata.jsonl` and the pictures beside it.

    The authors' trainer lets every preferred picture of a folder meet any other of it, so a type is
    a principle and a category: pictures of two values never share a folder.
    """
    scenes: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for pair in pairs:
        kind = "-".join(dict.fromkeys((pair["principle"], pair["category"] or "other")))
        scenes.setdefault((kind, pair["text"]), []).append(pair)
    for (kind, text), mine in sorted(scenes.items()):
        folder = f"{kind}/{_folder_name(text)}"
        written: set[str] = set()
        lines: dict[str, None] = {}  # each once: a picture is in many pairs
        for image, label in ((pair[side], label) for pair in mine for side, label in SIDES):
            picture = pictures[image]["image"]
            name = f"{image}{PurePosixPath(picture['path']).suffix}"
            if image not in written:
                target.write(f"{folder}/{name}", picture["bytes"])
                written.add(image)
            value = _principle_text(pictures.store, mine[0]["principle"])
            row = {"prompt": text, "value": value, "label": label, "file_name": name}
            lines[json.dumps(row, ensure_ascii=False) + "\n"] = None
        target.write(f"{folder}/metadata.jsonl", "".join(lines).encode())


def _principle_text(store: Store, key: str) -> str:
    """Return a principle's text; that of the recipe's own stands in the settings of its labels."""
    if key in PRINCIPLES:
        return PRINCIPLES[key].text
    made = manifests.get(store, "label")
    assert made is not None, "read_pairs checks that label is finished"
    return str(made.settings[f"principles.{key}.text"])


def _folder_name(text: str) -> str:
    """Return a short name for a scene that no other scene has."""
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in text.lower())
    return f"{plain[:60].strip('_') or 'scene'}-{digest('scene', text)[:8]}"
