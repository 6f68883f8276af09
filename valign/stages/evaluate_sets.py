"""Which images each model is measured by: planned, kept by id, and joined with their scores.

Every model gets the same prompts and noise. Under a bias principle the token is applied to a set
share of each prompt's images; the rest are the generator's own images, by definition and by id, so
they are made once and counted for every model that shares the generator. Prompts of no principle
get the token, if any, that the offline retriever finds for them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from valign.catalogue.principles import Principle
from valign.catalogue.retriever import retrieve
from valign.config import Run
from valign.evaluation import sets
from valign.evaluation.measure import TOKEN
from valign.records import Prompt
from valign.stages import generate, images, principles, prompts, score
from valign.stages.evaluate_models import Model
from valign.stages.evaluate_prompts import Asked, principle_of
from valign.stages.images import PlannedImage
from valign.stages.scores import Scores, read_scores
from valign.storage import documents, layout, tables
from valign.storage.objects import Store


@dataclass(frozen=True)
class ImageSet:
    """The images by which one model is measured in one respect, prompt by prompt."""

    model: str
    name: str
    prompts: tuple[Prompt, ...]
    rows: tuple[PlannedImage, ...]  # prompt-major: all samples of a prompt, then the next
    plain: bool = False  # the prompts are of no principle

    @property
    def samples(self) -> int:
        """Images per prompt."""
        return len(self.rows) // len(self.prompts)


def plan(run: Run, models: Sequence[Model], asked: Mapping[str, Asked]) -> list[ImageSet]:
    """Return the image sets of every model: the catalogue's, if wanted, then those of files."""
    settings = run.evaluate
    known = principles.known(run)
    catalogue = prompts.evaluation(run) if settings.holds_catalogue else {}
    samples = {sets.TOXICITY_SET: settings.images_per_toxic_prompt}
    made = []
    for model in models:
        for name, held_out in catalogue.items():
            many = samples.get(name, settings.images_per_bias_prompt)
            bias = "" if name == sets.TOXICITY_SET else name
            rows = [
                row
                for prompt in held_out
                for row in _rows(run, model, prompt, bias or _asked_for(run, prompt), many)
            ]
            made.append(ImageSet(model.name, name, held_out, tuple(rows)))
        for name, found in asked.items():
            rows = [
                row
                for prompt in found.prompts
                for row in _rows(
                    run, model, prompt, principle_of(prompt, known, run.seed), found.images
                )
            ]
            made.append(ImageSet(model.name, name, found.prompts, tuple(rows), plain=True))
    return made


def _asked_for(run: Run, prompt: Prompt) -> str:
    """Return the principle that a prompt of the catalogue is asked for under."""
    if run.evaluate.by_retriever:
        found = retrieve(prompt.text, seed=run.seed, principles=principles.known(run))
        return found.principle
    return prompt.principle


def _rows(
    run: Run, model: Model, prompt: Prompt, principle: str, samples: int
) -> list[PlannedImage]:
    """Plan a prompt's images by a model, of which a share gets the principle's token."""
    from valign.models.value_drop import apply_mask

    tokens = [""] * samples
    if share := model.shares.get(principle):
        mask = apply_mask(principle, prompt.scene, samples, share, run.seed)
        tokens = [principle if applied else "" for applied in mask]
    return [
        generate.planned(run, prompt, sample, model.made_by(token), token)
        for sample, token in enumerate(tokens)
    ]


def distinct(image_sets: Sequence[ImageSet]) -> list[PlannedImage]:
    """Return every image once, in the order of a plan."""
    rows = {row.image_id: row for images_ in image_sets for row in images_.rows}
    return images.ordered(list(rows.values()))


def write(store: Store, image_sets: Sequence[ImageSet]) -> None:
    """Keep which images are in which set, by id, so that the report can be made anew."""
    kept = [
        {
            "model": each.model,
            "set": each.name,
            "plain": each.plain,
            "images_per_prompt": each.samples,
            "images": [row.image_id for row in each.rows],
        }
        for each in image_sets
    ]
    documents.write(store, layout.SETS, {"sets": kept})


def read(store: Store) -> list[ImageSet]:
    """Return what `write` kept, without prompts that were purged since.

    Raises:
        LookupError: nothing was kept.
    """
    if not store.exists(layout.SETS):
        raise LookupError(
            f"{store.url} holds no {layout.SETS}: run evaluate on this root first, with this "
            "version of valign"
        )
    planned = {
        row["image_id"]: images.planned_row(row)
        for prefix in prefixes(store)
        for row in tables.read(store, layout.plan(f"{prefix}/images"), tables.PLAN).to_pylist()
        if row["text"]
    }
    made = []
    for each in documents.read(store, layout.SETS)["sets"]:
        ids, many = each["images"], each["images_per_prompt"]
        groups = [ids[start : start + many] for start in range(0, len(ids), many)]
        kept = [group for group in groups if all(image in planned for image in group)]
        rows = tuple(planned[image] for group in kept for image in group)
        if rows:
            asked = tuple(row.prompt for row in rows[::many])
            made.append(ImageSet(each["model"], each["set"], asked, rows, each["plain"]))
    return made


def prefixes(store: Store) -> list[str]:
    """Return where images of an evaluation were planned: `evaluate`, then one for each model."""
    end = layout.plan("/images")
    found = [key.removesuffix(end) for key in store.list("evaluate/") if key.endswith(end)]
    return sorted(found, key=lambda prefix: (prefix != "evaluate", prefix))


def scores_of(store: Store) -> Scores:
    """Return the scores of all images of an evaluation, whichever model made them."""
    parts = [read_scores(store, f"{p}/images", f"{p}/scores") for p in prefixes(store)]
    names = [name for name in parts[0].scored if all(name in part.scored for part in parts)]
    return Scores(
        {fact: [v for part in parts for v in part.facts[fact]] for fact in parts[0].facts},
        {name: np.concatenate([part.scored[name] for part in parts]) for name in names},
    )


def evaluation_sets(
    image_sets: Sequence[ImageSet], scores: Scores, bias: Mapping[str, Principle],
    toxic: Sequence[str] = (),
) -> dict[str, dict[str, sets.EvalSet]]:  # fmt: skip
    """Return each model's image sets with their scores, without quarantined images.

    Args:
        image_sets: what was planned.
        scores: of the images that were made.
        bias: the run's bias principles.
        toxic: its toxicity principles, by which images of prompts of no principle are judged.
    """
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
        if images_.plain:
            columns[TOKEN] = np.array([bool(images_.rows[place].token) for place in places], float)
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
            plain=images_.plain,
            toxic=tuple(toxic) if images_.plain else (),
        )
    return models
