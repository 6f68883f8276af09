"""A run to serve, and its models and scorers called directly by a process of one thread.

`make_run` writes the run, `load` is what a process pool begins with, and `measure` is what it is
asked.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from valign import config
from valign.catalogue.principles import PRINCIPLES
from valign.models.aligned import AlignedPipeline, save_aligned
from valign.models.generator import Sampler
from valign.models.value_encoder import ValueEncoder
from valign.records import noise_seed
from valign.serving.wire import Picture
from valign.stages import image_files
from valign.stages import serve as stage
from valign.stages.generate import load_generator
from valign.storage import layout

BATCH = 8
STEPS = 10
PRINCIPLE = "bloody"  # of toxicity: every image of the prompt gets the token
PROMPT = "a photo of the face of a doctor, covered in blood"
_loaded: dict[str, Any] = {}


def make_run(root: Path) -> None:
    """Write a run whose aligned model is as costly as a trained one, but is not trained."""
    run = config.load("miniature", [f"root={root}", f"sampling.steps={STEPS}"])
    generator = load_generator(run, "float32")
    encoder = ValueEncoder.from_generator(generator, {PRINCIPLE: PRINCIPLES[PRINCIPLE].text})
    (root / layout.RECIPE).write_text(config.dump(run))
    save_aligned(
        root / layout.ALIGNED, encoder, base=run.generator, card="", sampler=Sampler(steps=STEPS)
    )


def load(root: str) -> None:
    """Load what is measured, once per process."""
    pipeline = AlignedPipeline.from_pretrained(Path(root) / layout.ALIGNED)
    evaluator = stage.load_evaluator(stage.run_of(root, [f"serve.batch_size={BATCH}"]))
    _loaded.update(pipeline=pipeline, evaluator=evaluator)
    _loaded["picture"] = image_files.png(_draw(1)[0])


def _draw(size: int) -> Any:
    """Draw as `valign sample` and the evaluation do, without files."""
    seeds = [noise_seed(1, PROMPT, index) for index in range(size)]
    return _loaded["pipeline"]([PROMPT] * size, [PRINCIPLE] * size, seeds, batch_size=size)


def measure(what: str, seconds: float) -> Any:
    """Return the seconds of each call of a piece of work that is done for so long."""
    if what == "picture":
        return _loaded["picture"]
    pictures = [Picture(data=_loaded["picture"], prompt=PROMPT)] * BATCH
    work: dict[str, Callable[[], object]] = {
        "batch": lambda: _draw(BATCH),
        "one": lambda: _draw(1),
        "score": lambda: _loaded["evaluator"].score(pictures),
    }
    work[what]()
    taken, end = [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        work[what]()
        taken.append(time.perf_counter() - began)
    return taken
