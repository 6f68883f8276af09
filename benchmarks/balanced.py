#!/usr/bin/env python
"""BalancedDPO on the miniature: best-of-5 win rates over the base, several seeds and ablations.

    python benchmarks/balanced.py              # a few minutes: only to see that it runs
    python benchmarks/balanced.py --full       # hours on two cores; writes docs/results/training.md

Every variant trains on the same pairs' images. Each model draws five images of each held-out prompt
from the same noise; per metric and prompt the best of the five counts, a tie one half (BalancedDPO
paper, section V). The prompts are the catalogue's evaluation prompts and the cleaned texts of its
toxic ones, none of which is trained on. Intervals are over prompts, and corrected for the number of
metrics. What is unfinished under --root is resumed. Without --full there are few images, prompts
and steps, one variant, a folder that is deleted afterwards, and no page: its figures mean nothing.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
from shared.host import print_result

from valign import config
from valign.config import Run
from valign.evaluation.intervals import mean_interval
from valign.stages import prompts
from valign.stages.execute import execute
from valign.stages.inline import Inline
from valign.stages.scores import read_scores
from valign.storage import layout
from valign.storage.objects import open_store

RECIPE, IMAGES = "balanced_dpo_miniature", 5
METRICS = ("clip_score", "hpsv2", "pickscore", "aesthetic")
SHORT = [
    *("generate.bias_prompts=4", "generate.toxic_prompts=2", "generate.neutral_images=6"),
    *("train.steps=3", "train.warmup_steps=1", "train.global_batch=4", "train.refresh_every=2"),
]
VARIANTS: dict[str, list[str]] = {
    "balanced": [],
    "no refresh": ["train.refresh_every=0"],
    "single metric": ["label.vote.mode=single", "label.vote.single=clip_score"],
    "loss aggregation": ["train.aggregation=losses"],
    "random scorer": ["train.aggregation=random_scorer"],
    "normalized": ["label.vote.mode=normalized"],
    "diffusion dpo on the human label": [
        "train.objective=diffusion_dpo",
        "train.refresh_every=0",
        "label.vote.voters=[utility.human_label]",
    ],
    "lora": ["train.trains=lora", "train.learning_rate=1.0e-4"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="measure, for hours, and write a page")
    parser.add_argument("--root", type=Path, default=Path("runs/balanced"), help="with --full")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="with --full")
    parser.add_argument("--seeds", type=int, default=3, help="with --full")
    parser.add_argument("--prompts", type=int, default=1000, help="held out; with --full")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), help="with --full")
    parser.add_argument("overrides", nargs="*", help="key=value, for every run")
    arguments = parser.parse_args()
    if arguments.full:
        write(arguments, measure(arguments))
        return
    arguments.seeds, arguments.prompts, arguments.variants = 1, 10, ["balanced"]
    arguments.overrides = [*SHORT, *arguments.overrides]
    with tempfile.TemporaryDirectory(prefix="valign-balanced-") as folder:
        arguments.root = Path(folder)
        show(measure(arguments))


Found = dict[str, dict[str, list[dict[str, float]]]]
"""Variant -> metric -> per seed what `win_rates` returns."""


def measure(arguments: argparse.Namespace) -> Found:
    """Train and draw every variant with every seed; return its win rates over the base."""
    arguments.root.mkdir(parents=True, exist_ok=True)
    asked = held_out(arguments.root, arguments.prompts)
    found: Found = {}
    for seed in range(arguments.seeds):
        data = arguments.root / f"data-{seed}"
        run = load(data, seed, arguments)
        execute(("generate", "score", "label", "encode"), run, Inline())
        base = best(draw(arguments.root / f"base-{seed}", asked, run.generator, arguments))
        for name in arguments.variants:
            model = train(arguments.root / f"{name.replace(' ', '-')}-{seed}", name, data, seed,
                          arguments)  # fmt: skip
            if model is None:
                continue
            drawn = draw(model.parent.parent / "drawn", asked, str(model), arguments)
            for metric, rates in win_rates(best(drawn), base, seed).items():
                found.setdefault(name, {}).setdefault(metric, []).append(rates)
    return found


def load(root: Path, seed: int, arguments: argparse.Namespace, *more: str) -> Run:
    """Return the recipe under a root, with a seed and the command line's overrides."""
    settings = [f"root={root}", f"seed={seed}", *arguments.overrides, *more]
    return config.load(RECIPE, [*settings, "resources.train_workers=1"])


def train(
    root: Path, name: str, data: Path, seed: int, arguments: argparse.Namespace
) -> Path | None:
    """Train a variant on a seed's images; return the folder of the trained pipeline, if any."""
    for stage in ("generate", "score"):
        if not (root / stage).exists():
            shutil.copytree(data / stage, root / stage)
    run = load(root, seed, arguments, *VARIANTS[name])
    execute(("label", "encode", "train"), run, Inline())
    if run.train.trains == "lora":
        print(f"{name}: adapters are trained and saved; they are drawn with peft, not here")
        return None
    return root / layout.MODEL


def held_out(root: Path, count: int) -> Path:
    """Write a file of prompts that are never trained on; return its path."""
    run = config.load(RECIPE, ["evaluate.bias_prompts=null", "evaluate.toxic_prompts=null"])
    asked = [prompt for found in prompts.evaluation(run).values() for prompt in found]
    texts = list(dict.fromkeys(prompt.cleaned or prompt.text for prompt in asked))
    if len(texts) < count:
        raise SystemExit(f"error: there are {len(texts)} held-out prompts, not {count}")
    chosen = np.random.default_rng(0).permutation(len(texts))[:count]
    file = root / "held_out.txt"
    file.write_text("".join(f"{texts[row]}\n" for row in sorted(chosen)))
    return file


def draw(root: Path, asked: Path, generator: str, arguments: argparse.Namespace) -> Path:
    """Draw and score the held-out prompts with a generator; return the root."""
    run = load(
        root,
        0,  # the same noise for every model
        arguments,
        f"prompts={asked}",
        f"generator={generator}",
        f"generate.images_per_user_prompt={IMAGES}",
    )
    execute(("generate", "score"), run, Inline())
    return root


def best(root: Path) -> dict[str, dict[str, float]]:
    """Return per metric and prompt the best of its images."""
    scores = read_scores(open_store(str(root)))
    found: dict[str, dict[str, float]] = {}
    for metric in METRICS:
        per_prompt: dict[str, list[float]] = {}
        for text, value in zip(scores["text"], scores.values(metric)[:, 0], strict=True):
            per_prompt.setdefault(text, []).append(float(value))
        found[metric] = {
            text: float(np.nanmax(values))
            for text, values in per_prompt.items()
            if not np.all(np.isnan(values))
        }
    return found


def win_rates(
    mine: dict[str, dict[str, float]], base: dict[str, dict[str, float]], seed: int
) -> dict[str, dict[str, float]]:
    """Return per metric the share of prompts won, ties one half, with an interval over prompts."""
    rates = {}
    for metric, values in mine.items():
        both = sorted(values.keys() & base[metric].keys())
        signs = np.sign([values[text] - base[metric][text] for text in both])
        won = (signs + 1) / 2
        interval = mean_interval(won, seed=seed)
        # 95% for all metrics together: Bonferroni, by the normal approximation.
        half = NORMAL * float(won.std(ddof=1)) / len(won) ** 0.5
        rates[metric] = {
            "rate": interval.value,
            "low": interval.value - half,
            "high": interval.value + half,
            "ties": float((signs == 0).mean()),
            "n": len(both),
        }
    return rates


NORMAL = 2.498  # of a two-sided interval of 1 - 0.05 / 4


def write(arguments: argparse.Namespace, found: Found) -> None:
    """Write the page, and print the figures."""
    lines = [
        "# BalancedDPO on the miniature",
        "",
        f"Written by `python benchmarks/balanced.py --full`: {arguments.seeds} seeds, "
        f"{arguments.prompts} held-out prompts, best of {IMAGES} images of the same noise, against "
        "the base model. Share of prompts won in percent, ties one half; in brackets the 95% "
        f"interval of all {len(METRICS)} metrics together, over prompts; seeds side by side.",
        "",
        "| variant | " + " | ".join(METRICS) + " |",
        "|---" * (len(METRICS) + 1) + "|",
    ]
    for name, metrics in found.items():
        lines.append(f"| {name} | " + " | ".join(cell(metrics[m]) for m in METRICS) + " |")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "training.md").write_text("\n".join(lines) + "\n")
    show(found)


def cell(seeds: list[dict[str, float]]) -> str:
    """Return the shares of prompts won, seed by seed, in percent with their intervals."""
    return " · ".join(
        f"{100 * r['rate']:.1f} [{100 * r['low']:.1f}, {100 * r['high']:.1f}]" for r in seeds
    )


def show(found: Found) -> None:
    """Print the figures, and how many metrics the method itself wins beyond chance."""
    print(f"share of prompts won over the base, best of {IMAGES}, in percent, seeds side by side")
    for name, metrics in found.items():
        for metric in METRICS:
            print(f"{name}, {metric}: {cell(metrics[metric])}")
    won = [[r["low"] > 0.5 for r in seeds] for seeds in found.get("balanced", {}).values()]
    per_seed = [sum(of_seed) for of_seed in zip(*won, strict=True)]
    print("a metric counts if its interval is above 50% with every seed; the spread is of seeds")
    print_result(
        benchmark=f"balanced: best-of-{IMAGES} win rates over the base",
        figure=sum(map(all, won)) if won else None,
        goal=f"{len(METRICS)} with every seed",
        unit="metrics won",
        spread=[min(per_seed), max(per_seed)] if won else None,
    )


if __name__ == "__main__":
    main()
