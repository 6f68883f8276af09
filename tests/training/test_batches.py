"""The order of the pairs, the ranks' shares of it, and the arrays on disk."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from valign.training import batches, order

SEEDS = st.integers(0, 2**63 - 1)


def rows_of(n: int, seed: int, steps: range, global_batch: int) -> np.ndarray:
    return np.concatenate(
        [batches.batch_rows(n, seed=seed, step=s, global_batch=global_batch) for s in steps]
    )


@given(n=st.integers(1, 60), global_batch=st.integers(1, 90), seed=SEEDS, epochs=st.integers(1, 3))
def test_every_pair_is_seen_once_per_epoch(n, global_batch, seed, epochs):
    steps = -(-n * epochs // global_batch)
    rows = rows_of(n, seed, range(steps), global_batch)
    for epoch in range(epochs):
        assert sorted(rows[epoch * n : (epoch + 1) * n]) == list(range(n))


@given(
    n=st.integers(1, 60),
    seed=SEEDS,
    step=st.integers(0, 10**9),
    global_batch=st.integers(1, 32),
    world_size=st.integers(1, 9),
)
def test_any_number_of_ranks_covers_the_same_global_batch(n, seed, step, global_batch, world_size):
    whole = batches.batch_rows(n, seed=seed, step=step, global_batch=global_batch)
    if world_size > global_batch:
        with pytest.raises(ValueError, match="fewer workers or a larger batch"):
            batches.rank_slice(global_batch, rank=0, world_size=world_size)
        return
    parts = [
        whole[batches.rank_slice(global_batch, rank=rank, world_size=world_size)]
        for rank in range(world_size)
    ]
    assert np.array_equal(np.concatenate(parts), whole)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@given(n=st.integers(1, 60), global_batch=st.integers(1, 32), seed=SEEDS, first=st.integers(0, 50))
def test_resuming_needs_nothing_but_the_step(n, global_batch, seed, first):
    whole = rows_of(n, seed, range(first + 4), global_batch)
    order._epoch_order.cache_clear()
    resumed = rows_of(n, seed, range(first, first + 4), global_batch)
    assert np.array_equal(resumed, whole[first * global_batch :])


def test_batch_size_cuts_one_order():
    assert np.array_equal(rows_of(50, 3, range(20), 5), rows_of(50, 3, range(10), 10))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(rows_of(40, seed, range(e, e + 1), 40)) for seed in (1, 2) for e in (0, 1)}
    assert len(orders) == 4


def test_a_callers_changes_do_not_reach_later_batches():
    before = batches.batch_rows(10, seed=1, step=0, global_batch=10)
    before[:] = -1
    assert batches.batch_rows(10, seed=1, step=0, global_batch=10).min() == 0


@pytest.mark.parametrize("wrong", [{"n": 0}, {"global_batch": 0}, {"step": -1}])
def test_impossible_batches_are_refused(wrong):
    with pytest.raises(ValueError, match="at least one pair"):
        batches.batch_rows(**({"n": 4, "seed": 0, "step": 0, "global_batch": 2} | wrong))


def test_source_returns_what_was_written(world):
    source = batches.PairSource(world.pairs)
    names = ("latents", "contexts", "value_ids", "pairs")
    latents, contexts, ids, pairs = (np.load(world.pairs / f"{name}.npy") for name in names)
    rows = np.array([5, 0, 5])
    batch = source.get(rows)
    winner, loser, prompt, value = pairs[rows].T
    assert np.array_equal(batch.latents_w_BCHW, latents[winner].astype(np.float32))
    assert np.array_equal(batch.latents_l_BCHW, latents[loser].astype(np.float32))
    assert np.array_equal(batch.context_BLD, contexts[prompt].astype(np.float32))
    length = batch.value_ids_BL.shape[1]
    assert np.array_equal(batch.value_ids_BL, ids[value, :length])
    assert (ids[value, length - 1 :] == ids[0, -1]).all(), "only padding is cut"
    assert batch.value_ids_BL.dtype is torch.int64
    assert len(source) == len(source.pair_ids) == len(pairs)
    assert source.pair_ids[3] == "pair-3"
    assert source.latent_shape == (4, 8, 8)


@pytest.mark.parametrize(
    ("ids", "length"),
    [
        ([8, 1, 2, 9, 9, 9], 4),  # CLIP: padded with the end token
        ([8, 1, 2, 9, 0, 0], 5),  # padded with another token
        ([8, 1, 2, 3, 4, 9], 6),  # full
        ([8, 1, 2, 2, 2, 9], 6),
        ([8, 9, 9, 9, 9, 9], 2),  # an empty text
        ([9, 9, 9, 9, 9, 9], 1),
    ],
)
def test_unpadded_lengths_keep_the_end_token(ids, length):
    assert batches.unpadded_lengths(np.array([ids])).tolist() == [length]


def arrays(**changes):
    return {
        "latents_NCHW": np.zeros((3, 4, 8, 8), np.float16),
        "contexts_MLD": np.zeros((2, 77, 8), np.float16),
        "value_ids_VL": np.zeros((2, 77), np.int32),
        "pairs_P4": np.array([[0, 1, 0, 0], [2, 1, 1, 1]]),
        "pair_ids": ["a", "b"],
    } | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs_P4": np.array([[0, 3, 0, 0], [0, 1, 0, 0]])}, "loser of a pair points to row 3"),
        ({"pairs_P4": np.array([[0, 1, 0, -1], [0, 1, 0, 0]])}, "value_text of a pair points to"),
        ({"pairs_P4": np.zeros((2, 3), np.int64)}, "shape"),
        ({"pairs_P4": np.zeros((0, 4), np.int64), "pair_ids": []}, "there are no pairs"),
        ({"pair_ids": ["a"]}, "2 pairs but 1 pair ids"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        batches.write_pair_source(tmp_path, **arrays(**changes))


def test_a_missing_file_names_the_stage_to_run(tmp_path):
    batches.write_pair_source(tmp_path, **arrays())
    (tmp_path / "contexts.npy").unlink()
    with pytest.raises(LookupError, match=r"contexts\.npy is missing: run the encode stage"):
        batches.PairSource(tmp_path)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_feeds_of_all_ranks_make_up_the_feed_of_one(world, world_size):
    source = batches.PairSource(world.pairs)
    settings = {"seed": 9, "global_batch": 7, "timesteps": 1000}
    whole, whole_noise, whole_t = batches.feed(source, **settings)(11)
    parts = [
        batches.feed(source, **settings, rank=rank, world_size=world_size)(11)
        for rank in range(world_size)
    ]
    assert torch.equal(torch.cat([p[1] for p in parts]), whole_noise)
    assert torch.equal(torch.cat([p[2] for p in parts]), whole_t)
    for field in ("latents_w_BCHW", "latents_l_BCHW", "context_BLD"):
        joined = torch.cat([getattr(p[0], field) for p in parts])
        assert torch.equal(joined, getattr(whole, field))


def test_steps_made_ahead_are_the_same_and_errors_come_through(world):
    source = batches.PairSource(world.pairs)
    feed = batches.feed(source, seed=5, global_batch=4, timesteps=1000)
    asked = []

    def batch_at(step):
        asked.append(step)
        if step == 9:
            raise ValueError("no such step")
        return feed(step)

    ready = batches.ahead(batch_at, 10)
    for step in (2, 3, 4, 7):  # 7: not the one that was made ahead
        for mine, theirs in zip(ready(step)[1:], feed(step)[1:], strict=True):
            assert torch.equal(mine, theirs)
    assert asked[:3] == [2, 3, 4]
    ready(8)
    with pytest.raises(ValueError, match="no such step"):
        ready(9)
