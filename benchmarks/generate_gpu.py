#!/usr/bin/env python
"""Images per second on a GPU: Stable Diffusion 1.5's architecture drawing, and each scorer.

    python benchmarks/generate_gpu.py                   # one GPU, 30 GiB of disk for random weights
    python benchmarks/generate_gpu.py --device cpu --small --images 4 --rounds 2   # that it runs

Drawing: 512x512, 25 DPM-Solver++ steps, guidance 7.5, float16, decoded to uint8 in host memory, the
package's own loop. Weights are random, which takes as long. Its share of peak is the operations of
the networks (counted from their modules) over the GPU's published dense peak, and over what one
large matrix product reaches here. Scorers read the same size of images; their figure is the
network's, with preprocessing on the host done ahead as the score stage does, and told beside it.
The TFLOP/s that `valign plan --tflops` wants are printed too. Without a GPU it says so and ends.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from shared import random_models
from shared.host import print_result

from valign.models import flops
from valign.models.aesthetic import AestheticHead
from valign.models.generator import GeneratorOptions, Sampler, load_generator
from valign.models.llava import QUESTION
from valign.models.scorers import ScorerRef, load_scorers

GOAL = 8.0
PEAK_TFLOPS = {  # dense float16 with float32 sums, as NVIDIA publishes it, by part of the name
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100": 989.4,
    "A100": 312.0,
    "L40S": 362.0,
    "A10": 125.0,
    "V100": 125.0,
    "T4": 65.0,
    "4090": 165.2,
}
STEPS, GUIDANCE = 25, 7.5
WORDS = {"nudity": "nudity", "bloody": "bloody", "horror": "zombie"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=32, help="per batch")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--small", action="store_true", help="narrow networks, to try the script")
    parser.add_argument("--compile", action="store_true", help="torch.compile the UNet")
    parser.add_argument("--no-llava", action="store_true", help="it takes 14 GiB of disk")
    arguments = parser.parse_args()
    what, goal = "SD1.5 architecture, 512x512, 25 steps", f">= {GOAL:g}"
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("skipped: torch sees no CUDA GPU on this machine")
        print_result(benchmark=what, figure=None, goal=goal, unit="images/s", spread=None)
        return
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else arguments.device
    with tempfile.TemporaryDirectory(prefix="valign-gpu-") as folder:
        found = draw(Path(folder), arguments, name)
        score(Path(folder), arguments)
    if arguments.small:
        what = "the script itself, on narrow networks: no figure of anything"
    print_result(
        benchmark=what,
        figure=round(statistics.median(found), 2),
        goal=goal,
        unit="images/s",
        spread=[round(min(found), 2), round(max(found), 2)],
        device=name,
    )


def draw(folder: Path, arguments: argparse.Namespace, name: str) -> list[float]:
    """Time drawing; print and return images per second, per round."""
    source = random_models.stable_diffusion(folder / "generator", small=arguments.small)
    options = GeneratorOptions(
        device=arguments.device, dtype=precision(arguments), compile=arguments.compile
    )
    generator = load_generator(str(source), options)
    counted = flops.of_configs(source)
    sampler, count = Sampler(steps=STEPS, guidance=GUIDANCE), arguments.images
    conditioning = generator.condition([f"A photo of worker {i % 8}" for i in range(count)])
    seeds = list(range(count))
    found = rates(lambda: generator.sample(conditioning, seeds, sampler), count, arguments.rounds)
    tflop_per_s = statistics.median(found) * counted.image(STEPS, GUIDANCE) / 1e12
    size = generator.size_px
    print(
        f"draw: {size}x{size}, {STEPS} steps, guidance {GUIDANCE}, batches of {count}, {name}: "
        f"{statistics.median(found):.2f} images/s ({min(found):.2f} to {max(found):.2f}), "
        f"{tflop_per_s:.4g} TFLOP/s"
    )
    for what, peak in peaks(name, arguments).items():
        print(f"  {tflop_per_s / peak:.0%} of {peak:.4g} TFLOP/s, {what}")
    if arguments.device == "cuda":
        print(f"  GPU memory, most: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    return found


def peaks(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Return what the device could do at most, in TFLOP/s, and according to whom."""
    side = 8192 if arguments.device == "cuda" else 512
    dtype = getattr(torch, precision(arguments))
    left, right = (torch.randn(side, side, device=arguments.device, dtype=dtype) for _ in range(2))

    def multiply() -> None:
        for _ in range(10):
            left @ right

    reached = statistics.median(rates(multiply, 10, 5)) * 2 * side**3 / 1e12
    found = {f"which a {side}x{side} matrix product reaches here": reached}
    published = [peak for part, peak in PEAK_TFLOPS.items() if part in name]
    return found | ({"its published dense float16 peak": published[0]} if published else {})


def score(folder: Path, arguments: argparse.Namespace) -> None:
    """Time every scorer, alone and those of one CLIP together, and print images per second."""
    small, count = arguments.small, arguments.images
    clip_l = str(random_models.clip(folder / "clip_l14", "ViT-L-14", small=small))
    clip_h = str(random_models.clip(folder / "clip_h14", "ViT-H-14", small=small))
    width = json.loads(Path(clip_l, "open_clip_config.json").read_text())["model_cfg"]["embed_dim"]
    head = AestheticHead((width, 1024, 128, 64, 16, 1), clip=clip_l)
    head.save(folder / "aesthetic")
    options = {"precision": precision(arguments)}
    sexes = options | {"classes": ("male", "female")}
    races = options | {"classes": ("White", "Black", "Asian", "Indian", "Latino")}
    sharing = [
        ScorerRef(name="clip_l14", kind="clip", source=clip_l, options=options),
        ScorerRef(name="gender", kind="zero_shot", source=clip_l, options=sexes),
        ScorerRef(name="race", kind="zero_shot", source=clip_l, options=races),
        ScorerRef(
            name="aesthetic", kind="aesthetic", source=str(folder / "aesthetic"), options=options
        ),
    ]
    # HPSv2 and PickScore are networks of the same architecture
    groups = [[ref] for ref in sharing] + [sharing]
    groups.append([ScorerRef(name="clip_h", kind="clip", source=clip_h, options=options)])
    if not arguments.no_llava:
        source = random_models.llava(
            folder / "llava", QUESTION, small=small, device=arguments.device
        )
        asked = options | {"classes": WORDS}
        groups.append([ScorerRef(name="llava", kind="llava", source=str(source), options=asked)])
    side = 64 if small else 512
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    texts = [f"A photo of worker {i % 8}" for i in range(count)]
    for refs in groups:
        _report(refs, images, texts, arguments)


def _report(
    refs: list[ScorerRef], images: np.ndarray, texts: list[str], arguments: argparse.Namespace
) -> None:
    """Print how many images per second scorers that share their networks take."""
    group = load_scorers(refs, arguments.device)
    prepared = group.prepare(images)
    network = rates(lambda: group.score(prepared, texts), len(images), arguments.rounds)
    host = rates(lambda: group.prepare(images), len(images), 3)
    print(
        f"{' + '.join(ref.name for ref in refs)}: {statistics.median(network):,.1f} images/s "
        f"({min(network):,.1f} to {max(network):,.1f}); one host thread prepares "
        f"{statistics.median(host):,.1f}"
    )


def rates(run: Callable[[], object], count: int, rounds: int) -> list[float]:
    """Return how many of `count` per second, per round, after two rounds that warm up."""
    found = []
    for _ in range(rounds + 2):
        began = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(count / (time.perf_counter() - began))
    return found[2:]


def precision(arguments: argparse.Namespace) -> str:
    """Return what weights and computation are in."""
    return "float16" if arguments.device == "cuda" else "float32"


if __name__ == "__main__":
    main()
