"""Train the miniature's networks from nothing and write the folders that are shipped.

In: nothing but this package. Out: in the folder, one `<stage>.jsonl` of losses per stage,
`curves.png`, `minutes.log` with the time of each line of the plan, and `weights/` with the
folders that are shipped. Fixed seeds; stages are selectable
(`--only vae`), run each in its own single-threaded process, two at a time, and read each other's
results from the folder. The same machine, versions and number of processes give the same weights.
`--scale 0.01` does a hundredth of the steps: a rehearsal, whose weights are of no use.
`--processes 1` does one stage after the other in this process.

How the shipped weights came about: by this code, in rounds and not in one go. The autoencoder and
CLIP were trained when the nudity mark's stripes were finer; the UNet's last round is 700 further
steps after the gender shares were set to 0.80 and 0.20, on a pool encoded anew. The text encoder
was not yet asked which principle's sentence stands beside a caption, and hardly tells gender's from
race's: that makes the shipped model harder to align than one that this code trains. The voters were
trained last, from `weights/generator` and `weights/clip` as shipped; the eyes that they start from
were trained together with a larger text tower, since replaced. The LLaVA is not shipped yet: it
tells toxic images from clean ones, but not one kind of content from another. All stages from
nothing have been run at a small scale only: at full scale they should give weights near to the
shipped ones in kind, not equal to them.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from valign.miniature import generator_stages, scorer_stages
from valign.miniature.progress import Work, log_minutes

PLAN: tuple[tuple[str, ...], ...] = (  # stages of one line run side by side
    ("tokenizer",),
    ("text", "vae"),
    ("sharpen-0", "sharpen-1"),
    ("latents-0", "latents-1", "contexts"),
    ("unet-0", "unet-1"),
    ("clip",),
    ("toxicity", "assemble"),
    ("judged-0", "judged-1"),
    ("verdicts",),
    ("eyes", "aesthetic"),
    ("words",),
    ("hpsv2", "pickscore"),
    ("llava",),
)
STAGES = tuple(stage for line in PLAN for stage in line)
_ALONE: dict[str, Callable[[Work], None]] = {
    "tokenizer": generator_stages.train_tokenizer,
    "text": generator_stages.train_text,
    "vae": generator_stages.train_vae,
    "contexts": generator_stages.encode_contexts,
    "clip": scorer_stages.train_clip,
    "toxicity": scorer_stages.train_toxicity,
    "assemble": generator_stages.assemble,
    "verdicts": scorer_stages.collect_verdicts,
    "eyes": scorer_stages.teach_eyes,
    "words": scorer_stages.teach_words,
    "aesthetic": scorer_stages.train_aesthetic,
    "hpsv2": partial(scorer_stages.tune_rater, rater="hpsv2"),
    "pickscore": partial(scorer_stages.tune_rater, rater="pickscore"),
    "llava": scorer_stages.train_llava,
}
_NUMBERED: dict[str, Callable[[Work, int], None]] = {  # a process each, told its number
    "sharpen": generator_stages.sharpen_vae,
    "latents": generator_stages.encode_latents,
    "unet": generator_stages.train_unet,
    "judged": scorer_stages.make_judged,
}


def _run(name: str, work: Work) -> None:
    """One stage in this process."""
    family, _, number = name.partition("-")
    if number:
        _NUMBERED[family](work, int(number))
    else:
        _ALONE[family](work)


def _run_all(stages: list[str], work: Work) -> None:
    """Stages that do not wait for each other; side by side, each in a process, unless told not to.

    Raises SystemExit if one fails.
    """
    if work.processes == 1:
        for stage in stages:
            _run(stage, work)
        return
    started = [(stage, _spawn(stage, work)) for stage in stages]
    failed = [stage for stage, process in started if process.wait() != 0]
    if failed:
        sys.exit(f"stage {', '.join(failed)} failed; its message is above")


def _spawn(name: str, work: Work) -> subprocess.Popen:
    command = [sys.executable, "-m", "valign.miniature.pretrain", "--process", name]
    command += ["--out", str(work.out), "--scale", str(work.scale)]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})


def _on_one_thread() -> None:
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="working folder, made if missing")
    parser.add_argument(
        "--only",
        nargs="*",
        metavar="STAGE",
        help=f"some of {', '.join(STAGES)}; 'unet' and 'latents' mean all their processes",
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the steps and images, for a rehearsal"
    )
    parser.add_argument("--processes", type=int, choices=(1, 2), default=2, help="at a time")
    parser.add_argument("--process", choices=STAGES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not 0 < arguments.scale <= 1:
        parser.error(f"--scale {arguments.scale} is not above 0 and at most 1")
    arguments.out.mkdir(parents=True, exist_ok=True)
    work = Work(arguments.out, arguments.scale, arguments.processes)
    if arguments.process or work.processes == 1:
        _on_one_thread()
    if arguments.process:
        _run(arguments.process, work)
        return
    families = [stage.partition("-")[0] for stage in STAGES]
    wanted = arguments.only or families
    if unknown := set(wanted) - {*STAGES, *families}:
        parser.error(f"unknown stage {sorted(unknown)}; choose from {', '.join(STAGES)}")
    for line in PLAN:
        chosen = [stage for stage in line if stage in wanted or stage.partition("-")[0] in wanted]
        numbered = [stage for stage in chosen if not stage.endswith("-1") or work.processes == 2]
        if numbered:
            began = _clocks()
            _run_all(numbered, work)
            log_minutes(work.out, numbered, began, _clocks())
    _draw(work)


def _clocks() -> tuple[float, float]:
    """Seconds on the wall, and of every core that this process and its ended children had."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.monotonic(), sum(each.ru_utime + each.ru_stime for each in used)


def _draw(work: Work) -> None:
    from valign.miniature import publish

    publish.draw_curves(work.out)


if __name__ == "__main__":
    main()
