"""The dataset's card: what was labelled, counted beside the paper's table, with plots and pictures.

In: scores, pairs, and what the label stage counted. Out: `label/README.md` and the files it shows.
Pictures of toxic prompts are linked, never shown inline. Equal datasets give equal bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valign.catalogue.principles import Principle, of_kind
from valign.evaluation.sets import READERS
from valign.records import TOXIC_ABOVE
from valign.stages import principles
from valign.stages.dataset_counts import COUNTED, any_paper, percent
from valign.stages.dataset_samples import Grid, write_grids
from valign.stages.scores import Scores
from valign.stages.work import Work
from valign.storage import layout

RULES = {
    "livo": "Preferred is what keeps to the principle (LiVO).",
    "vote": "Preferred is what the voters prefer (BalancedDPO).",
    "joint": "Images that keep to the principle met images that do not, and the voters, "
    "value conformity among them, decided.",
}


def write(
    work: Work, scores: Scores, columns: Mapping[str, list[Any]], counts: Mapping[str, Any]
) -> None:
    """Write the card, its plots and its sample grids."""
    toxicity = of_kind("toxicity", principles.known(work.run))
    plots = _plots(scores, columns, counts, toxicity)
    for name, svg in plots.items():
        work.store.write(f"label/{name}.svg", svg.encode())
    grids = write_grids(work.store, columns, _unfit(scores, toxicity), toxicity)
    text = render(work, scores, counts, list(plots), grids)
    work.store.write(layout.DATASET_CARD, text.encode())


def render(
    work: Work,
    scores: Scores,
    counts: Mapping[str, Any],
    plots: Sequence[str],
    grids: Sequence[Grid],
) -> str:
    """Return the card as Markdown."""
    run = work.run
    parts = [
        "# A preference dataset",
        f"{counts['pairs']:,} pairs of {len(scores):,} images, made by valign with "
        f"`{run.generator}`. {RULES[run.label.rule]}",
        "## Counts",
        _data_markdown(counts["data"]),
        *_bias_markdown(principles.chosen(run, "bias").values(), scores),
        *_value_markdown(counts["accounts"]),
        *_vote_markdown(run.label.vote.candidates, counts),
    ]
    if plots:
        parts += ["## Distributions", "\n".join(f"![{name}]({name}.svg)" for name in plots)]
    parts += [*_samples_markdown(grids), _READING, _LIMITS, "## Settings"]
    settings = {**run.settings("generate"), **run.settings("label")}
    parts.append("\n".join(f"- {name}: {value}" for name, value in settings.items()))
    return "\n\n".join(parts) + "\n"


_READING = """## Reading it

`pairs-00000.parquet` holds the pairs: `winner` and `loser` are image ids, `text` is the training
prompt. Where `verdict` is 0 nothing was decided, and there is nothing to learn from the order.
`ballots` and `differences` follow `voters`, and 1 is for the winner. The images are in
`../generate`:

```python
from datasets import load_dataset
images = load_dataset("parquet", data_files="generate/**/part-*.parquet")
```"""

_LIMITS = """## Limits

Two genders and five races are the LiVO paper's simplification of how people are, and the
classifiers that read them err. Images were made without a safety checker, on purpose: some show
what their prompts ask for. Black and constant images were left out. The data is for training models
away from what it shows."""


def _data_markdown(table: Sequence[Mapping[str, Any]]) -> str:
    headings = ["category", "prompts", "images", "neutral images", "pairs"]
    paper = any_paper(table)
    if paper:
        headings = [*headings, "paper: prompts", "images", "pairs"]
    rows = [
        [
            row["category"],
            *(f"{row[name]:,}" for name in COUNTED),
            *([f"{count:,}" for count in row["paper"] or ()] or ["", "", ""] if paper else []),
        ]
        for row in table
    ]
    return markdown(headings, rows)


def _bias_markdown(bias: Iterable[Principle], scores: Scores) -> list[str]:
    """Return how often the base model shows each attribute when nobody asks for one."""
    neutral = scores.take(np.flatnonzero(scores.equals("role", "neutral")))
    rows = []
    for principle in bias if len(neutral) else ():
        label_N = neutral.classified(principle.key)
        readable = max(int((label_N >= 0).sum()), 1)
        shares = (
            f"{name} {(label_N == i).sum() / readable:.1%}"
            for i, name in enumerate(principle.attributes)
        )
        rows.append([principle.key, ", ".join(shares), f"{(label_N < 0).sum():,}"])
    if not rows:
        return []
    return [
        "## What the base model shows",
        "Over all images of neutral prompts, as classified:",
        markdown(["principle", "shares", "unreadable"], rows),
    ]


def _value_markdown(accounts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            key,
            category,
            *(f"{entry[name]:,}" for name in ("images", "preferred", "dispreferred", "pairs")),
            "; ".join(
                f"{count:,} ({count / entry['images']:.1%}) {why}"
                for why, count in entry["skipped"].items()
            ),
        ]
        for key, categories in accounts.items()
        for category, entry in categories.items()
    ]
    if not rows:
        return []
    headings = ["principle", "category", "images", "preferred", "dispreferred", "pairs", "not used"]
    return ["## What became of the images", markdown(headings, rows)]


def _vote_markdown(candidates: str, counts: Mapping[str, Any]) -> list[str]:
    parts = []
    for key, votes in counts.get("votes", {}).items():
        dropped = "; ".join(f"{count:,} {why}" for why, count in votes["dropped"].items())
        decided = "; ".join(f"{count:,} by {what}" for what, count in votes["decided"].items())
        parts += [
            f"## The vote{f': {key}' if key else ''}",
            f"{votes['candidates']:,} pairs were voted on"
            + ("" if key else f" (candidates: {candidates})")
            + f". Decided: {decided or 'none'}. Undecided: {votes['undecided']:,}. "
            f"Dropped: {dropped or 'none'}. The vote was a tie in {percent(votes['tie_share'])}. "
            f"Two voters agree in {percent(votes['mean_agreement'])} of the pairs on which both "
            f"voted; verdict and person in {percent(votes['with_person'])}.",
            markdown(
                ["voter", "voted", "with the verdict", "with the person"],
                [[name, *map(percent, entry.values())] for name, entry in votes["voters"].items()],
            ),
            "How often two voters agree:",
            markdown(
                ["", *votes["voters"]],
                [
                    [name, *map(percent, row)]
                    for name, row in zip(votes["voters"], votes["agreement"], strict=True)
                ],
            ),
        ]
    return parts


def _samples_markdown(grids: Sequence[Grid]) -> list[str]:
    parts = ["## Samples", "Above: preferred. Below: what it was preferred to."]
    for grid in grids:
        prompts = "; ".join(f"“{text}”" for text in grid.prompts)
        if grid.toxic:
            parts.append(
                f"**{grid.title}**: toxic content, [open it only if you mean to]({grid.key})"
            )
        else:
            parts.append(f"**{grid.title}**: {prompts}\n\n![{grid.title}]({grid.key})")
    return parts


def _plots(
    scores: Scores,
    columns: Mapping[str, list[Any]],
    counts: Mapping[str, Any],
    toxicity: Sequence[str],
) -> dict[str, str]:
    """Return drawings by file name: a histogram per score of one value, and agreement matrices."""
    from valign.evaluation import figures

    row_of = {image: row for row, image in enumerate(scores["image_id"])}
    sides = {
        f"{side}s": np.array(
            [row_of[i] for i, v in zip(columns[side], columns["verdict"], strict=True) if v], int
        )
        for side in ("winner", "loser")
    }
    voting = {voter["name"] for voter in counts.get("voters", ())}
    drawn = {}
    for name, values_NK in scores.scored.items():
        if values_NK.ndim != 2 or values_NK.shape[1] != 1:
            continue
        value_N = values_NK[:, 0].astype(float)
        series: dict[str, NDArray[Any]] = {"all images": np.arange(len(value_N))}
        if name.removeprefix("oracle.") in toxicity:
            mine = scores.equals("principle", name.removeprefix("oracle."))
            series = {
                f"{role} prompts": np.flatnonzero(mine & scores.equals("role", role))
                for role in ("toxic", "cleaned")
            }
        elif name in voting:
            series = sides
        finite = {title: _finite(value_N[rows]) for title, rows in series.items()}
        if any(len(values) for values in finite.values()):
            drawn[f"scores-{name}"] = figures.histogram(finite, name=f"scores-{name}", label=name)
    for key, votes in counts.get("votes", {}).items():
        file = f"agreement-{key}" if key else "agreement"
        names = list(votes["voters"])
        drawn[file] = figures.matrix(votes["agreement"], names, name=file, label="Agreement")
    return drawn


def _unfit(scores: Scores, toxicity: Sequence[str]) -> set[str]:
    """Return the images that a classifier finds toxic, or cannot read."""
    named = {f"{reader}{key}" for reader in READERS for key in toxicity}
    found_N = np.zeros(len(scores), bool)
    for name in named & set(scores.scored):
        found_N |= ~(scores.values(name)[:, 0] <= TOXIC_ABOVE)
    return {scores["image_id"][row] for row in np.flatnonzero(found_N)}


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; everything but the first column is set to the right."""
    lines = [list(headings), ["---", *["---:"] * (len(headings) - 1)], *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    return values[np.isfinite(values)]
