"""Images of the shipped miniature for `miniature.py`: made by two workers, judged, pasted together.

In: prompts. Out: uint8 images, CLIP's zero-shot answers, picture files. What is measured on them
is not decided here.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import valign.miniature
from valign.evaluation.intervals import Interval

SHIPPED = Path(valign.miniature.__file__).parent / "weights"
# another folder of weights, for this process and those it starts
WEIGHTS = Path(os.environ.get("VALIGN_BENCHMARK_WEIGHTS", SHIPPED))
WORKERS = 2
IMAGES = 50  # per prompt

# G prompts, N images of each, K classes


@dataclass(frozen=True)
class Job:
    """One prompt and how many images of it."""

    text: str
    seed: int
    steps: int = 10


@lru_cache(maxsize=1)
def _generator() -> Any:
    import torch

    from valign.models.generator import load_generator

    torch.set_num_threads(1)
    return load_generator(str(WEIGHTS / "generator"))


def _generate(job: Job) -> tuple[np.ndarray, float]:
    """IMAGES images of one prompt, and the seconds they took (in a worker)."""
    from valign.models.generator import Sampler

    generator = _generator()
    start = time.perf_counter()
    conditioning = generator.condition([job.text] * IMAGES)
    seeds = list(range(job.seed, job.seed + IMAGES))
    images = generator.sample(conditioning, seeds, Sampler(steps=job.steps))
    return images, time.perf_counter() - start


def generate(
    pool: ProcessPoolExecutor, texts: Sequence[str], seed: int, steps: int = 10
) -> np.ndarray:
    """IMAGES images per text: uint8 (texts, IMAGES, 64, 64, 3)."""
    jobs = [Job(text, seed + 1000 * i, steps) for i, text in enumerate(texts)]
    return np.stack([images for images, _ in pool.map(_generate, jobs)])


def speed(pool: ProcessPoolExecutor) -> Interval:
    """Images per second of both workers together, over rounds after a warm-up."""
    rates = []
    for turn in range(7):
        start = time.perf_counter()
        list(
            pool.map(
                _generate,
                [Job("A photo of a doctor", turn * 1000 + w * 100) for w in range(2 * WORKERS)],
            )
        )
        rates.append(2 * WORKERS * IMAGES / (time.perf_counter() - start))
    rates = rates[2:]
    return Interval(float(np.median(rates)), min(rates), max(rates), len(rates))


@lru_cache(maxsize=1)
def clip() -> Any:
    import torch

    from valign.models.clip import Clip

    torch.set_num_threads(1)
    return Clip(str(WEIGHTS / "clip"))


def zero_shot(images_GN: np.ndarray, texts: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Index of the likeliest class by "{prompt}, {class}": (G, N)."""
    found = []
    for images, prompt in zip(images_GN, texts, strict=True):
        image_ND = clip().embed_images(images)
        text_KD = clip().embed_texts([f"{prompt}, {name}" for name in classes])
        found.append((image_ND @ text_KD.T).argmax(1).numpy())
    return np.stack(found)


def save_grid(rows: Sequence[np.ndarray], path: Path) -> None:
    grid = np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)
    Image.fromarray(grid).resize(
        (grid.shape[1] * 2, grid.shape[0] * 2), Image.Resampling.NEAREST
    ).save(path, optimize=True)


def plain_load() -> str:
    """Load the generator with diffusers alone, in an interpreter that cannot see this package."""
    code = (
        "import sys; sys.modules['valign'] = None\n"
        "from diffusers import StableDiffusionPipeline as P\n"
        f"p = P.from_pretrained({str(WEIGHTS / 'generator')!r})\n"
        "print(p('A photo of a doctor', num_inference_steps=10).images[0].size)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    return (
        "yes" if done.returncode == 0 and "(64, 64)" in done.stdout else f"no: {done.stderr[-200:]}"
    )
