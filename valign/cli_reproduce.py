"""The command that makes the papers' tables: `valign reproduce`."""

from typing import Annotated

import typer

from valign.config import Run
from valign.stages.work import Runner
from valign.terminal import readable_errors

app = typer.Typer()


@app.command("reproduce")
def reproduce_(
    rows_: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ROW]... [key=value]...",
            help="Rows by name or glob (none: all), and settings for every run.",
        ),
    ] = None,
    root: Annotated[str, typer.Option(help="Folder or URL of everything.")] = "runs/reproduction",
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds of headline rows.")] = 3,
    prompts: Annotated[int, typer.Option(min=10, help="Of the win rates, in all.")] = 1_040,
    parti: Annotated[str, typer.Option(help="A file of PartiPrompts.")] = "",
    tune: Annotated[
        bool, typer.Option("--tune", help="First choose learning rates, on validation concepts.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would be done.")] = False,
    out: Annotated[str, typer.Option(help="Copy the page and its files to this folder.")] = "",
    inline: Annotated[bool, typer.Option(help="Work in this process, without Ray.")] = False,
) -> None:
    """Make the papers' tables on the miniature: train and measure every row, then the page.

    Finished rows are skipped; after each row the page under ROOT/page is written anew. Examples:

        valign reproduce --plan

        valign reproduce 'livo*' sd --seeds 1
    """
    with readable_errors():
        from valign.reproduction import reproduce, rows
        from valign.reproduction.runs import Place

        def runner_of(run: Run) -> Runner:
            if inline:
                from valign.stages.inline import Inline

                return Inline()
            from valign.on_ray.cluster import Cluster

            return Cluster(run.resources)

        words = rows_ or []
        settings = tuple(word for word in words if "=" in word)
        tables = rows.shipped()
        place = Place(root, tables, runner_of, settings, prompts, parti, seeds)
        chosen = rows.choose([word for word in words if "=" not in word], tables)
        reproduce.reproduce(place, chosen, tuned=tune, plan=plan, out=out)
