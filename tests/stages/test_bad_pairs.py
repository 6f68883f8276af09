"""Pairs whose numbers are none: their steps are left out and named, and too many end a training."""

import re
import shutil

import numpy as np
import pytest

from tests import tiny_run
from valign.stages.execute import execute
from valign.stages.inline import Inline
from valign.stages.pair_arrays import pairs_for
from valign.stages.work import part_keys
from valign.storage import checkpoints, tables
from valign.storage.objects import open_store
from valign.train_settings import Train
from valign.training.order import batch_rows


@pytest.fixture
def spoilt(recipe, finished, tmp_path):
    """Spoil the latents of one image; return the root, and its pairs' ids by number of the step."""
    for stage in ("generate", "score", "label", "encode"):
        shutil.copytree(finished / stage, tmp_path / stage)
    run, store = tiny_run.load(recipe, tmp_path), open_store(str(tmp_path))
    pairs, size = pairs_for(store, Train()), run.train.global_batch
    batches = {
        step: batch_rows(
            len(pairs["pair_id"]), seed=run.training_seed, step=step, global_batch=size
        )
        for step in range(run.train.steps)
    }

    def met(image):
        rows = {step: [r for r in batch if image in (pairs["winner"][r], pairs["loser"][r])]
                for step, batch in batches.items()}  # fmt: skip
        return {step: {pairs["pair_id"][row] for row in found} for step, found in rows.items()
                if found}  # fmt: skip

    late = max(sorted({*pairs["winner"], *pairs["loser"]}), key=lambda image: min(met(image)))
    for key in part_keys(store, "encode"):
        columns = tables.read(store, key, tables.LATENTS).to_pydict()
        columns["latents"] = [
            np.full(len(data) // 2, np.nan, np.float16).tobytes() if image == late else data
            for image, data in zip(columns["image_id"], columns["latents"], strict=True)
        ]
        tables.write(store, key, columns, tables.LATENTS)
    return tmp_path, met(late)


def test_their_steps_are_left_out_and_their_ids_are_told(recipe, spoilt, capsys):
    root, bad = spoilt
    made = execute(("train",), tiny_run.load(recipe, root), Inline())["train"]
    assert made.counts["skipped"] == len(bad) > 0
    said = dict(re.findall(r"train: step (\d+) left out, .*; pairs (.*)", capsys.readouterr().out))
    assert {int(step) for step in said} == set(bad)
    for step, ids in bad.items():
        assert ids <= set(said[str(step)].split(", "))
        assert len(said[str(step)].split(", ")) == 4, "those of the whole batch"
    left = f"- steps left out, as their gradient was not finite: {len(bad)}\n"
    assert left in (root / "train/aligned/README.md").read_text()


def test_too_many_in_a_row_end_the_training_and_the_last_checkpoint_is_good(recipe, spoilt):
    root, bad = spoilt
    run = tiny_run.load(recipe, root, "train.max_skips_in_a_row=1", "train.save_every=1")
    with pytest.raises(FloatingPointError, match=f"up to step {min(bad) + 1} .*still good"):
        execute(("train",), run, Inline())
    last = checkpoints.latest(open_store(str(root)), "train")
    assert last is not None and last.step == min(bad) > 0
    assert all(np.isfinite(value).all() for value in last.tensors.values())
