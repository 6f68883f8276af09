"""The card of what was trained: how to use it, on what it was trained, how it went, the recipe.

In: the run, the checkpoint whose weights are written out, and the training log. Out: Markdown. It
says nothing that differs between two runs of the same work, such as seconds: those are in
TensorBoard's events.
"""

from collections.abc import Mapping
from typing import Any

from valign.config import Run
from valign.stages import principles
from valign.stages.pair_arrays import pairs_for
from valign.stages.train_log import read_metrics
from valign.storage import layout
from valign.storage.checkpoints import Checkpoint
from valign.storage.objects import Store

COUNTED = ("step", "skipped", "lr", "steps_since_refresh")  # of the log's row; no measurements
FIRST = ("loss", "held_out_loss", "implicit_accuracy", "held_out_implicit_accuracy")


def card(store: Store, run: Run, made: Checkpoint, at: str) -> str:
    """Return the model card.

    Args:
        store: the run's root, for the log and the number of pairs.
        run: the run.
        made: the checkpoint whose weights the card goes with.
        at: the prefix under which folders with the card are written.
    """
    settings = "\n".join(f"- {key}: {value}" for key, value in run.settings("train").items())
    data = "../" * (at.count("/") + 2) + layout.DATASET_CARD
    return f"""# {TITLES[run.train.trains]} for {run.generator}

Trained by valign, objective `{run.train.objective}`. The pairs it was trained on are described in
the dataset's card, [{layout.DATASET_CARD}]({data}) of the run, and how training went, step by step,
in `{layout.METRICS}`.

## Use

{USES[run.train.trains]}
{_principles(run)}
## Training

{_training(run, made, len(pairs_for(store, run.train)["pair_id"]))}

{_metrics(_row(store, made.step))}

## Settings

{settings}
"""


def _training(run: Run, made: Checkpoint, pairs: int) -> str:
    """Say how much was trained, and on what."""
    loop, settings, shared = made.loop, run.train, run.resources
    said = [f"{made.step:,} of {settings.steps:,} steps of {settings.global_batch} pairs"]
    kept = f" ({settings.held_out:.0%} of the prompts held out)" if settings.held_out else ""
    said.append(f"{made.step * settings.global_batch:,} pairs seen, of {pairs:,}{kept}")
    said.append(f"{loop['updates']:,} updates of the weights")
    if loop["skipped"]:
        said.append(f"steps left out, as their gradient was not finite: {loop['skipped']:,}")
    if loop.get("refreshed"):
        said.append(f"reference last refreshed at update {loop['refreshed']:,}")
    if loop.get("best_step") == made.step:
        said.append("the checkpoint with the lowest loss on held-out pairs")
    workers = shared.train_workers
    said.append(f"engine {shared.engine.name} on {workers} worker{'s' * (workers > 1)}")
    return "\n".join(f"- {line}" for line in said)


def _row(store: Store, step: int) -> dict[str, float]:
    """Return the log's row that ends at a step; every checkpoint ends one."""
    rows = read_metrics(store) if store.exists(layout.METRICS) else []
    return next((row for row in rows if row["step"] == step), {})


def _metrics(row: Mapping[str, Any]) -> str:
    """Return the measurements of a row of the log as a table, the telling ones first."""
    named = [name for name in FIRST if name in row]
    named += sorted(name for name in row if name not in (*FIRST, *COUNTED))
    lines = [f"| {name} | {row[name]:.4g} |" for name in named]
    return "\n".join(["| at its last step | |", "|---|---|", *lines]) if lines else ""


def _principles(run: Run) -> str:
    if "value_encoder" not in run.train.trains:
        return ""
    texts = "\n".join(f"- {key}: {text}" for key, text in principles.texts(run).items())
    return f"""
## Principles

Without an applicable principle the base model draws its own images.

{texts}

Gender and race classes are the LiVO paper's, which are simplifications of how people are.
"""


TITLES = {
    "value_encoder": "A value encoder",
    "value_encoder+unet": "A value encoder and the UNet it was trained with,",
    "unet": "A UNet trained on preferences,",
    "lora": "LoRA adapters trained on preferences,",
}
_ALIGNED = """```python
from valign.models.aligned import AlignedPipeline
pipeline = AlignedPipeline.from_pretrained("path/of/this/folder")
images = pipeline(["A photo of a doctor"], principles=["gender"], seeds=[1])
```"""
USES = {
    "value_encoder": _ALIGNED,
    "value_encoder+unet": _ALIGNED,
    "unet": """```python
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained("path/of/this/folder")
```""",
    "lora": """```python
from pathlib import Path
from peft import PeftModel
for part in Path("path/of/this/folder").glob("*/adapter_config.json"):  # unet, and text encoders
    name = part.parent.name
    setattr(pipeline, name, PeftModel.from_pretrained(getattr(pipeline, name), part.parent))
```""",
}
