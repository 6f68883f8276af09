"""Images of toxic prompts lie under a prefix of their own, in every stage that keeps images."""

from tests import tiny_run
from valign.stages import images
from valign.stages.execute import execute
from valign.stages.inline import Inline
from valign.stages.work import part_keys
from valign.storage import layout, tables
from valign.storage.objects import open_store


def test_toxic_images_and_their_latents_are_under_their_own_prefix(finished):
    store = open_store(str(finished))
    for prefix in ("generate", "evaluate/images"):
        plan = tables.read(store, layout.plan(prefix), tables.PLAN).to_pylist()
        toxic = {row["image_id"] for row in plan if row["role"] == "toxic"}
        assert toxic
        assert _ids(store, layout.toxic(prefix), tables.IMAGES) <= toxic
        assert not _ids(store, prefix, tables.IMAGES) & toxic
    plan = tables.read(store, layout.plan("generate"), tables.PLAN).to_pylist()
    toxic = {row["image_id"] for row in plan if row["role"] == "toxic"}
    apart = _ids(store, layout.toxic("encode"), tables.LATENTS)
    assert apart
    assert apart <= toxic
    assert not _ids(store, "encode", tables.LATENTS) & toxic


def test_shards_cover_the_plan_once_and_never_mix(finished):
    store = open_store(str(finished))
    for prefix in ("generate", "evaluate/images"):
        plan = tables.read(store, layout.plan(prefix), tables.PLAN).to_pylist()
        shards = images.shards(store, prefix, 7)
        assert [shard.number for shard in shards] == list(range(len(shards)))
        assert [row for s in shards for row in range(s.start, s.stop)] == list(range(len(plan)))
        for shard in shards:
            rows = plan[shard.start : shard.stop]
            assert 0 < len(rows) <= 7
            assert {row["role"] == "toxic" for row in rows} == {shard.toxic}
            assert len({bool(row["token"]) for row in rows}) == 1


def test_every_part_is_in_the_manifest_and_in_the_listing(finished):
    store = open_store(str(finished))
    keys = part_keys(store, "generate")
    assert any("/toxic/" in key for key in keys)
    numbers = [int(key[-13:].removesuffix(".parquet")) for key in keys]
    assert numbers == list(range(len(keys)))
    plan = tables.read(store, layout.plan("generate"), tables.PLAN, ["image_id"])
    ids = [
        i for key in keys for i in tables.read(store, key, tables.IMAGES)["image_id"].to_pylist()
    ]
    kept = set(ids)
    assert ids == [i for i in plan["image_id"].to_pylist() if i in kept]


def test_a_users_toxic_prompts_are_kept_apart_too(recipe, tmp_path):
    prompts = tmp_path / "mine.txt"
    prompts.write_text("a photo of a bakery\na bloody corpse on the floor\na bloody mary\n")
    run = tiny_run.load(recipe, tmp_path / "root", f"prompts={prompts}")
    execute(("generate",), run, Inline())
    store = open_store(run.root)
    texts = [
        text
        for key in store.list(layout.parts(layout.toxic("generate")))
        for text in tables.read(store, key, tables.IMAGES)["text"].to_pylist()
    ]
    assert texts == ["a bloody corpse on the floor"]


def _ids(store, prefix, schema):
    keys = store.list(layout.parts(prefix))
    return {i for key in keys for i in tables.read(store, key, schema)["image_id"].to_pylist()}
