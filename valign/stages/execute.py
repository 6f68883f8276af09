"""Execute stages of a run: skip what is finished, resume what is half done, commit what is new.

The one way in for the CLI, the jobs and the tests. A stage's manifest carries the fingerprint of
its settings and of the manifests it read; running over a root made with other settings is an error
that names them.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from valign import config
from valign.config import Run
from valign.records import digest
from valign.stages import encode, evaluate, generate, label, score, train
from valign.stages.work import Lines, Runner, Tell, Work
from valign.storage import layout, manifests
from valign.storage.manifests import Manifest
from valign.storage.objects import Store, open_store

DATASET = ("generate", "score", "label", "encode")
MODULES: dict[str, ModuleType] = {
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
        ValueError: the root holds results of other settings.
        RuntimeError: a shard could not be done.
    """
    store = store or open_store(run.root)
    work = Work(run, store.url, store, runner, tell or Lines())
    store.write(layout.RECIPE, config.dump(run).encode())
    return {verb: _stage(verb, work) for verb in verbs}


def dataset(run: Run) -> tuple[str, ...]:
    """Return the stages that make a dataset; prompts of a user's own are made and scored only."""
    return DATASET if run.prompts == "catalogue" else DATASET[:2]


def _stage(verb: str, work: Work) -> Manifest:
    module = MODULES[verb]
    upstream = {name: _finished(verb, name, work.store) for name in module.UPSTREAM}
    upstream["generator's weights"] = generate.fingerprint_of(work.run)
    fingerprint = work.run.fingerprint(verb, upstream)
    settings = work.run.settings(verb)
    found = manifests.begin(work.store, verb, fingerprint, settings, upstream)
    if found is not None:
        print(f"{verb}: finished before, nothing to do", flush=True)
        return found
    counts = module.perform(work)
    manifest = Manifest(
        stage=verb,
        fingerprint=fingerprint,
        settings=settings,
        upstream=upstream,
        parts=tuple(work.store.list(layout.parts(verb))),
        counts=counts,
    )
    manifests.commit(work.store, manifest)
    print(f"{verb}: {summary(counts)}", flush=True)
    return manifest


def _finished(verb: str, upstream: str, store: Store) -> str:
    manifest = manifests.get(store, upstream)
    if manifest is None:
        raise LookupError(f"{verb} reads what {upstream} makes; run {upstream} on this root first")
    return manifest.fingerprint


def summary(counts: dict[str, Any]) -> str:
    """Return a stage's counts as one line."""
    shown = (
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {', '.join(map(str, value))}"
        for name, value in counts.items()
        if value and isinstance(value, int | list)
    )
    return " · ".join(shown) or "done"


def run_id(run: Run) -> str:
    """Return a short name for a run, from everything its results depend on."""
    return digest("run", run.model_dump(mode="json", exclude={"root", "resources"}))[:12]
