"""Execute stages of a run: skip what is finished, resume what is half done, commit what is new.

The one way in for the CLI, the jobs and the tests. A stage's manifest carries the fingerprint of
its settings and of the manifests it read; running over a root made with other settings is an error
that names them.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from valign import config
from valign.config import Run
from valign.stages import (
    driver,
    encode,
    evaluate,
    failures,
    generate,
    import_images,
    journal,
    label,
    purge,
    score,
    train,
)
from valign.stages.generator import check as check_generator
from valign.stages.work import Lines, Runner, Stage, Tell, Work
from valign.storage import layout, manifests
from valign.storage.manifests import Manifest
from valign.storage.objects import Store, open_store

DATASET = ("generate", "score", "label", "encode")
MODULES: dict[str, Stage] = {
    "generate": generate,
    "score": score,
    "label": label,
    "encode": encode,
    "train": train,
    "evaluate": evaluate,
}


def execute(
    verbs: Sequence[str],
    run: Run,
    runner: Runner,
    *,
    tell: Tell | None = None,
    store: Store | None = None,
) -> dict[str, Manifest]:
    """Perform the stages in order; return the manifest of each.

    Args:
        verbs: names of stages, from `config.STAGES`.
        run: the run.
        runner: who carries the work: `stages.inline.Inline()` or `on_ray.cluster.Cluster()`.
        tell: is told of progress; by default it prints a line every few seconds.
        store: the opened root, if it is not what `run.root` opens.

    Raises:
        LookupError: a stage that this one reads has not been finished.
        ValueError: the root holds results of other settings, another driver works on it, or a
            purge of it was interrupted.
        RuntimeError: a shard could not be done.
    """
    store = store or open_store(run.root)
    work = Work(run, store.url, store, runner, tell or Lines())
    if "evaluate" in verbs or ("generate" in verbs and not run.imports.source):
        check_generator(run)
    if "score" in verbs or ("evaluate" in verbs and run.evaluate.holds_catalogue):
        score.check(run)
    if "train" in verbs:
        train.check(run)
    with driver.holding(store):
        purge.check(store)
        return {verb: _stage(verb, work) for verb in verbs}


def dataset(run: Run) -> tuple[str, ...]:
    """Return the stages that make a dataset: of prompts of a user's own only a vote makes pairs."""
    labels = run.prompts == "catalogue" or run.label.rule == "vote"
    return DATASET if labels else DATASET[:2]


def module_of(verb: str, run: Run) -> Stage:
    """Return what performs a stage: an import stands in for generate."""
    return import_images if verb == "generate" and run.imports.source else MODULES[verb]


def _stage(verb: str, work: Work) -> Manifest:
    module, run, store = module_of(verb, work.run), work.run, work.store
    inputs = module.inputs(run)
    for earlier in config.STAGES[: config.STAGES.index(verb)]:
        _same_settings(earlier, verb, work)
        _same_inputs(earlier, verb, inputs, store)
    upstream = {name: _finished(verb, name, store) for name in module.upstream(run)} | inputs
    if verb == "generate":
        upstream |= purge.note(store)
    fingerprint, settings = run.fingerprint(verb, upstream), run.settings(verb)
    found = manifests.begin(store, verb, fingerprint, settings, upstream)
    if found is not None:
        since = f" ({found.counts['purged']:,} purged since)" if "purged" in found.counts else ""
        print(f"{verb}: finished before{since}, nothing to do", flush=True)
        return found
    store.write(layout.RECIPE, config.dump(run).encode())
    journal.note("begun", root=store.url, stage=verb)
    began = time.monotonic()
    with failures.noted(store, verb):
        counts = module.perform(work)
    manifest = Manifest(
        stage=verb,
        fingerprint=fingerprint,
        settings=settings,
        upstream=upstream,
        parts=tuple(sorted(filter(layout.is_result, store.list(f"{verb}/")))),
        counts=counts,
    )
    manifests.commit(store, manifest)
    numbers = {name: value for name, value in counts.items() if type(value) in (int, float)}
    seconds = round(time.monotonic() - began, 3)
    journal.note("finished", root=store.url, stage=verb, seconds=seconds, **numbers)
    told = [f"{verb}: {summary(counts)}", *module.details(counts)]
    told.append(structured(verb, fingerprint, counts, time.monotonic() - began))
    print("\n".join(told), flush=True)
    return manifest


def _same_settings(earlier: str, verb: str, work: Work) -> None:
    """Refuse to build on a stage that was made with other settings than this run's."""
    made = manifests.get(work.store, earlier)
    if made is None or made.settings == json.loads(json.dumps(work.run.settings(earlier))):
        return
    differing = manifests.differences(made, work.run.settings(earlier), made.upstream)
    raise ValueError(
        f"{verb} would build on {earlier}, which was made with other settings:\n  "
        + "\n  ".join(differing)
        + f"\nStart from recipe={work.run.root}/{layout.RECIPE}, or use another root."
    )


def _same_inputs(earlier: str, verb: str, inputs: Mapping[str, str], store: Store) -> None:
    """Refuse to build on a stage that read other weights under the same name."""
    made = manifests.get(store, earlier)
    if made is None:
        return
    for name in sorted(set(inputs) & set(made.upstream)):
        if made.upstream[name] != inputs[name]:
            raise ValueError(
                f"{verb} would build on {earlier}, and {name} changed since {earlier} was made: "
                "put back what was there, or use another root."
            )


def _finished(verb: str, upstream: str, store: Store) -> str:
    manifest = manifests.get(store, upstream)
    if manifest is None:
        raise LookupError(f"{verb} reads what {upstream} makes; run {upstream} on this root first")
    return manifest.fingerprint


def structured(verb: str, fingerprint: str, counts: dict[str, Any], seconds: float) -> str:
    """Return a stage's end as one line of JSON, for whoever collects logs.

    `seconds` are those of this call: a resumed stage counts all its images and not all its time.
    """
    numbers = {name: value for name, value in counts.items() if type(value) in (int, float)}
    line = {"stage": verb, "seconds": round(seconds, 3), **numbers, "fingerprint": fingerprint}
    return json.dumps(line)


def summary(counts: dict[str, Any]) -> str:
    """Return a stage's counts as one line."""
    shown = [f"{name} {value:,}" for name, value in counts.items() if value and type(value) is int]
    return " · ".join(shown) or "done"
