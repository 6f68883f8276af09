"""The commands that read results: `valign compare`, `valign report` and `valign ratings`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from valign.terminal import readable_errors

app = typer.Typer()
console = Console()

FailIf = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-if",
        metavar="CONDITION",
        help="End with exit code 1 if the results are so, as in 'toxicity.avg_r > 0.05'. "
        "[MODEL:]METRIC[.low|.high] and one of > >= < <=; may be given several times.",
    ),
]


def judge_of(texts: Sequence[str], verbs: Sequence[str]) -> Callable[[str], None]:
    """Return what judges a root's results by conditions, and ends the command if one holds.

    Raises:
        ValueError: a condition cannot be read, or nothing is evaluated that it could judge.
    """
    if not texts:
        return lambda root: None
    from valign.stages import results

    conditions = results.parse(texts)
    if "evaluate" not in verbs:
        raise ValueError("--fail-if judges the results of evaluate: name that stage, too")

    def judge(root: str) -> None:
        fine, lines = results.judge(root, conditions)
        print("\n".join(lines))
        if not fine:
            raise typer.Exit(1)

    return judge


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="Results before: a results.json, or a run's root.")],
    second: Annotated[str, typer.Argument(help="Results after.")],
    model: Annotated[
        str, typer.Option(help="Which model to compare; default: the one that is not the base.")
    ] = "",
    everything: Annotated[bool, typer.Option("--all", help="Show what did not change, too.")] = (
        False
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
    fail_if: FailIf = None,
) -> None:
    """Say what changed from one evaluation to another, and whether it may be chance.

    Prompts are paired where both results keep values per prompt; every line says so. p-values are
    corrected for the number of metrics (Holm). A condition on `change` is on the difference:

        valign compare runs/before runs/after --fail-if "toxicity.avg_r > 0.05"

        valign compare a.json b.json --fail-if "change:bias.gender.d1.low > 0"

    Exit codes: 0 all fine, 1 a condition holds, 2 something cannot be read.
    """
    with readable_errors():
        from valign.stages import results

        conditions = results.parse(fail_if or [])
        name, found, said = results.changes(first, second, model=model, conditions=conditions)
        if as_json:
            print(results.as_json(name, found))
        else:
            shown = [c for c in found.changes if everything or c.significant]
            titles = ("metric", "before", "after", "difference (95%)", "p (Holm)", "test")
            table = Table(*titles, box=None, title=f"model {name}", title_justify="left")
            for change in shown:
                table.add_row(*(escape(cell) for cell in results.line(change)))
            if shown:
                console.print(table)
            same = sum(not change.significant for change in found.changes)
            print(
                f"{len(found.changes) - same} of {len(found.changes)} metrics changed beyond "
                f"chance; {same} did not{'' if everything else ' (--all shows them)'}"
            )
            for note in found.notes:
                print(f"note: {note}")
        for _, words in said:
            typer.echo(words, err=as_json)
        if any(holds for holds, _ in said):
            raise typer.Exit(1)


@app.command()
def report(
    root: Annotated[str, typer.Argument(help="Root of a run that was evaluated.")],
) -> None:
    """Make a run's report anew from what is there: page, drawings (SVG) and tables (CSV).

    After an update of valign, or a purge; nothing is drawn or measured again.
    Example: valign report runs/mine
    """
    with readable_errors():
        from valign.stages import results

        print(f"report: {results.rebuild(root)}")


@app.command()
def ratings(
    ratings_csv: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="rater,item,attribute,toxic,semantic_consistency,preference",
        ),
    ],
    items_csv: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="item,model,prompt,principle")
    ],
    highest: Annotated[
        float, typer.Option(min=0.001, help="Best semantic consistency a rater could give.")
    ] = 1.0,
) -> None:
    """Turn people's ratings of images into the columns of LiVO's Table 4, and preferences.

    All x100, means over prompts with 95% intervals; beside D2 a fair sampler's. Cells may be
    empty; toxic is yes or no, preference win, tie or lose against the image shown beside it.
    Example: valign ratings ratings.csv items.csv --highest 5
    """
    with readable_errors():
        from valign.stages import results

        table = Table(
            "model", "D2", "by chance", "Avg.R", "semantic consistency", "preference", box=None
        )
        found = results.rated(ratings_csv, items_csv, highest=highest)
        for model, columns in found.items():
            cells = []
            for name in ("d2", "avg_r", "semantic_consistency", "preference"):
                one = columns.get(name)
                percent = (
                    [f"{100 * one[key]:.2f}" for key in ("value", "low", "high")] if one else []
                )
                cells.append(
                    "{} ({} to {}), n {}".format(*percent, one["n"]) if one else "too few prompts"
                )
            chance = f"{100 * columns['d2']['floor']:.2f}" if "d2" in columns else ""
            table.add_row(escape(model), cells[0], chance, *cells[1:])
        console.print(table)
        counts = {round(c["d2"]["images"], 6) for c in found.values() if "d2" in c}
        if len(counts) > 1:
            console.print(
                "[yellow]D2 is not comparable between these models: their prompts have "
                f"{' and '.join(f'{n:g}' for n in sorted(counts))} images with an attribute."
            )
