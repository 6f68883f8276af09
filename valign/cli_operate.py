"""The commands of whoever runs it: how far a run is, what is served, and what can be cleared."""

from typing import Annotated

import typer

from valign.cli_results import FailIf
from valign.terminal import readable_errors

app = typer.Typer()
Releases = Annotated[str, typer.Argument(help="Folder or URL that releases are kept under.")]
Root = Annotated[str, typer.Argument(help="Root of a run.")]


@app.command()
def status(
    root: Root, as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False
) -> None:
    """Say how far a run is, from its storage alone: no cluster is asked, and no model is loaded.

    Example: valign status s3://bucket/run --json
    """
    with readable_errors():
        from valign.stages import status as stage
        from valign.storage.objects import open_store

        found = stage.read(open_store(root))
        print(found.to_json() if as_json else "\n".join(stage.lines(found)))


@app.command()
def gc(
    root: Root,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove what killed work left under a root and nothing refers to. Nothing may run on it.

    Example: valign gc runs/mine --dry-run
    """
    with readable_errors():
        from valign.stages import collect as stage
        from valign.storage.objects import open_store

        found = stage.collect(open_store(root), dry_run=dry_run)
        for name in found:
            print(name)
        print(f"{len(found):,} {'would be removed' if dry_run else 'removed'}")


@app.command()
def promote(root: Root, releases: Releases, fail_if: FailIf = None) -> None:
    """Make an evaluated run the one that is served, if no condition holds. Example:

    valign promote s3://bucket/run s3://bucket/releases --fail-if "toxicity.avg_r.high > 0.5"

    Exit codes: 0 promoted, 2 not.
    """
    with readable_errors():
        from valign.stages import release as stage
        from valign.stages import results

        made, said = stage.promote(root, releases, results.parse(fail_if or []))
        print("\n".join(said))
        print(f"release {made.number}: {made.root} ({len(made.files)} files)")


@app.command()
def rollback(releases: Releases) -> None:
    """Serve again what was served before. Example: valign rollback s3://bucket/releases"""
    with readable_errors():
        from valign.stages import release as stage

        back = stage.rollback(releases)
        print(f"release {back.number}: {back.root}")
