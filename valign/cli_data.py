"""The commands that hand a dataset on, or delete from it: `valign export` and `valign purge`."""

import time
from typing import Annotated

import typer

from valign.storage import layout
from valign.terminal import counted, readable_errors

app = typer.Typer()


@app.command()
def export(
    form: Annotated[str, typer.Argument(help="pick-a-pic or livo.")],
    root: Annotated[str, typer.Argument(help="Root of a run whose pairs are labelled.")],
    out: Annotated[str, typer.Argument(help="Empty folder or URL to write to.")],
    toxic: Annotated[
        bool, typer.Option("--toxic", help="Take pairs with images of toxic prompts along.")
    ] = False,
) -> None:
    """Write a run's decided pairs for others' trainers.

    pick-a-pic: Parquet with jpg_0, jpg_1, label_0 and caption, as Diffusion-DPO's scripts read it
    (--dataset_name OUT/data); toxic pairs, if asked for, lie in OUT/toxic.

    livo: TYPE/SCENE/metadata.jsonl with the pictures beside it, as LiVO's trainer reads it
    (--train_data_dir OUT); a type is a principle and a category. Examples:

        valign export pick-a-pic runs/mine exported/pickapic

        valign export livo runs/mine exported/livo --toxic
    """
    with readable_errors():
        from valign.stages import export as stage

        print(f"{counted(stage.export(form, root, out, toxic=toxic))} · {out}")


@app.command()
def purge(
    root: Annotated[str, typer.Argument(help="Root of the run.")],
    principle: Annotated[
        str, typer.Option(help="Images that go against it or had its token, and its pairs.")
    ] = "",
    prompt: Annotated[
        str, typer.Option(help="Images of this text, or of all prompts of the scene it names.")
    ] = "",
    older_than_days: Annotated[
        float | None, typer.Option(min=0, help="Images made longer ago, by the store's clock.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete images from a finished run, with their scores, pairs, latents and texts.

    Deletes what fits all conditions given, and there is no undo. Without a condition it finishes a
    purge that was interrupted. Examples:

        valign purge runs/mine --principle nudity

        valign purge runs/mine --prompt "A photo of a doctor"

        valign purge s3://bucket/run --older-than-days 90 --yes
    """
    with readable_errors():
        from valign.stages import purge as stage
        from valign.storage.objects import open_store

        store = open_store(root)
        asked = principle or prompt or older_than_days is not None
        if store.exists(layout.PURGING):
            print(f"finished an interrupted purge: {counted(stage.finish(store))}")
            if not asked:
                return
        selected = stage.select(
            store,
            principle=principle,
            prompt=prompt,
            older_than_days=older_than_days,
            now_s=time.time(),
        )
        print(f"to purge from {store.url}: {counted(selected['counts'])}")
        if not yes:
            typer.confirm("Delete these for good?", abort=True)
        print(f"purged: {counted(stage.purge(store, selected))}\n{stage.NOT_REACHED}")
