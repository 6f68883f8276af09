"""purge: delete what a run keeps of a principle, a prompt or an age, and leave a root that fits.

Images go from their parts, scores, pairs, latents and texts with them, and their prompts' texts
from the plans; the rest stays byte for byte readable. What was purged is noted in numbers, never by
content. Manifests are made anew along the chain, so that what was trained before a purge is seen to
be of other data. A purge that is interrupted is finished by the next; until then nothing runs here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from valign.records import digest
from valign.stages import driver, evaluate_sets, images
from valign.stages.work import Shard, part_keys
from valign.storage import documents, layout, manifests, rewrites, tables
from valign.storage.manifests import Manifest
from valign.storage.objects import Store

CHAIN = ("generate", "score", "label", "encode")
BLANKED = ("prompt_id", "text", "scene", "concept", "attributes", "negative", "cleaned")
PAIRED = ("winner", "loser", "principle")
SHOWS = (".png", ".jpg", ".webp", ".svg", ".html", ".md")  # pages and pictures made of the rows
NOTE = "what was purged"
DAY_S = 86_400

NOT_REACHED = (
    "Not reached: weights trained on what is gone (delete train/ and evaluate/ to train anew), "
    "exports, the source of an import, copies on nodes (VALIGN_CACHE), and older versions of "
    "objects if the bucket keeps them."
)


def check(store: Store) -> None:
    """Make sure that no purge is half done.

    Raises:
        ValueError: one was interrupted.
    """
    if store.exists(layout.PURGING):
        raise ValueError(
            f"a purge of {store.url} was interrupted; finish it first: valign purge {store.url}"
        )


def note(store: Store) -> dict[str, str]:
    """Return what a purge adds to the things that generate's result hangs on."""
    return {NOTE: digest(_ledger(store))} if store.exists(layout.PURGED) else {}


def select(
    store: Store,
    *,
    principle: str = "",
    prompt: str = "",
    older_than_days: float | None = None,
    now_s: float = 0.0,
) -> dict[str, Any]:
    """Return what a purge would remove: all that fits every condition given.

    Args:
        store: the run's root.
        principle: images of prompts that go against this principle, or that had its token, and the
            pairs under it.
        prompt: images of this text, and of all prompts of the scene that it names.
        older_than_days: images that were made longer ago, by the store's clock.
        now_s: the time now, in seconds since 1970.

    Raises:
        ValueError: no condition, nothing that fits, or a stage that was begun and not finished.
    """
    if not principle and not prompt and older_than_days is None:
        raise ValueError("say what to purge: a principle, a prompt or an age")
    _check_whole(store)
    found = {
        prefix: _fitting(
            store, prefix, principle, prompt, _older(store, prefix, older_than_days, now_s)
        )
        for prefix in ("generate", *_evaluated(store))
        if store.exists(layout.plan(prefix))
    }
    whole = principle if not prompt and older_than_days is None else ""
    gone = set(found.get("generate", ()))
    pairs = sum(
        not _stays(pair, gone, whole)
        for key in store.list("label/pairs-")
        for pair in tables.read(store, key, tables.PAIRS, PAIRED).to_pylist()
    )
    by = {"principle": principle, "prompt": bool(prompt), "older_than_days": older_than_days}
    counts = {
        "images": _made(store, "generate", found),
        "pairs": pairs,
        "evaluation images": sum(_made(store, prefix, found) for prefix in _evaluated(store)),
    }
    if not pairs and not any(found.values()):
        raise ValueError(f"nothing under {store.url} fits: there is nothing to purge")
    return {"by": by, "counts": counts, "principle": whole, "gone": found}


def purge(store: Store, selected: Mapping[str, Any]) -> dict[str, int]:
    """Remove what was selected, and return the counts.

    Raises:
        ValueError: a driver works on this root.
    """
    with driver.holding(store):
        documents.write(store, layout.PURGING, selected)
        return _finish(store)


def finish(store: Store) -> dict[str, int]:
    """Finish the purge that is under way; return its counts.

    Raises:
        LookupError: none is.
        ValueError: a driver works on this root.
    """
    with driver.holding(store):
        return _finish(store)


def _finish(store: Store) -> dict[str, int]:
    selected = documents.read(store, layout.PURGING)
    gone = set(selected["gone"].get("generate", ()))
    evaluated: set[str] = set()
    _drop_images(store, "generate", "score", gone)
    for prefix in _evaluated(store):
        mine = set(selected["gone"].get(prefix, ()))
        _drop_images(store, prefix, prefix.removesuffix("images") + "scores", mine)
        evaluated |= mine
    _drop_pairs(store, gone, selected["principle"])
    _drop_encoded(store)
    shown = ["label/", f"{layout.SAMPLES}/"] * bool(gone or selected["principle"])
    shown += ["evaluate/"] * bool(evaluated)
    for key in [key for prefix in shown for key in store.list(prefix)]:
        if key.endswith(SHOWS):
            store.delete(key)
    entry = {
        "by": selected["by"],
        "counts": selected["counts"],
        "digest": digest(sorted(gone), sorted(evaluated), selected["principle"]),
    }
    ledger = [old for old in _ledger(store) if old["digest"] != entry["digest"]]
    documents.write(store, layout.PURGED, {"purges": [*ledger, entry]})
    _chain(store)
    store.delete(layout.PURGING)
    return dict(selected["counts"])


def _evaluated(store: Store) -> list[str]:
    """Return the prefixes of the images of all models that were evaluated."""
    return [f"{prefix}/images" for prefix in evaluate_sets.prefixes(store)]


def _ledger(store: Store) -> list[dict[str, Any]]:
    known = store.exists(layout.PURGED)
    return list(documents.read(store, layout.PURGED)["purges"]) if known else []


def _check_whole(store: Store) -> None:
    for stage in (*CHAIN, "evaluate"):
        if store.exists(layout.started(stage)) and not store.exists(layout.manifest(stage)):
            raise ValueError(
                f"{stage} was begun and not finished: finish it, or delete {stage}/, then purge"
            )


def _fitting(
    store: Store, prefix: str, principle: str, prompt: str, old: set[str] | None
) -> list[str]:
    """Return the ids of a plan's images that fit; those purged before have no text any more."""
    wanted = ("image_id", "text", "scene", "principle", "token", "category")
    columns = tables.lists(tables.read(store, layout.plan(prefix), tables.PLAN, wanted))
    return [
        image
        for image, text, scene, *named in zip(*columns.values(), strict=True)
        if text
        and (not principle or principle in named)
        and (not prompt or prompt in (text, scene))
        and (old is None or image in old)
    ]


def _made(store: Store, prefix: str, found: Mapping[str, Sequence[str]]) -> int:
    """Return how many of the found images were made, not quarantined."""
    quarantined = {
        image
        for key in store.list(f"{prefix}/quarantine-")
        for image in tables.read(store, key, tables.QUARANTINE)["image_id"].to_pylist()
    }
    return sum(image not in quarantined for image in found.get(prefix, ()))


def _older(store: Store, prefix: str, days: float | None, now_s: float) -> set[str] | None:
    """Return the images of shards that were done longer ago, by their markers; None: not asked."""
    if days is None:
        return None
    ids = tables.read(store, layout.plan(prefix), tables.PLAN, ["image_id"])["image_id"].to_pylist()
    old = [
        shard
        for shard in _shards(store, prefix)
        if now_s - store.modified_s(layout.marker(prefix, shard.number)) > days * DAY_S
    ]
    return {ids[row] for shard in old for row in range(shard.start, shard.stop)}


def _shards(store: Store, prefix: str) -> list[Shard]:
    made = manifests.get(store, "generate") or manifests.get(store, "evaluate")
    assert made is not None, "nothing is purged before a stage is finished"
    return images.shards(store, prefix, int(made.settings["generate.shard_rows"]))


def _drop_images(store: Store, prefix: str, scores: str, gone: set[str]) -> None:
    """Remove images and their scores from their parts, and their texts from the plan."""
    if not gone:
        return
    plan = tables.read(store, layout.plan(prefix), tables.PLAN, ["image_id"])
    ids = plan["image_id"].to_pylist()

    def stays(row: dict[str, Any]) -> bool:
        return row["image_id"] not in gone

    for shard in _shards(store, prefix):
        if gone.isdisjoint(ids[shard.start : shard.stop]):
            continue
        rewrites.keep(store, shard.part(prefix), tables.IMAGES, stays, "image_id")
        if store.exists(scored := layout.part(scores, shard.number)):
            rewrites.keep(store, scored, tables.SCORES, stays, "image_id")
    if prefix == "generate" and store.exists(layout.candidates()):
        rewrites.keep(
            store,
            layout.candidates(),
            tables.CANDIDATES,
            lambda row: gone.isdisjoint(row.values()),
            *("first", "second"),
        )
    if prefix == "generate" and store.exists(layout.sources()):
        rewrites.redact(store, layout.sources(), tables.SOURCES, gone.__contains__, ["file"])
    rewrites.redact(store, layout.plan(prefix), tables.PLAN, gone.__contains__, BLANKED)


def _stays(pair: Mapping[str, Any], gone: set[str], principle: str) -> bool:
    named = bool(principle) and pair["principle"] == principle
    return not named and pair["winner"] not in gone and pair["loser"] not in gone


def _drop_pairs(store: Store, gone: set[str], principle: str) -> None:
    for key in list(store.list("label/pairs-")):
        rewrites.keep(
            store,
            key,
            tables.PAIRS,
            lambda pair: _stays(pair, gone, principle),
            *PAIRED,
        )


def _drop_encoded(store: Store) -> None:
    """Remove latents and texts that no pair needs any more."""
    used: set[str] = set()
    texts: set[tuple[str, str]] = set()
    for key in store.list("label/pairs-"):
        for pair in tables.read(store, key, tables.PAIRS, (*PAIRED, "text")).to_pylist():
            used |= {pair["winner"], pair["loser"]}
            texts.add((pair["principle"], pair["text"]))
    for key in part_keys(store, "encode"):
        rewrites.keep(store, key, tables.LATENTS, lambda row: row["image_id"] in used, "image_id")
    for key in part_keys(store, "encode/texts"):
        rewrites.keep(
            store,
            key,
            tables.TEXTS,
            lambda row: (row["principle"], row["text"]) in texts,
            *("principle", "text"),
        )


def _chain(store: Store) -> None:
    """Make the manifests of the dataset's stages anew, each from the one before."""
    ledger = _ledger(store)
    total = {name: _total(ledger, name) for name in ("images", "pairs", "evaluation images")}
    fingerprints: dict[str, str] = {}
    for stage in CHAIN:
        made = manifests.get(store, stage)
        if made is None:
            break
        upstream = {name: fingerprints.get(name, old) for name, old in made.upstream.items()}
        if stage == "generate":
            upstream[NOTE] = digest(ledger)
        fingerprints[stage] = digest("stage", stage, dict(made.settings), upstream)
        purged = total["images"] if stage in ("generate", "score") else total["pairs"]
        anew = replace(
            made,
            upstream=upstream,
            fingerprint=fingerprints[stage],
            parts=_there(store, made),
            counts={**made.counts, "purged": purged},
        )
        begun = replace(anew, parts=(), counts={})
        store.write(layout.started(stage), begun.to_json())
        manifests.commit(store, anew)
    evaluated = manifests.get(store, "evaluate")
    if evaluated is not None and total["evaluation images"]:
        counts = {**evaluated.counts, "purged": total["evaluation images"]}
        parts = _there(store, evaluated)
        manifests.commit(store, replace(evaluated, parts=parts, counts=counts))


def _there(store: Store, made: Manifest) -> tuple[str, ...]:
    keys = set(store.list(f"{made.stage}/"))
    return tuple(key for key in made.parts if key in keys)


def _total(ledger: Iterable[Mapping[str, Any]], name: str) -> int:
    return sum(entry["counts"][name] for entry in ledger)
