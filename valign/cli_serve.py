"""Commands of the server: start it, and make API keys for it."""

from typing import Annotated

import typer

from valign.terminal import readable_errors

app = typer.Typer()


@app.command()
def serve(
    target: Annotated[
        str, typer.Argument(help="A run's root, an aligned model's folder, or a recipe's name.")
    ] = "miniature",
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value]...", help="Settings, such as serve.port=8080."),
    ] = None,
) -> None:
    """Serve images, scores and comparisons over HTTP, with a page at /.

    Listens on this machine only unless serve.host says otherwise, and then needs API keys:

        valign key alice >> keys.jsonl

        valign serve runs/demo serve.host=0.0.0.0 serve.keys=keys.jsonl
    """
    with readable_errors():
        from valign.on_ray.server import run_until_stopped

        if "=" in target:
            run_until_stopped("miniature", [target, *(settings or [])])
        else:
            run_until_stopped(target, settings or [])


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Whose key this is; the audit file says it.")],
    per_minute: Annotated[int, typer.Option(min=1, help="Requests per minute.")] = 60,
    concurrent: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 4,
) -> None:
    """Make an API key: shown once on the terminal; the line for the key file goes to the output.

    Example: valign key alice --per-minute 60 >> keys.jsonl
    """
    with readable_errors():
        from valign.stages.serve import new_key

        token, line = new_key(name, requests_per_minute=per_minute, concurrent=concurrent)
        typer.echo(f"API key of {name}, shown this once: {token}", err=True)
        typer.echo(line)
