"""The report of an evaluation: choose pictures, draw, and write page, drawings and tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from valign.catalogue.principles import Principle
from valign.config import Run
from valign.evaluation import report, tables
from valign.evaluation.panels import Series, panels, svg_files
from valign.evaluation.pictures import Grid, Picture
from valign.evaluation.sets import TOXICITY_SET, EvalSet, own_principle_scores
from valign.records import TOXIC_ABOVE, Prompt, digest
from valign.stages import evaluate_sets, principles, score
from valign.stages.evaluate_sets import ImageSet
from valign.stages.images import PlannedImage
from valign.stages.scores import Scores
from valign.stages.train_log import read_metrics
from valign.stages.work import part_keys
from valign.storage import layout
from valign.storage import tables as stored
from valign.storage.objects import Store

PER_ROW = 8
CURVES = {"loss": "training loss", "implicit_accuracy": "pairs told apart"}
SCORES = {"clip_score": "CLIP score", "hpsv2": "HPSv2", "pickscore": "PickScore"}
SCORES |= {"aesthetic": "Aesthetic score"}


def write_report(
    store: Store,
    run: Run,
    results: Mapping[str, Any],
    image_sets: Sequence[ImageSet],
    scores: Scores,
) -> set[str]:
    """Write `evaluate/report.html`, its drawings and its tables; return the images it shows."""
    bias, toxic = (principles.chosen(run, kind) for kind in ("bias", "toxicity"))
    measured = evaluate_sets.evaluation_sets(image_sets, scores, bias, tuple(toxic))
    drawn = panels(results, _curves(store), histograms(measured))
    wanted = chosen(run, results, image_sets)
    ids = {row.image_id for each in wanted for side in each.sides for row in side}
    grids = _grids(run, wanted, read_pictures(store, ids), scores, results)
    settings = run.model_dump(mode="json", exclude={"root", "resources", "serve"})
    page = report.render(results, grids, settings, drawings=drawn)
    store.write(layout.REPORT, page.encode())
    store.write(layout.RESULTS_CSV, tables.table_csv(results).encode())
    for name, text in svg_files(drawn).items():
        store.write(f"{layout.FIGURES}/{name}.svg", text.encode())
    for name, text in tables.csv_files(results).items():
        store.write(f"{layout.TABLES}/{name}.csv", text.encode())
    return ids


def _curves(store: Store) -> dict[str, list[tuple[float, float]]]:
    log = read_metrics(store) if store.exists(layout.METRICS) else []
    return {
        label: [(row["step"], row[name]) for row in log if name in row]
        for name, label in CURVES.items()
    }


def histograms(measured: Mapping[str, Mapping[str, EvalSet]]) -> dict[str, Series]:
    """Return what scores are of -> model -> the scores of all its images of that kind."""
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for model, sets in measured.items():
        for name, images in sets.items():
            kind = "toxic prompts" if name == TOXICITY_SET else "prompts for people"
            kind = name if images.plain else kind
            columns = {SCORES[c]: images.scores[c] for c in SCORES if c in images.scores}
            if name == TOXICITY_SET and (own_N := own_principle_scores(images, "")) is not None:
                columns["Toxicity score"] = own_N
            for title, values in columns.items():
                place = found.setdefault(f"{title}: {kind}", {})
                place.setdefault(model, []).append(np.asarray(values))
    return {
        title: {model: np.concatenate(parts) for model, parts in series.items()}
        for title, series in found.items()
    }


class Shown:
    """A prompt to show: the images of each model, from the same noise column by column."""

    def __init__(self, name: str, prompt: Prompt, group: Sequence[ImageSet], *, worst: bool):
        self.name, self.prompt, self.worst = name, prompt, worst
        self.plain = group[0].plain
        self.models = [each.model for each in group]
        self.sides = [samples(each, prompt) for each in group]


def chosen(run: Run, results: Mapping[str, Any], image_sets: Sequence[ImageSet]) -> list[Shown]:
    """Return the first prompts of each set, then those on which the last model did worst."""
    by_name: dict[str, list[ImageSet]] = {}
    for images in image_sets:
        by_name.setdefault(images.name, []).append(images)
    found = []
    for name, group in by_name.items():
        asked = group[0].prompts
        first = shown(asked, name, run.evaluate.report_prompts)
        worst = [p for p in _worst(results, group[-1]) if p not in first]
        found += [Shown(name, prompt, group, worst=False) for prompt in first]
        found += [
            Shown(name, prompt, group, worst=True) for prompt in worst[: run.evaluate.report_worst]
        ]
    return found


def shown(prompts: Sequence[Prompt], name: str, count: int) -> list[Prompt]:
    """Return the first prompts, of each toxicity principle in turn."""
    if name != TOXICITY_SET:
        return list(prompts[:count])
    keys = dict.fromkeys(prompt.principle for prompt in prompts)
    each = max(1, count // len(keys))
    return [p for key in keys for p in [q for q in prompts if q.principle == key][:each]]


def _worst(results: Mapping[str, Any], images: ImageSet) -> list[Prompt]:
    """Return a set's prompts, the one on which the model did worst first; unknown ones left out."""
    metric, sign = f"bias.{images.name}.d2", -1
    if images.name == TOXICITY_SET:
        metric = "toxicity.avg_s"
    elif images.plain:
        metric, sign = f"prompts.{images.name}.clip_score", 1
    kept = results["per_prompt"]
    values = kept["values"][images.model].get(metric)
    if values is None:
        return []
    of = dict(zip(kept["prompts"], values, strict=True))
    known = [(of.get(digest(f"{p.category}: {p.text}")[:16]), p) for p in images.prompts]
    ranked = sorted((sign * value, p.text, p) for value, p in known if value is not None)
    return [p for _, _, p in ranked]


def read_pictures(store: Store, ids: set[str]) -> dict[str, bytes]:
    """Return the encoded images of these ids, whichever model made them."""
    found: dict[str, bytes] = {}
    for prefix in evaluate_sets.prefixes(store):
        for key in part_keys(store, f"{prefix}/images"):
            part = stored.read(store, key, stored.IMAGES, ["image_id", "image"])
            for row in part.to_pylist():
                if row["image_id"] in ids:
                    found[row["image_id"]] = row["image"]["bytes"]
    return found


def _grids(
    run: Run,
    wanted: Sequence[Shown],
    encoded: Mapping[str, bytes],
    scores: Scores,
    results: Mapping[str, Any],
) -> list[Grid]:
    row_of = {image: index for index, image in enumerate(scores["image_id"])}
    known, toxic = principles.known(run), tuple(principles.chosen(run, "toxicity"))
    grids = []
    for each in wanted:
        columns = [
            column
            for column in zip(*each.sides, strict=True)
            if all(row.image_id in encoded and row.image_id in row_of for row in column)
        ]
        if not columns:
            continue
        bias = None if each.plain else known.get(each.name)
        own = (each.prompt.principle,) if each.name == TOXICITY_SET else ()
        rows = {
            model: [
                Picture(
                    encoded[column[side].image_id],
                    _caption(column[side], bias, own, scores, row_of),
                    toxic=_blurred(column[side], own, toxic, scores, row_of),
                )
                for column in columns
            ]
            for side, model in enumerate(each.models)
        }
        grids.append(
            Grid(
                group=_heading(each),
                prompt=each.prompt.text,
                rows=rows,
                note=_note(each, results),
                category=_category(each),
                worst=each.worst,
            )
        )
    return grids


def samples(images: ImageSet, prompt: Prompt) -> Sequence[PlannedImage]:
    """Return the images of a prompt that are shown."""
    first = images.prompts.index(prompt) * images.samples
    return images.rows[first : first + min(PER_ROW, images.samples)]


def _heading(each: Shown) -> str:
    if each.name == TOXICITY_SET:
        return f"{each.prompt.principle.capitalize()} content"
    return f"Prompts of {each.name}" if each.plain else each.name.capitalize()


def _category(each: Shown) -> str:
    if each.plain:
        return each.prompt.concept
    return "" if each.name == TOXICITY_SET else each.prompt.category


def _note(each: Shown, results: Mapping[str, Any]) -> str:
    """Say which model's images have a token, where one has."""
    if each.name == TOXICITY_SET:
        return "The token is applied to every image."
    if each.plain:
        tokens = sorted({row.token for side in each.sides for row in side if row.token})
        return f"Calls for {', '.join(tokens)}." if tokens else "Calls for no principle."
    about = results["provenance"].get("models", {})
    drops = {model: about.get(model, {}).get("value_drop", {}) for model in each.models}
    said = [f"{drop[each.name]:.0%} of {m}’s images" for m, drop in drops.items()
            if each.name in drop]  # fmt: skip
    if not said:
        return ""
    return f"The token is applied to {', '.join(said)}; the others are the base model’s own."


def _toxic(
    row: PlannedImage, keys: Sequence[str], scores: Scores, row_of: Mapping[str, int]
) -> bool | None:
    """Say whether classifiers, or the oracle if there is one, find the image toxic; None: open."""
    found = [
        scores.scored[name][row_of[row.image_id], 0]
        for key in keys
        for name in (key, f"oracle.{key}")
        if name in scores.scored
    ]
    if any(value > TOXIC_ABOVE for value in found):
        return True
    return None if any(np.isnan(found)) else False


def _blurred(
    row: PlannedImage,
    own: Sequence[str],
    toxic: Sequence[str],
    scores: Scores,
    row_of: Mapping[str, int],
) -> bool:
    """Say whether to blur: what is toxic in any way, and of toxic prompts what is not known."""
    mine = bool(own) and _toxic(row, own, scores, row_of) is not False
    return mine or _toxic(row, toxic, scores, row_of) is True


def _caption(
    row: PlannedImage,
    bias: Principle | None,
    own: Sequence[str],
    scores: Scores,
    row_of: Mapping[str, int],
) -> str:
    read = ""
    if own:
        read = {True: ": toxic", False: ": clean", None: ": not readable"}[
            _toxic(row, own, scores, row_of)
        ]
    elif bias is not None:
        label = int(scores.classified(bias.key)[row_of[row.image_id]])
        read = f": {bias.attributes[label]}" if label >= 0 else ": not readable"
    else:
        fit = score.with_clip_metric(scores.scored).get(score.CLIP_SCORE)
        read = f": CLIP score {fit[row_of[row.image_id], 0]:.1f}" if fit is not None else ""
    token = f", {row.token} token" if row.token else ""
    return f"sample {row.sample}{read}{token}"
