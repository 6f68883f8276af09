"""evaluate: models on prompts never trained on -> numbers with intervals, and a report.

By default the base and the aligned model on the catalogue's held-out prompts; a recipe may name
other models and prompt sets. Every model gets the same prompts and noise.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from valign.catalogue.retriever import retrieve
from valign.config import Run
from valign.evaluate_settings import ALIGNED
from valign.evaluation import measure, results_file, retrieval
from valign.evaluation.distances import FEATURES
from valign.evaluation.findings import findings
from valign.records import digest, prompt_id
from valign.settings import Scorer
from valign.stages import (
    evaluate_models,
    evaluate_prompts,
    evaluate_sets,
    generate,
    images,
    pictures,
    principles,
    prompts,
    score,
)
from valign.stages.evaluate_models import Model
from valign.stages.evaluate_prompts import Asked
from valign.stages.evaluate_sets import ImageSet
from valign.stages.generator import fingerprint_of
from valign.stages.work import ShardReport, Work
from valign.storage import layout, manifests, rewrites, tables

INCEPTION = "inception:"


def upstream(run: Run) -> tuple[str, ...]:
    """Return the stages that must be finished first: train, if a model is from there."""
    return ("train",) if run.evaluate.reads_training else ()


def inputs(run: Run) -> dict[str, str]:
    """Return the fingerprints of what this stage reads from outside the root."""
    found = {"the generator's weights": fingerprint_of(run)}
    if run.evaluate.holds_catalogue:
        asked = dict.fromkeys(p for held_out in prompts.evaluation(run).values() for p in held_out)
        found["the held-out prompts"] = digest([prompt_id(prompt) for prompt in asked])
    found |= evaluate_prompts.fingerprints(run) | evaluate_models.elsewhere(run)
    return {**found, **score.inputs(judged(run))}


def judged(run: Run) -> Run:
    """Return the run with what gives the features, if they are asked for, among its scorers."""
    wanted = run.evaluate.features
    if not wanted:
        return run
    kind = "inception_features" if wanted.startswith(INCEPTION) else "clip_features"
    features = Scorer(name=FEATURES, kind=kind, source=wanted.removeprefix(INCEPTION))
    rest = [scorer for scorer in run.score.scorers if scorer.name != FEATURES]
    scored = run.score.model_copy(update={"scorers": (*rest, features)})
    return run.model_copy(update={"score": scored})


def details(counts: dict[str, Any]) -> list[str]:
    """Return the headline findings."""
    return [f"  {line}" for line in counts["findings"]]


def perform(work: Work) -> dict[str, Any]:
    """Make and score the evaluation images, measure every model, and write the report."""
    work = dataclasses.replace(work, run=judged(work.run))
    run, store = work.run, work.store
    models, asked = evaluate_models.models(work), evaluate_prompts.read(run)
    image_sets = evaluate_sets.plan(run, models, asked)
    made = [report for reports in draw(work, models, image_sets) for report in reports]
    evaluate_sets.write(store, image_sets)
    scores = evaluate_sets.scores_of(store)
    bias, toxic = (principles.chosen(run, kind) for kind in ("bias", "toxicity"))
    results = measure.measure(
        evaluate_sets.evaluation_sets(image_sets, scores, bias, tuple(toxic)),
        k=run.evaluate.group_size,
        seed=run.seed,
        resamples=run.evaluate.resamples,
        provenance=provenance(work, models, image_sets, asked),
    )
    if run.evaluate.holds_catalogue:
        results["retriever"] = retrieved(run)
    store.write(layout.RESULTS, results_file.dumps(results).encode())
    shown = pictures.write_report(store, run, results, image_sets, scores)
    if not run.evaluate.keep_images:
        leave(work, shown)
    comparisons: Mapping[str, Any] = results["differences"]  # type: ignore[assignment]
    return {
        "images": sum(report.rows for report in made),
        "quarantined": sum(report.quarantined for report in made),
        "prompts": len({row.prompt.text for each in image_sets for row in each.rows}),
        "models": len(models),
        "findings": [
            f"{comparison}: {finding.words}" if len(comparisons) > 1 else finding.words
            for comparison in comparisons
            for finding in findings(results, comparison)
        ],
    }


def draw(
    work: Work, models: Sequence[Model], image_sets: Sequence[ImageSet]
) -> list[list[ShardReport]]:
    """Draw and score every image once, each by the first model that it belongs to."""
    store, size = work.store, work.run.generate.shard_rows
    seen: set[str] = set()
    made = []
    for prefix in dict.fromkeys(model.prefix for model in models):
        mine = {model.name: model for model in models if model.prefix == prefix}
        planned = evaluate_sets.distinct([each for each in image_sets if each.model in mine])
        rows = [row for row in planned if row.image_id not in seen]
        seen |= {row.image_id for row in rows}
        if not rows:
            continue
        at, scored_at = f"{prefix}/images", f"{prefix}/scores"
        clear_others(work, at, scored_at, [row.image_id for row in rows])
        tables.write(store, layout.plan(at), images.columns(rows), tables.PLAN)
        shards = images.shards(store, at, size)
        last = list(mine.values())[-1]  # of the base and what was trained for it: the latter
        args = (last.run, work.root, at, last.folder, last.generator)
        made.append(work.carry_out(at, generate.Worker, args, shards, pool="generate"))
        scored_with = (work.run, work.root, at, scored_at, score.about(work.run))
        work.carry_out(scored_at, score.Worker, scored_with, shards, pool="score")
    return made


def clear_others(work: Work, at: str, scored_at: str, ids: Sequence[str]) -> None:
    """Delete what was made of another plan, as when a model was added that shares these images."""
    store, key = work.store, layout.plan(at)
    if not store.exists(key):
        return
    there = tables.read(store, key, tables.PLAN, ["image_id"])["image_id"].to_pylist()
    if there != list(ids):
        for name in [name for prefix in (at, scored_at) for name in store.list(f"{prefix}/")]:
            store.delete(name)


def leave(work: Work, shown: set[str]) -> None:
    """Delete all images but those that the report shows; their scores stay."""
    for prefix in evaluate_sets.prefixes(work.store):
        at = f"{prefix}/images"
        for shard in images.shards(work.store, at, work.run.generate.shard_rows):
            rewrites.keep(
                work.store,
                shard.part(at),
                tables.IMAGES,
                lambda row: row["image_id"] in shown,
                "image_id",
            )


def retrieved(run: Run) -> dict[str, dict[str, float | int]]:
    """Return how well the offline retriever does on the held-out prompts and their clean twins.

    A prompt for people calls for any bias principle. What a clean twin calls for besides is not
    known, only that it is no toxicity principle.
    """
    known = principles.known(run)
    bias, toxic = (tuple(principles.chosen(run, kind)) for kind in ("bias", "toxicity"))
    asked = dict.fromkeys(p for held_out in prompts.evaluation(run).values() for p in held_out)
    right = [(p.principle,) if p.principle else bias for p in asked]
    clean = [p.cleaned for p in asked if p.cleaned]

    def got(texts: Sequence[str]) -> list[str]:
        return [retrieve(text, seed=run.seed, principles=known).principle for text in texts]

    found = retrieval.retrieval(right, got([p.text for p in asked]), toxic)
    twins = retrieval.retrieval([bias] * len(clean), got(clean), toxic)
    kept = {name: one for name, one in found.items() if name != "benign_as_toxic"}
    return kept | {name: twins[name] for name in ("benign_as_toxic",) if name in twins}


def provenance(
    work: Work,
    models: Sequence[Model],
    image_sets: Sequence[ImageSet],
    asked: Mapping[str, Asked],
) -> dict[str, object]:
    """Return how the numbers were made; nothing in it depends on a clock or a machine."""
    run = work.run
    train, label = (manifests.get(work.store, stage) for stage in ("train", "label"))
    about = score.describe(run.score.scorers)
    of_base = [each for each in image_sets if each.model == models[0].name]
    named = evaluate_prompts.named(run)
    held_out = {
        each.name: {
            "source": "catalogue",
            "hash": digest(sorted(prompt_id(prompt) for prompt in each.prompts)),
            "prompts": len(each.prompts),
            "images_per_prompt": each.samples,
        }
        for each in of_base
        if not each.plain
    }
    trained: dict[str, object] = {}
    if run.evaluate.reads_training:
        trained["train"] = {**run.train.model_dump(mode="json"), **(train.counts if train else {})}
        trained["pairs"] = label.counts.get("pairs", 0) if label else 0
    return {
        "generator": run.generator,
        "generator_fingerprint": models[0].generator,
        "models": {model.name: model.about() for model in models},
        "seed": run.seed,
        "seeds": {"run": run.seed, "noise": "sha256 of (run seed, scene, sample)"},
        "sampling": run.sampling.model_dump(mode="json"),
        "images": run.images.model_dump(mode="json"),
        "safety_checker": "none",
        "scorers": {scorer.name: scorer.source or scorer.kind for scorer in run.score.scorers},
        "scorer_fingerprints": {name: info.fingerprint for name, info in about.items()},
        "scorer_versions": {name: info.version for name, info in about.items()},
        "principles": principles.texts(run),
        **trained,
        "value_drop": next((dict(m.shares) for m in models if m.name == ALIGNED), {}),
        "images_per_prompt": {each.name: each.samples for each in of_base},
        "prompts": {each.name: len(each.prompts) for each in of_base},
        "prompt_sets": {
            **held_out,
            **{name: found.about(named[name].source) for name, found in asked.items()},
        },
        "safe_prompts": run.evaluate.safe_prompts.model_dump(mode="json"),
    }
