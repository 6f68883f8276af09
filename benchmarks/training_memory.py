#!/usr/bin/env python
"""Peak memory of each worker that trains a whole UNet, by engine, beside what theory says.

    python benchmarks/training_memory.py                             # 80 million parameters
    python benchmarks/training_memory.py --width 32 --workers 2 --engines ddp   # that it runs
    python benchmarks/training_memory.py --page docs/results/training_memory.md

Every engine and number of workers is tried by processes of its own, on the CPU over gloo. Peaks are
of resident memory above what a process has before it builds the model: once while it builds and
makes its first step, and once in the steps after that. One pair of 8x8 latents per worker, so that
nearly all of it is weights, gradients, moments and the reference. The theory is that of Rajbhandari
et al. 2020, section 3, in float32: 4 bytes of weights, 4 of gradients and 8 of moments for each
parameter, of which a stage shards the moments (1), gradients too (2), and weights too (3); plus the
reference's 4, sharded in stage 3.
"""

import argparse
import datetime
import gc
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from shared.host import machine, print_result

import valign.miniature
from valign.models.pipeline_folder import read_schedule
from valign.models.sampler import load_scheduler
from valign.train_settings import Train
from valign.training import engine, objectives, policies
from valign.training.batch import Batch
from valign.training.optimizer import AdamW

SCHEDULER = Path(valign.miniature.__file__).parent / "weights" / "generator" / "scheduler"
SETTINGS = Train(objective="balanced_dpo", trains="unet")
STEPS, LATENT, TOKENS = 3, 8, 77
BYTES = {"weights": 4, "gradients": 4, "moments": 8, "reference": 4}  # of each parameter
SHARDED: dict[str, tuple[str, ...]] = {
    "ddp": (),
    "zero0": (),
    "zero1": ("moments",),
    "zero2": ("moments", "gradients"),
    "zero3": ("moments", "gradients", "weights", "reference"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=96, help="of the UNet; SD1.5's is 320")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--engines", nargs="+", choices=engine.ENGINES, default=engine.ENGINES)
    parser.add_argument("--page", type=Path, help="write the table there, too")
    arguments = parser.parse_args()
    parameters = sum(p.numel() for p in _unet(arguments.width).parameters())
    gc.collect()
    rows = []
    for workers in arguments.workers:
        for name in arguments.engines:
            row = {"engine": name, "workers": workers, "theory": theory(name, workers, parameters)}
            row |= measure(name, workers, arguments.width)
            print(_line(row), flush=True)
            rows.append(row)
    text = page(rows, parameters)
    print(f"\n{text}")
    if arguments.page:
        arguments.page.write_text(text)
    over = [row["steps"] / row["theory"] for row in rows]
    worst = rows[over.index(max(over))]
    print("a worker's peak in its steps over the theory's model states; the spread is over engines")
    print_result(
        benchmark=f"memory of training, at worst: {worst['engine']} on {worst['workers']} workers",
        figure=round(max(over), 3),
        goal="reported",
        unit="ratio to the theory",
        spread=[round(min(over), 3), round(max(over), 3)],
    )


def theory(name: str, workers: int, parameters: int) -> float:
    """Return the MiB of a worker's model states."""
    shares = (size / (workers if what in SHARDED[name] else 1) for what, size in BYTES.items())
    return parameters * sum(shares) / 2**20


def measure(name: str, workers: int, width: int) -> dict[str, float]:
    """Return peaks in MiB, of the worker that took most."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_child, args=(name, workers, width, folder), nprocs=workers)
        found = [json.loads(file.read_text()) for file in Path(folder).glob("*.json")]
    assert len(found) == workers
    return {key: max(one[key] for one in found) for key in found[0]}


def page(rows: list[dict[str, Any]], parameters: int) -> str:
    """Return the table as Markdown."""
    head = ["engine", "workers", "theory", "in steps", "over theory", "while building"]
    lines = [head, ["---"] * len(head), *(_cells(row) for row in rows)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"""# Memory of training

Peak resident memory of each worker in MiB, above what its process has before it builds the model:
a whole UNet of {parameters:,} parameters in float32 with its reference, one small pair per worker
and step. Written by `python benchmarks/training_memory.py --page`, on {machine()}.

{table}

Theory counts weights, gradients, moments and reference, and what a ZeRO stage shards of them; the
rest is activations, buckets for communication, and, under ZeRO 1 and 2, DeepSpeed's own shard of
the weights. While it builds, every worker holds the whole model, under ZeRO 3 too.
"""


def _cells(row: dict[str, Any]) -> list[str]:
    over = row["steps"] / row["theory"]
    return [
        *(row["engine"], str(row["workers"]), f"{row['theory']:,.0f}", f"{row['steps']:,.0f}"),
        *(f"{over:.2f}", f"{row['building']:,.0f}"),
    ]


def _line(row: dict[str, Any]) -> str:
    return "{} on {} workers: theory {} MiB, in steps {} ({} of it), while building {}".format(
        *_cells(row)
    )


def _child(rank: int, name: str, workers: int, width: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=workers,
        timeout=datetime.timedelta(minutes=30),
    )
    # What libraries take is not the model's memory.
    if name != "ddp":
        engine._deepspeed(torch.device("cpu"))
    _unet(32)
    gc.collect()
    before = _reset()
    policy = policies.build(SETTINGS, _unet(width), read_schedule(load_scheduler(SCHEDULER)))
    trained = engine.build(name, policy, AdamW(lr=1e-6))
    loss_of = objectives.build(SETTINGS.objective, normaliser=workers, **SETTINGS.hyperparameters())
    building = 0.0
    for step in range(STEPS):
        batch, noise_BCHW, t_B = _pair(rank, step, width)
        trained.step(loss_of(trained.errors(batch, noise_BCHW, t_B), batch, step)[0])
        if not step:  # moments and buckets are there now
            building = _peak() - before
            gc.collect()
            _reset()
    found = {"building": building, "steps": _peak() - before}
    dist.barrier()
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def _pair(rank: int, step: int, width: int) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(1000 * step + rank)
    shape = (1, 4, LATENT, LATENT)
    winner, loser, noise = (torch.randn(shape, generator=drawn) for _ in range(3))
    context = torch.randn(1, TOKENS, 2 * width, generator=drawn)
    return Batch(winner, loser, context), noise, torch.randint(1000, (1,), generator=drawn)


def _unet(width: int) -> Any:
    """Return a UNet of Stable Diffusion 1.5's architecture with random weights."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=LATENT,
        block_out_channels=(width, 2 * width, 4 * width, 4 * width),
        cross_attention_dim=2 * width,
        attention_head_dim=8,
    )


def _reset() -> float:
    """Forget the peak so far; return the resident memory now, in MiB (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> float:
    return _status("VmHWM")


def _status(name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found, f"/proc/self/status says nothing of {name}"
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
