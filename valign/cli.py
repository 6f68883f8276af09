"""The command line: the same stages as the jobs, with progress bars and readable errors."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from valign import (
    cli_cluster,
    cli_data,
    cli_operate,
    cli_reproduce,
    cli_results,
    cli_serve,
    config,
)
from valign.storage import layout
from valign.terminal import readable_errors

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help=(
        "Align text-to-image diffusion models with human values, on Ray.\n\n"
        "Start with [bold]valign demo[/]: it runs every stage on the built-in miniature model in "
        "a quarter of an hour on two slow CPU cores and ends with a report."
    ),
)
app.add_typer(cli_cluster.app)
app.add_typer(cli_data.app)
app.add_typer(cli_operate.app)
app.add_typer(cli_results.app)
app.add_typer(cli_reproduce.app)
app.add_typer(cli_serve.app)
console = Console()

Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[recipe=NAME] [key=value]...",
        help="A recipe and settings that differ from it, such as root=runs/mine train.steps=500.",
    ),
]
Inline = Annotated[bool, typer.Option(help="Work in this process, without Ray.")]


@app.command()
def demo(settings: Settings = None, inline: Inline = False) -> None:
    """Run everything on the miniature and say where the report is.

    Writes under runs/demo. Run it again after an interruption: it goes on where it stopped.
    Examples:

        valign demo

        valign demo root=runs/longer train.steps=2000
    """
    with readable_errors():
        run = config.from_arguments(["root=runs/demo", *(settings or [])])
        _execute(config.STAGES, run, inline)
        print(f"\nreport:  {run.root}/{layout.REPORT}   (open it in a browser)")
        print(f"results: {run.root}/{layout.RESULTS}")


@app.command()
def run(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="STAGE... [recipe=NAME] [key=value]...",
            help=f"Stages, in order: {', '.join(config.STAGES)}, or all; then settings.",
        ),
    ],
    inline: Inline = False,
    fail_if: cli_results.FailIf = None,
) -> None:
    """Run some stages of a recipe.

    Finished stages are skipped and half-finished ones resumed. Examples:

        valign run all root=runs/mine

        valign run generate score prompts=my_prompts.tsv root=runs/scored

        valign run train evaluate recipe=runs/mine/recipe.yaml

        valign run evaluate root=runs/mine --fail-if "toxicity.avg_r > 0.05"
    """
    with readable_errors():
        verbs = [word for word in words if "=" not in word]
        if unknown := [verb for verb in verbs if verb not in (*config.STAGES, "all")]:
            raise ValueError(
                f"no stage {unknown[0]!r}; there are {', '.join(config.STAGES)}, and all"
            )
        if not verbs:
            raise ValueError(f"name a stage: {', '.join(config.STAGES)}, or all")
        chosen = config.STAGES if "all" in verbs else verbs
        judge = cli_results.judge_of(fail_if or [], chosen)
        settings = config.from_arguments([word for word in words if "=" in word])
        _execute(chosen, settings, inline)
        judge(settings.root)


@app.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="Parquet, .csv, .tsv or .jsonl file, a folder of such or of pictures with .txt "
            "captions, or another run's root."
        ),
    ],
    settings: Settings = None,
    inline: Inline = False,
) -> None:
    """Take images of others, and their labels, in the place of generated ones.

    What is read, by the names of columns: pairs as in Pick-a-Pic (jpg_0, jpg_1, label_0, caption),
    or files by name (image_0, image_1, label_0, caption); single images (image or file_name, and
    caption). Rows that cannot be used are left in generate/quarantine*.parquet with the reason;
    the work stops when they are more than resources.max_bad_fraction. Examples:

        valign import pickapic/ root=runs/pap

        valign import my_pairs/pairs.csv root=runs/mine resources.max_bad_fraction=0.1

        valign run score label encode recipe=runs/mine/recipe.yaml
    """
    with readable_errors():
        run = config.from_arguments([*(settings or []), f"imports.source={source}"])
        _execute(("generate",), run, inline)
        print(f"imported to {run.root}; go on with recipe={run.root}/{layout.RECIPE}")


@app.command()
def sample(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    model: Annotated[
        str, typer.Option(help="Root of a run, or folder of an aligned model.")
    ] = "runs/demo",
    principle: Annotated[
        str, typer.Option(help="gender, race, nudity, bloody, horror; auto lets valign choose.")
    ] = "auto",
    images: Annotated[int, typer.Option(min=1, max=64, help="Images per row.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("sample.png"),
    show_toxic: Annotated[
        bool, typer.Option("--show-toxic", help="Draw toxic prompts without asking.")
    ] = False,
) -> None:
    """Draw a prompt without and with its value token, from the same noise, as a PNG grid.

    Example: valign sample "A photo of the face of a doctor" --model runs/demo --out doctor.png
    """
    with readable_errors():
        from valign.stages import sample as stage

        if not show_toxic and (why := stage.toxic(prompt, principle, model=model)):
            if not sys.stdin.isatty():
                raise ValueError(f"{why}; --show-toxic draws it all the same")
            typer.confirm(f"{why}. Draw it?", abort=True)
        drawn = stage.draw(prompt, model=model, principle=principle, images=images, seed=seed)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(drawn.png)
        console.print(f"{escape(drawn.reason)}", highlight=False)
        print(f"upper row: base model; lower row: aligned. Written to {out}")


@app.command()
def retrieve(
    prompts: Annotated[
        list[str], typer.Argument(help="Prompts in quotes, and key=value settings.")
    ],
) -> None:
    """Say which value principle each prompt calls for, and why.

    With a language model: valign retrieve "a chef" retriever.model=NAME retriever.base_url=URL
    (its key is read from OPENAI_API_KEY). Understood answers are kept under the root.
    """
    with readable_errors():
        from valign.stages.retrieve import Retriever
        from valign.storage.objects import open_store

        words = [word for word in prompts if config.is_setting(word)]
        run = config.from_arguments(words)
        retriever = Retriever(run, open_store(run.root))
        for text in (text for text in prompts if text not in words):
            found = retriever(text)
            console.print(f"[bold]{found.principle or 'none'}[/]  {escape(found.reason)}")


@app.command()
def recipes() -> None:
    """List the recipes that come with valign. Example: valign recipes"""
    table = Table("recipe", "what it is", box=None)
    for name, about in config.recipes().items():
        table.add_row(f"[bold]{name}[/]", escape(about))
    console.print(table)
    console.print("Use one with recipe=NAME; a file of your own begins with `base: NAME`.")


@app.command()
def plan(
    settings: Settings = None,
    device: Annotated[
        str | None, typer.Option(help="GPU whose rate to use, such as H100; default: the recipe's.")
    ] = None,
    tflops: Annotated[
        float | None, typer.Option(min=0.001, help="TFLOP/s that one such GPU sustains.")
    ] = None,
    price_per_hour: Annotated[
        float | None,
        typer.Option(min=0, help="Price of an hour of one GPU (or core); prints the cost."),
    ] = None,
) -> None:
    """Say what a recipe will take before anything runs: images, bytes, FLOPs, hours, cost.

    Example: valign plan livo_sd15 --price-per-hour 2.50
    """
    with readable_errors():
        from valign.stages.estimate import estimate

        words = [word if "=" in word else f"recipe={word}" for word in settings or []]
        found = estimate(config.from_arguments(words), device=device, tflop_per_s=tflops)
        titles = ("stage", "work", "images", "shards", "GiB", "TFLOP", "hours of one", "at once")
        table = Table(*titles, "wall hours", box=None)
        for line in found.lines:
            sizes = (f"{line.images:,}", f"{line.shards:,}", f"{line.gib:,.1f}")
            hours = (f"{line.hours:,.2f} {line.device}", f"{line.devices:g}")
            wall = f"{line.hours / line.devices:,.2f}"
            table.add_row(line.stage, line.work, *sizes, f"{line.tflop:,.1f}", *hours, wall)
        console.print(table)
        for name, hours_ in found.device_hours.items():
            console.print(f"{name}-hours: {hours_:,.1f}", highlight=False)
        if price_per_hour is not None:
            console.print(f"cost: {found.cost(price_per_hour):,.2f}", highlight=False)
        for note in found.notes:
            console.print(f"  {escape(note)}", highlight=False)


@app.command()
def check(settings: Settings = None) -> None:
    """Check this machine and a recipe: torch, GPUs, Ray, storage, models. Says what to mend.

    Example: valign check recipe=livo_sd15 root=s3://bucket/run
    """
    with readable_errors():
        from valign.on_ray import cluster
        from valign.stages import check as stage

        run = config.from_arguments(settings or [])
        findings = [*stage.findings(run), cluster.finding(run.resources)]
        for name, fine, detail, remedy in findings:
            console.print(
                f"[{'green' if fine else 'red'}]{'✓' if fine else '✗'}[/] {name}: {escape(detail)}"
            )
            if not fine:
                console.print(f"  [yellow]{escape(remedy)}[/]")
        if not all(fine for _, fine, _, _ in findings):
            raise typer.Exit(1)


def _execute(verbs: tuple[str, ...] | list[str], run: config.Run, inline: bool) -> None:
    from valign.stages.execute import execute
    from valign.stages.inline import Inline as InlineRunner
    from valign.stages.work import Lines, Runner

    runner: Runner
    if inline:
        runner = InlineRunner()
    else:
        from valign.on_ray.cluster import Cluster

        runner = Cluster(run.resources)
    if not sys.stdout.isatty():
        execute(verbs, run, runner, tell=Lines())
        return
    with Bars() as bars:
        execute(verbs, run, runner, tell=bars)


class Bars:
    """A `stages.work.Tell` that shows a progress bar per piece of work."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} {task.fields[unit]}"),
            TextColumn("{task.fields[pace]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Bars":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, what: str, done: int, total: int, unit: str) -> None:
        if what not in self.tasks:
            # completed=done: what an earlier run did is no pace of this one
            self.tasks[what] = self.progress.add_task(
                what, total=total, completed=done, unit=unit, pace=""
            )
        self.progress.update(self.tasks[what], completed=done, total=total)
        speed = self.progress.tasks[self.tasks[what]].speed
        self.progress.update(self.tasks[what], pace=f"{speed:,.1f}/s" if speed else "")


if __name__ == "__main__":
    app()
