"""The same-image promise: who makes an image, when, and in which shard changes no byte of it.

Another batch size is another identity; its pixels move by at most 1/255. Kills and restarts are in
`test_resume`, Ray's workers in `tests/on_ray`.
"""

import dataclasses

import numpy as np
import pytest

from tests import tiny_run
from valign import config
from valign.records import Prompt, image_id
from valign.stages import generate
from valign.stages.execute import execute
from valign.stages.generator import check, fingerprint_of, load_generator
from valign.stages.image_files import pixels
from valign.stages.inline import Inline
from valign.storage import layout, tables
from valign.storage.objects import open_store


class Shuffled(Inline):
    """Several workers that take shards in an order of their own."""

    def __init__(self, workers, order):
        self.workers, self.order = workers, order

    def map_shards(self, worker, args, shards, *more, **named):
        made = [worker(*args) for _ in range(self.workers)]
        for index, shard in enumerate(self.order(list(shards))):
            yield made[index % self.workers](shard)


def made(root):
    """Return (prompt, sample) -> row, of all images of a root."""
    store = open_store(str(root))
    rows = [
        row
        for key in store.list(layout.parts("generate"))
        for row in tables.read(store, key, tables.IMAGES).to_pylist()
    ]
    return {(row["prompt_id"], row["sample"]): row for row in rows}


def generated(recipe, root, *overrides, runner=None):
    execute(("generate",), tiny_run.load(recipe, root, *overrides), runner or Inline())
    return root


@pytest.mark.parametrize("workers", [1, 3])
def test_number_of_workers_and_order_of_shards_change_no_byte(recipe, finished, tmp_path, workers):
    runner = Shuffled(workers, order=lambda shards: shards[::-1])
    root = generated(recipe, tmp_path, runner=runner)
    expected = tiny_run.tree(finished)
    expected = {key: value for key, value in expected.items() if key.startswith("generate/")}
    assert len(expected) > 10
    assert tiny_run.tree(root) == expected


def test_the_size_of_shards_changes_no_byte_of_an_image(recipe, finished, tmp_path):
    expected, found = made(finished), made(generated(recipe, tmp_path, "generate.shard_rows=7"))
    assert found.keys() == expected.keys()
    assert all(found[key]["image"] == expected[key]["image"] for key in expected)


def test_another_batch_size_is_another_image_that_looks_the_same(recipe, finished, tmp_path):
    expected, found = made(finished), made(generated(recipe, tmp_path, "sampling.batch_size=5"))
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        assert found[key]["image_id"] != row["image_id"]
        assert found[key]["seed"] == row["seed"]
        moved = pixels(found[key]["image"]["bytes"]).astype(int) - pixels(row["image"]["bytes"])
        assert np.abs(moved).max() <= 1


@pytest.mark.parametrize(
    "override",
    [
        "sampling.scheduler=euler",
        "sampling.solver_order=1",
        "sampling.karras=true",
        "sampling.attention=math",
        "sampling.compile=true",
        "sampling.vae_tiling=true",
        "sampling.vae_slicing=true",
        "images.format=jpeg",
    ],
)
def test_whatever_changes_pixels_is_part_of_an_images_identity(recipe, tmp_path, override):
    prompt = Prompt(text="a hill", scene="a hill")
    runs = [tiny_run.load(recipe, tmp_path, *more) for more in ((), (override,))]
    plain, changed = (generate.planned(run, prompt, 0, "weights") for run in runs)
    assert plain.image_id != changed.image_id
    assert plain == dataclasses.replace(changed, image_id=plain.image_id)
    assert runs[0].fingerprint("generate", {}) != runs[1].fingerprint("generate", {})


def test_a_lossless_format_changes_files_and_not_identities(recipe, tmp_path):
    prompt = Prompt(text="a hill", scene="a hill")
    runs = [tiny_run.load(recipe, tmp_path, f"images.format={name}") for name in ("png", "webp")]
    plain, webp = (generate.planned(run, prompt, 0, "weights") for run in runs)
    assert plain.image_id == webp.image_id
    assert runs[0].fingerprint("generate", {}) != runs[1].fingerprint("generate", {})


def test_a_setting_that_is_new_renames_no_image(recipe, tmp_path):
    prompt = Prompt(text="a hill", scene="a hill")
    first = {"steps": 2, "guidance": 7.5, "size_px": None, "precision": "float32", "batch_size": 8}
    named = image_id(prompt, generator="weights", sampler=first, sample=0, run_seed=1)
    assert generate.planned(tiny_run.load(recipe, tmp_path), prompt, 0, "weights").image_id == named


def test_a_node_with_another_generator_makes_nothing(recipe, tmp_path):
    run = tiny_run.load(recipe, tmp_path)
    store = open_store(run.root)
    tables.write(store, layout.plan("generate"), {}, tables.PLAN)
    with pytest.raises(ValueError, match="give all nodes the same generator"):
        generate.Worker(run, run.root, "generate", "", "0" * 64)
    with pytest.raises(ValueError, match="give all nodes the same generator"):
        load_generator(run, "float32", expected="0" * 64)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("sampling.size_px=60", "multiples of 8"),
        ("sampling.solver_order=4", "Input should be 1, 2 or 3"),
        ("sampling.scheduler=plms", "dpmsolver"),
        ("generator_variant=fp16", "variant 'fp16'"),
        ("generator_config=x/y", "brings its own configs"),
        ("generator=/tmp/model.ckpt", "is a pickle"),
        ("generator_sha256=short", "generator_sha256"),
        ("images.quality=0", "images.quality"),
    ],
)
def test_settings_that_cannot_be_followed_stop_a_run_before_it_starts(
    recipe, tmp_path, override, told
):
    with pytest.raises(ValueError, match=told):
        generated(recipe, tmp_path / "root", override)
    assert not (tmp_path / "root").exists()


def test_a_generator_may_be_held_to_a_hash(recipe, tmp_path):
    run = tiny_run.load(recipe, tmp_path)
    held = run.model_copy(update={"generator_sha256": fingerprint_of(run)})
    check(held)
    other = run.model_copy(update={"generator_sha256": "0" * 64})
    with pytest.raises(ValueError, match=f"has sha256 {fingerprint_of(run)}"):
        check(other)
    assert config.load("miniature").generator_sha256 is None
