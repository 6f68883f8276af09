#!/usr/bin/env python
"""Generate and score a file of prompts by the job that users run, and write what came of it.

    python benchmarks/own_prompts.py PartiPrompts.tsv    # docs/results/PartiPrompts.md

One image per prompt with the built-in miniature, on Ray. Says how many prompts were taken and why
others were not, the job's own summary, minutes, and the mean of every score with a 95% bootstrap
interval over prompts. The miniature draws emblems, so scores of prompts outside its world say that
the path holds, not that the pictures are good.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from shared.host import machine, print_result

from valign.evaluation.intervals import mean_interval
from valign.stages.scores import read_scores
from valign.storage import manifests
from valign.storage.objects import Store, open_store

JOB = Path(__file__).parents[1] / "jobs" / "build_dataset.py"
NAME = "own prompts, generated and scored"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", nargs="?", help=".txt, .csv, .tsv or .jsonl file of prompts")
    parser.add_argument("--out", default="docs/results", help="folder of the page")
    arguments = parser.parse_args()
    if arguments.prompts is None:
        print("skipped: no file of prompts was named")
        print_result(benchmark=NAME, figure=None, goal="all", unit="images", spread=None)
        return
    with tempfile.TemporaryDirectory() as root:
        began = time.perf_counter()
        words = [f"prompts={arguments.prompts}", f"root={root}"]
        done = subprocess.run(
            [sys.executable, str(JOB), *words], stdout=subprocess.PIPE, text=True, check=False
        )
        minutes = (time.perf_counter() - began) / 60
        print(done.stdout, flush=True)
        if done.returncode:
            raise SystemExit(f"the job ended with exit code {done.returncode}")
        store = open_store(root)
        made, scored = manifests.get(store, "generate"), manifests.get(store, "score")
        assert made is not None and scored is not None
        name = Path(arguments.prompts).stem
        summary = [text for text in done.stdout.splitlines() if text.startswith(("gen", "score"))]
        page = f"""# The prompts of `{Path(arguments.prompts).name}`, generated and scored

Written by `python benchmarks/own_prompts.py {Path(arguments.prompts).name}`, which runs
`jobs/build_dataset.py prompts=…` with the built-in miniature: one image per prompt.

- prompts taken: {made.counts["prompts"]:,}; rows skipped: {len(made.counts["skipped_rows"]):,};
  images scored: {scored.counts["images"]:,}
- minutes, Ray's start included: {minutes:.1f}; machine: {machine()}

```
{chr(10).join(summary)}
```

| score | mean [95% interval] | n | not scored |
|---|---|---|---|
{chr(10).join(rows(store))}
"""
        Path(arguments.out, f"{name}.md").write_text(page, encoding="utf-8")
    print(f"images scored, of {made.counts['prompts']:,} prompts taken")
    images = scored.counts["images"]
    print_result(benchmark=NAME, figure=images, goal="all", unit="images", spread=None)


def rows(store: Store) -> list[str]:
    """Return one table row per score, and per class of a score that has classes."""
    found = read_scores(store)
    table = []
    for name, values_NK in sorted(found.scored.items()):
        for k in range(values_NK.shape[1]):
            column_N = values_NK[:, k].astype(np.float64)
            missing = int(np.isnan(column_N).sum())
            if missing == len(column_N):
                continue
            mean = mean_interval(column_N, seed=0)
            title = f"{name}[{k}]" if values_NK.shape[1] > 1 else name
            cell = f"{mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]"
            table.append(f"| {title} | {cell} | {mean.n:,} | {missing:,} |")
    return table


if __name__ == "__main__":
    main()
