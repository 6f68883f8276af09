"""Put trained parts together as the folders that are shipped, and draw the loss curves.

In: the working folder of `pretrain`. Out: `weights/generator`, a plain half-precision
StableDiffusionPipeline folder that loads without any code of ours, and `curves.png`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from valign.miniature import unet


def assemble(out: Path, tokenizer: Any, encoder: Any) -> None:
    """Put the generator's parts together in `weights/generator`."""
    from diffusers import (
        AutoencoderKL,
        DPMSolverMultistepScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )

    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(out / "vae"),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=UNet2DConditionModel.from_pretrained(out / "unet"),
        scheduler=DPMSolverMultistepScheduler(
            **unet.schedule_config(),
            algorithm_type="dpmsolver++",
            solver_order=1,  # at 10 steps and guidance 7.5 the second order overshoots
            use_karras_sigmas=True,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = out / "weights" / "generator"
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    for_everyone(folder)


def for_everyone(folder: Path) -> None:
    """Drop what holds only here: file modes, where a part was loaded from, a type to load it in.

    Transformers loads a model in the type its config names, diffusers in float32; a plain
    `from_pretrained` of the generator would mix the two. A tokenizer loses its line breaks, half
    of its bytes.
    """
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(0o644)
    for config in folder.rglob("*config.json"):
        config.chmod(0o644)
        settings = json.loads(config.read_text())
        config.write_text(json.dumps(_portable(settings), indent=2) + "\n")
    for tokenizer in folder.rglob("tokenizer.json"):
        words = json.loads(tokenizer.read_text(encoding="utf-8"))
        text = json.dumps(words, ensure_ascii=False, separators=(",", ":"))
        tokenizer.write_text(text, encoding="utf-8")


def _portable(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, and those inside them, without a path and to be loaded in float32."""
    kept = {key: value for key, value in settings.items() if key != "_name_or_path"}
    return {
        key: _portable(value) if isinstance(value, dict) else "float32" if key == "dtype" else value
        for key, value in kept.items()
    }


def draw_curves(out: Path) -> None:
    """Loss against step for every stage that left a log, as `curves.png`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    logs = sorted(out.glob("*.jsonl"))
    figure, axes = pyplot.subplots(
        1, max(1, len(logs)), figsize=(3 * max(1, len(logs)), 2.6), squeeze=False
    )
    for axis, path in zip(axes[0], logs, strict=False):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        axis.plot([row["step"] for row in rows], [row["loss"] for row in rows], lw=1)
        axis.set(title=path.stem, xlabel="step", yscale="log")
    figure.tight_layout()
    figure.savefig(out / "curves.png", dpi=80)
