"""Train everything the miniature ships: `python -m valign.miniature.pretrain --out <folder>`.

In: nothing but this package. Out: in the folder, one `<stage>.jsonl` of losses per stage and
`curves.png`, and `weights/` with the folders that are shipped. Fixed seeds; stages are selectable
(`--only vae`), run each in its own single-threaded process, two at a time, and read each other's
results from the folder. The same machine, versions and processor count give the same weights.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

RANKS = 2  # processes that train the UNet together
POOL, POOL_SEED = 50_000, 11
UNET_ROUNDS = ((2750, 1e-3), (2200, 7e-4))  # steps, peak rate; each from the average
PLAN: tuple[tuple[str, ...], ...] = (  # stages of one line run side by side
    ("tokenizer",),
    ("text", "vae"),
    ("sharpen-0", "sharpen-1"),
    ("latents-0", "latents-1", "contexts"),
    ("unet-0", "unet-1"),
    ("clip",),
    ("toxicity",),
    ("assemble",),
)
STAGES = tuple(stage for line in PLAN for stage in line)


class _Log:
    """Losses to `<stage>.jsonl`, means of `every` steps, and a line of progress."""

    def __init__(self, out: Path, stage: str, steps: int, every: int = 50) -> None:
        self.file = (out / f"{stage}.jsonl").open("w")
        self.stage, self.steps, self.every, self.start = stage, steps, every, time.monotonic()
        self.losses: list[float] = []

    def after(self, done: int, step: int, loss: float) -> None:
        """Log a step of a later round, `done` steps being behind it."""
        self(done + step, loss)

    def __call__(self, step: int, loss: float) -> None:
        self.losses.append(loss)
        if len(self.losses) < self.every and step + 1 < self.steps:
            return
        mean, seconds = sum(self.losses) / len(self.losses), time.monotonic() - self.start
        self.losses = []
        self.file.write(
            json.dumps({"step": step + 1, "loss": mean, "seconds": round(seconds)}) + "\n"
        )
        self.file.flush()
        print(f"{self.stage} {step + 1}/{self.steps} loss {mean:.4f} {seconds:.0f} s", flush=True)


def _silent(step: int, loss: float) -> None:
    """The log of every rank but the first."""


def _tokenizer(out: Path) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(out / "tokenizer")


def _text(out: Path) -> Any:
    from transformers import CLIPTextModel

    return CLIPTextModel.from_pretrained(out / "text_encoder").eval()


def _vae(out: Path) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(out / "vae").eval()


def train_tokenizer(out: Path) -> None:
    from valign.miniature import tokenizer

    tokenizer.build(out / "tokenizer")


def train_text(out: Path) -> None:
    import torch

    from valign.miniature import text

    torch.manual_seed(2)
    tokenizer, steps = _tokenizer(out), 1400
    encoder, heads = text.build(tokenizer), text.Heads()
    text.train(
        encoder,
        heads,
        tokenizer,
        steps=steps,
        batch=192,
        lr=1.5e-3,
        seed=2,
        log=_Log(out, "text", steps),
    )
    print(text.accuracy(encoder, heads, tokenizer, captions=2000, seed=77))
    encoder.save_pretrained(out / "text_encoder")


def train_vae(out: Path) -> None:
    import torch

    from valign.miniature import vae

    torch.manual_seed(1)
    model, steps = vae.build(), 2500
    vae.train(model, steps=steps, batch=16, lr=2e-3, seed=1, log=_Log(out, "vae", steps))
    model.save_pretrained(out / "vae_blunt")


def sharpen_vae(out: Path, rank: int) -> None:
    """A second round for what is small: the badge and its glyph."""
    from diffusers import AutoencoderKL

    from valign.miniature import ranks, vae

    ranks.join(out, rank, RANKS)
    model, steps = AutoencoderKL.from_pretrained(out / "vae_blunt").train(), 600
    log = _Log(out, "sharpen", steps) if rank == 0 else _silent
    vae.train(model, steps=steps, batch=12, lr=1.5e-3, seed=7, badge_weight=4.0, log=log)
    if rank == 0:
        vae.set_scale(model, images=1024, seed=9)
        model.save_pretrained(out / "vae")
    ranks.leave(out)


def encode_latents(out: Path, part: int) -> None:
    from valign.miniature import pool

    folder = out / "pool"
    folder.mkdir(exist_ok=True)
    pool.write_latents(folder, _vae(out), size=POOL, seed=POOL_SEED, part=part, parts=2)


def encode_contexts(out: Path) -> None:
    from valign.miniature import pool

    folder = out / "pool"
    folder.mkdir(exist_ok=True)
    pool.write_contexts(folder, _tokenizer(out), _text(out), size=POOL, seed=POOL_SEED)


def train_unet(out: Path, rank: int) -> None:
    import torch

    from valign.miniature import pool, ranks, unet

    ranks.join(out, rank, RANKS)
    if rank == 0:
        pool.join_latents(out / "pool", 2)
    ranks.wait()
    torch.manual_seed(3)
    model, done = unet.build(), 0
    total = sum(steps for steps, _ in UNET_ROUNDS)
    report = _Log(out, "unet", total) if rank == 0 else None
    for steps, lr in UNET_ROUNDS:
        unet.train(
            model,
            out / "pool",
            steps=steps,
            batch=48,
            lr=lr,
            seed=3 + done,
            log=partial(report.after, done) if report else _silent,
            save=lambda averaged: averaged.save_pretrained(out / "unet"),
            save_every=250,
        )
        done += steps
    if rank == 0:
        model.save_pretrained(out / "unet")
    ranks.leave(out)


def train_clip(out: Path) -> None:
    import torch

    from valign.miniature import clip

    torch.manual_seed(5)
    tokenizer, steps = _tokenizer(out), 900
    model = clip.build(tokenizer, _text(out))
    clip.train(
        model,
        tokenizer,
        _vae(out),
        steps=steps,
        batch=96,
        lr=2e-3,
        seed=5,
        log=_Log(out, "clip", steps),
        save=lambda: clip.save(model, tokenizer, out / "weights" / "clip"),
        save_every=300,
    )


def train_toxicity(out: Path) -> None:
    import open_clip

    from valign.miniature import clip

    model = open_clip.create_model(f"local-dir:{(out / 'weights' / 'clip').resolve()}").eval()
    steps = 3000
    log = _Log(out, "toxicity", steps, every=500)
    head = clip.train_toxicity(model, _vae(out), images=6000, steps=steps, lr=3e-3, seed=6, log=log)
    head.save(out / "weights" / "toxicity")


def assemble(out: Path) -> None:
    from valign.miniature import publish

    publish.assemble(out, _tokenizer(out), _text(out))


def _stage(name: str) -> Callable[[Path], None]:
    family, _, number = name.partition("-")
    plain: dict[str, Callable[[Path], None]] = {
        "tokenizer": train_tokenizer,
        "text": train_text,
        "vae": train_vae,
        "contexts": encode_contexts,
        "clip": train_clip,
        "toxicity": train_toxicity,
        "assemble": assemble,
    }
    if family == "latents":
        return lambda out: encode_latents(out, int(number))
    if family == "sharpen":
        return lambda out: sharpen_vae(out, int(number))
    if family == "unet":
        return lambda out: train_unet(out, int(number))
    return plain[family]


def _run(name: str, out: Path) -> None:
    """One stage in this process, on one thread."""
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    _stage(name)(out)


def _spawn(name: str, out: Path) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "valign.miniature.pretrain",
        "--out",
        str(out),
        "--process",
        name,
    ]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="working folder, made if missing")
    parser.add_argument(
        "--only",
        nargs="*",
        metavar="STAGE",
        help=f"some of {', '.join(STAGES)}; 'unet' and 'latents' mean all their processes",
    )
    parser.add_argument("--process", choices=STAGES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.process:
        _run(arguments.process, arguments.out)
        return
    wanted = arguments.only or [stage.partition("-")[0] for stage in STAGES]
    unknown = set(wanted) - {s for stage in STAGES for s in (stage, stage.partition("-")[0])}
    if unknown:
        parser.error(f"unknown stage {sorted(unknown)}; choose from {', '.join(STAGES)}")
    for line in PLAN:
        chosen = [stage for stage in line if stage in wanted or stage.partition("-")[0] in wanted]
        started = [(stage, _spawn(stage, arguments.out)) for stage in chosen]
        failed = [stage for stage, process in started if process.wait() != 0]
        if failed:
            sys.exit(f"stage {', '.join(failed)} failed; its message is above")


if __name__ == "__main__":
    main()
