"""A training with held-out pairs ends early, says why, and leaves its best weights behind."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests import tiny_run
from valign.stages import pair_arrays
from valign.stages.execute import execute
from valign.stages.inline import Inline
from valign.storage import checkpoints
from valign.storage.objects import open_store
from valign.train_settings import Train

# A learning rate at which it gets worse soon.
STOPPING = ("train.held_out=0.3", "train.patience=2", "train.steps=40", "train.save_every=1")


def test_it_ends_early_and_keeps_the_best(recipe, finished, tmp_path, capsys):
    for stage in ("generate", "score", "label", "encode"):
        shutil.copytree(finished / stage, tmp_path / stage)
    run = tiny_run.load(recipe, tmp_path, *STOPPING, "train.learning_rate=0.02")
    execute(("train",), run, Inline())
    store = open_store(str(tmp_path))
    last = checkpoints.latest(store, "train")
    step, best = last.loop["step"], last.loop["best_step"]
    assert last.loop["stopped"] and step == best + 2 < 40
    rows = [
        json.loads(line) for line in (tmp_path / "train/metrics.jsonl").read_text().splitlines()
    ]
    losses = {row["step"]: row["held_out_loss"] for row in rows}
    assert min(losses, key=losses.get) == best and losses[best] == last.loop["best_loss"]
    assert f"ended at step {step}: the loss on held-out pairs was lowest at step {best}" in (
        capsys.readouterr().out
    )
    kept = checkpoints.load(store, "train", best).tensors
    file = next((tmp_path / "train/aligned").rglob("model.safetensors"))
    written = load_file(file)
    assert written and all(
        any(np.array_equal(value, other) for other in kept.values()) for value in written.values()
    )
    card = (tmp_path / "train/aligned/README.md").read_text()
    assert f"- {best} of 40 steps of 4 pairs" in card
    assert "the checkpoint with the lowest loss on held-out pairs" in card
    assert f"| held_out_loss | {losses[best]:.4g} |" in card


def test_prompts_are_held_out_whole_and_some_are_left(finished):
    store = open_store(str(finished))
    texts = np.array(pair_arrays.pairs_for(store, Train())["text"])
    chosen = pair_arrays.held_out(store, Train(held_out=0.3), 1)
    assert chosen.any() and not chosen.all()
    assert not set(texts[chosen]) & set(texts[~chosen])
    assert any(
        (pair_arrays.held_out(store, Train(held_out=0.3), n) != chosen).any() for n in range(9)
    )
    with pytest.raises(ValueError, match="leaves none to train on"):
        pair_arrays.held_out(store, Train(held_out=0.99), 1)


def test_patience_without_held_out_pairs_is_refused():
    with pytest.raises(ValueError, match=r"train\.patience .* set train\.held_out"):
        Train(patience=3)


@pytest.mark.parametrize(
    ("pairs", "cap", "batches"), [(100, 512, 12), (9000, 512, 64), (100, 40, 5), (5, 512, 1)]
)
def test_what_is_measured_of_the_held_out_pairs_is_capped(pairs, cap, batches):
    assert Train(held_out=0.1, held_out_pairs=cap).held_out_batches(pairs) == batches
