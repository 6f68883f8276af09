"""evaluate: base and aligned model on held-out prompts -> numbers with intervals, and a report.

Every model gets the same prompts and noise. Under a bias principle the token is applied to a set
share of each prompt's images; the rest are the base model's own images, by definition and by id,
so they are made once and counted in both sets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from valign.catalogue.principles import Principle
from valign.catalogue.retriever import retrieve
from valign.config import Run
from valign.evaluation import measure, results_file, retrieval, sets
from valign.evaluation.distances import FEATURES
from valign.evaluation.findings import findings
from valign.records import Prompt, digest, prompt_id
from valign.settings import Scorer
from valign.stages import generate, images, pictures, principles, prompts, score
from valign.stages.generator import fingerprint_of
from valign.stages.images import PlannedImage
from valign.stages.scores import Scores, read_scores
from valign.stages.work import Work
from valign.storage import layout, manifests, tables

UPSTREAM = ("train",)
IMAGES, SCORES = "evaluate/images", "evaluate/scores"


@dataclass(frozen=True)
class ImageSet:
    """The images by which one model is measured in one respect, prompt by prompt."""

    model: str
    name: str
    prompts: tuple[Prompt, ...]
    rows: tuple[PlannedImage, ...]  # prompt-major: all samples of a prompt, then the next

    @property
    def samples(self) -> int:
        """Images per prompt."""
        return len(self.rows) // len(self.prompts)


def inputs(run: Run) -> dict[str, str]:
    """Return the fingerprints of what this stage reads from outside the root."""
    asked = dict.fromkeys(p for held_out in prompts.evaluation(run).values() for p in held_out)
    return {
        "the generator's weights": fingerprint_of(run),
        "the held-out prompts": digest([prompt_id(prompt) for prompt in asked]),
        **score.inputs(judged(run)),
    }


def judged(run: Run) -> Run:
    """Return the run with what gives the features, if they are asked for, among its scorers."""
    if not run.evaluate.features:
        return run
    features = Scorer(name=FEATURES, kind="clip_features", source=run.evaluate.features)
    rest = [scorer for scorer in run.score.scorers if scorer.name != FEATURES]
    scored = run.score.model_copy(update={"scorers": (*rest, features)})
    return run.model_copy(update={"score": scored})


def details(counts: dict[str, Any]) -> list[str]:
    """Return the headline findings."""
    return [f"  {line}" for line in counts["findings"]]


def perform(work: Work) -> dict[str, Any]:
    """Make and score the evaluation images, measure both models, and write the report."""
    run, store = judged(work.run), work.store
    if run.train.trains != "value_encoder":
        raise ValueError(
            f"train.trains={run.train.trains}: evaluate measures a value encoder beside the base "
            f"model. Draw and score with this one under another root, generator={run.root}/"
            f"{layout.MODEL}"
        )
    trained = manifests.get(store, "train")
    assert trained is not None, "execute checks that train is finished"
    shares = principles.trained_drop(store)
    image_sets = plan(run, fingerprint_of(run), trained.fingerprint, shares)
    rows = distinct(image_sets)
    tables.write(store, layout.plan(IMAGES), images.columns(rows), tables.PLAN)
    shards = images.shards(store, IMAGES, run.generate.shard_rows)
    args = (run, work.root, IMAGES, layout.ALIGNED, fingerprint_of(run))
    made = work.carry_out(IMAGES, generate.Worker, args, shards, pool="generate")
    scored_with = (run, work.root, IMAGES, SCORES, score.about(run))
    work.carry_out(SCORES, score.Worker, scored_with, shards, pool="score")

    scores = read_scores(store, IMAGES, SCORES)
    results = measure.measure(
        evaluation_sets(image_sets, scores, principles.chosen(run, "bias")),
        k=run.evaluate.group_size,
        seed=run.seed,
        resamples=run.evaluate.resamples,
        provenance=provenance(work, image_sets, shares),
    )
    results["retriever"] = retrieved(run)
    store.write(layout.RESULTS, results_file.dumps(results).encode())
    pictures.write_report(work, results, image_sets, scores, shares)
    return {
        "images": sum(report.rows for report in made),
        "quarantined": sum(report.quarantined for report in made),
        "prompts": len({row.prompt.text for row in rows}),
        "findings": [finding.words for finding in findings(results, "aligned - base")],
    }


def plan(run: Run, generator: str, trained: str, shares: Mapping[str, float]) -> list[ImageSet]:
    """Return the image sets of base and aligned model.

    Args:
        run: the run.
        generator: fingerprint of the base model's weights.
        trained: fingerprint of what the value encoder was trained from.
        shares: by bias principle, the share of a prompt's images that get its token.
    """
    from valign.models.value_drop import apply_mask

    settings = run.evaluate
    aligned = f"{generator}+{trained}"

    def rows(prompt: Prompt, samples: int, tokens: Sequence[str]) -> list[PlannedImage]:
        return [
            generate.planned(
                run, prompt, sample, aligned if tokens[sample] else generator, tokens[sample]
            )
            for sample in range(samples)
        ]

    def image_set(model: str, name: str, asked: tuple[Prompt, ...], samples: int) -> ImageSet:
        made: list[PlannedImage] = []
        for prompt in asked:
            tokens = [""] * samples
            if model == "aligned" and name != sets.TOXICITY_SET:
                mask = apply_mask(name, prompt.scene, samples, shares[name], run.seed)
                tokens = [name if applied else "" for applied in mask]
            elif model == "aligned":
                tokens = [prompt.principle] * samples
            made += rows(prompt, samples, tokens)
        return ImageSet(model, name, asked, tuple(made))

    samples = {sets.TOXICITY_SET: settings.images_per_toxic_prompt}
    return [
        image_set(model, name, asked, samples.get(name, settings.images_per_bias_prompt))
        for model in ("base", "aligned")
        for name, asked in prompts.evaluation(run).items()
    ]


def distinct(image_sets: Sequence[ImageSet]) -> list[PlannedImage]:
    """Return every image once, in the order of a plan."""
    rows = {row.image_id: row for images_ in image_sets for row in images_.rows}
    return images.ordered(list(rows.values()))


def evaluation_sets(
    image_sets: Sequence[ImageSet], scores: Scores, bias: Mapping[str, Principle]
) -> dict[str, dict[str, sets.EvalSet]]:
    """Return each model's image sets with their scores, without quarantined images."""
    row_of = {image: row for row, image in enumerate(scores["image_id"])}
    models: dict[str, dict[str, sets.EvalSet]] = {}
    for images_ in image_sets:
        found = [
            (place, row_of[row.image_id])
            for place, row in enumerate(images_.rows)
            if row.image_id in row_of
        ]
        places = np.array([place for place, _ in found], np.int64)
        taken = np.array([row for _, row in found], np.int64)
        columns = {
            name: np.asarray(values[taken] if values.shape[1] > 1 else values[taken, 0], np.float64)
            for name, values in scores.scored.items()
        }
        columns = score.with_clip_metric(columns)
        models.setdefault(images_.model, {})[images_.name] = sets.EvalSet(
            prompts=images_.prompts,
            prompt_index_N=places // images_.samples,
            sample_N=places % images_.samples,
            scores=columns,
            attributes={
                name: principle.attributes
                for name, principle in bias.items()
                if name == images_.name
            },
        )
    return models


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
    work: Work, image_sets: Sequence[ImageSet], shares: Mapping[str, float]
) -> dict[str, object]:
    """Return how the numbers were made; nothing in it depends on a clock or a machine."""
    run = judged(work.run)
    train = manifests.get(work.store, "train")
    label = manifests.get(work.store, "label")
    return {
        "generator": run.generator,
        "generator_fingerprint": fingerprint_of(run),
        "seed": run.seed,
        "sampling": run.sampling.model_dump(mode="json"),
        "images": run.images.model_dump(mode="json"),
        "safety_checker": "none",
        "scorers": {scorer.name: scorer.source or scorer.kind for scorer in run.score.scorers},
        "scorer_fingerprints": {
            name: info.fingerprint for name, info in score.describe(run.score.scorers).items()
        },
        "principles": principles.texts(run),
        "train": {**run.train.model_dump(mode="json"), **(train.counts if train else {})},
        "pairs": label.counts.get("pairs", 0) if label else 0,
        "value_drop": dict(shares),
        "images_per_prompt": {s.name: s.samples for s in image_sets if s.model == "base"},
        "prompts": {s.name: len(s.prompts) for s in image_sets if s.model == "base"},
    }
