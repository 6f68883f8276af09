"""What a run will take, before anything runs: images, shards, bytes, operations, device-hours.

Operations are counted from the models' own modules; speed is one rate per device, operations per
second as measured or published, and every number says where it is from. Whatever cannot be counted
is named, never guessed at silently.
"""

import functools
import json
from dataclasses import dataclass, replace
from importlib import resources as package_resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from valign.catalogue.principles import TOXICITY
from valign.config import Run
from valign.evaluate_settings import ALIGNED, BASE
from valign.evaluation.sets import TOXICITY_SET
from valign.settings import Pool, Scorer
from valign.stages import evaluate_prompts, images, principles, prompts
from valign.stages.work import cut
from valign.storage.objects import resolve

if TYPE_CHECKING:
    from valign.models.flops import GeneratorFlops

CPU, PUBLISHED_GPU = "cpu core", "A100"
RAW_BYTES_PER_PIXEL = 3
# Of both images of a pair: the policy's forward, the reference's, and a backward to the value token
# or adapters through a UNet without weight gradients, which takes as much as a forward. A little
# too many: keys and values of a prompt are computed once (counted on the miniature: 5.1). Gradients
# of a whole UNet's weights take another forward, and so do activations that are computed again.
FORWARDS_PER_PAIR = 6
VOTERS = "ViT-H-14"  # the architecture of HPSv2 and PickScore
PICKSCORE = "yuvalkirstain/PickScore_v1"
LAION_CLIP = "ViT-L-14:openai"
MEASURE = "benchmarks/generate_gpu.py measures it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What one stage will take."""

    stage: str
    work: str
    images: int = 0
    shards: int = 0
    tflop: float = 0.0
    gib: float = 0.0
    device: str = ""
    devices: float = 0.0
    """How many work at once."""
    hours: float = 0.0
    """Of one device."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A run's lines, and what they rest on."""

    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    def cost(self, price_per_hour: float) -> float:
        """Return what the hours of GPUs cost, or of CPU cores in a run without GPUs."""
        hours = self.device_hours
        gpus = sum(count for name, count in hours.items() if name != CPU)
        return price_per_hour * (gpus or hours.get(CPU, 0.0))

    @property
    def device_hours(self) -> dict[str, float]:
        """Hours by device, over all stages."""
        hours: dict[str, float] = {}
        for line in self.lines:
            if line.hours:
                hours[line.device] = hours.get(line.device, 0) + line.hours
        return hours


def rates() -> dict[str, dict[str, Any]]:
    """Return, by device, `tflop_per_s` and `source`."""
    text = (package_resources.files("valign") / "stages" / "rates.json").read_text("utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def estimate(run: Run, *, device: str | None = None, tflop_per_s: float | None = None) -> Estimate:
    """Return what every stage of a run will take.

    Args:
        run: the run.
        device: whose rate to use for stages on GPUs, such as H100; default: the pool's
            `accelerator_type`, or an A100, of which a rate is published.
        tflop_per_s: the device's rate, instead of a known one.

    Raises:
        LookupError: no rate is known of the device.
        ValueError: the generator's configs cannot be read, or the images are not generated here.
    """
    if run.imports.source:
        raise ValueError(
            f"how many images {run.imports.source} holds is known once they are imported: plan "
            "reads settings only. Leave imports.source out to plan a run that generates"
        )
    model = _generator(run)
    scored, notes = _scorers(run)
    lines = []
    for line in _work(run, model, scored):
        drawing = line.stage in ("calibrate", "evaluate")
        pool = run.resources.pool("generate" if drawing else line.stage)
        name, working = _device(pool, device)
        rate, source = _rate(name, tflop_per_s)
        notes.append(f"{name}: {rate:g} TFLOP/s, {source}")
        hours = line.tflop / rate / 3600
        lines.append(replace(line, device=name, devices=working, hours=hours))
    notes += [
        f"operations: {model.source}; a multiply-add is two; text encoders are left out",
        f"GiB of images: at most, {RAW_BYTES_PER_PIXEL} bytes a pixel before compression",
    ]
    return Estimate(tuple(lines), tuple(dict.fromkeys(notes)))


def _rate(name: str, given: float | None) -> tuple[float, str]:
    """Return a device's operations per second, in 1e12, and where the number is from."""
    if given and name != CPU:
        return given, "as given"
    known = rates()
    if name not in known:
        raise LookupError(
            f"no rate is known of {name}; there are {', '.join(known)}. Give the TFLOP/s that it "
            f"sustains (--tflops): {MEASURE}"
        )
    return known[name]["tflop_per_s"], known[name]["source"]


def _generator(run: Run) -> "GeneratorFlops":
    """Count the run's generator; of one that is not on this machine only configs are fetched."""
    from valign.models import flops, pipeline_files

    configs = functools.partial(pipeline_files.is_wanted, weights=False)
    source = run.generator_config or run.generator
    if source.endswith(".safetensors"):
        raise ValueError(
            f"{source} is a single-file checkpoint without configs: give generator_config, the "
            "folder or hub id of a pipeline of the same architecture"
        )
    return flops.of_generator(resolve(source, configs), run.sampling.size_px)


def _work(run: Run, model: "GeneratorFlops", scored: float) -> list[Line]:
    """Return the lines without what they take of a device."""
    image = model.image(run.sampling.steps, run.sampling.guidance) / 1e12
    score = scored / 1e12
    made, shards, usable = _images(run)
    gib = RAW_BYTES_PER_PIXEL * model.size_px**2 / 2**30
    lines = [
        Line(
            stage="generate",
            work="draw",
            images=made,
            shards=shards,
            tflop=made * image,
            gib=made * gib,
        ),
        Line(stage="score", work="score", images=made, shards=shards, tflop=made * score),
    ]
    if run.prompts != "catalogue" and run.label.rule != "vote":
        return lines  # such images are scored and not paired
    pairs = run.train.steps * run.train.global_batch
    kinds = _evaluation(run)
    drawn = sum(kinds)
    held_back = prompts.calibration(run)
    calibrated = len({p for found in held_back.values() for p in found})
    calibrated += sum(len(found) for found in held_back.values())
    calibrated *= run.train.calibration_images
    calibration = Line(
        stage="calibrate",
        work="draw and score",
        images=calibrated,
        shards=len(cut(calibrated, run.generate.shard_rows)),
        tflop=calibrated * (image + score),
        gib=calibrated * gib,
    )
    return [
        *lines,
        Line(
            stage="encode",
            work="encode, at most",
            images=usable,
            shards=shards,
            tflop=usable * model.encode / 1e12,
            gib=usable * model.latent_bytes / 2**30,
        ),
        Line(
            stage="train",
            work=f"{pairs:,} pairs",
            tflop=pairs * _forwards(run) * model.unet / 1e12,
        ),
        *([calibration] if calibrated else []),
        Line(
            stage="evaluate",
            work="draw and score",
            images=drawn,
            shards=sum(len(cut(rows, run.generate.shard_rows)) for rows in kinds),
            tflop=drawn * (image + score),
            gib=drawn * gib,
        ),
    ]


def tflop_per_pair(run: Run) -> float:
    """Return the operations of training on one pair."""
    return _forwards(run) * _generator(run).unet / 1e12


def _forwards(run: Run) -> int:
    """Return how many forwards of the UNet training on one pair takes."""
    again = run.resources.engine.gradient_checkpointing
    return FORWARDS_PER_PAIR + 2 * ("unet" in run.train.trains) + 2 * again


def _images(run: Run) -> tuple[int, int, int]:
    """Return images, shards, and how many of the images a pair may use."""
    requests = prompts.training(run).requests
    made = sum(request.images for request in requests)
    toxic = sum(r.images for r in requests if images.toxic(r.prompt.role, r.prompt.category))
    size = run.generate.shard_rows
    shards = len(cut(made - toxic, size)) + len(cut(toxic, size))
    voted = run.label.rule == "vote"
    usable = sum(r.images for r in requests if voted or r.prompt.role != "neutral")
    return made, shards, usable


def _evaluation(run: Run) -> list[int]:
    """Return how many images evaluate draws, at most, of each kind that has shards of its own.

    The base's and the aligned model's with a token, of faces and of toxic prompts; what the aligned
    model draws without a token is the base's. All images of other models, and of prompt sets, are
    counted, though what shares the base's weights draws fewer.
    """
    settings = run.evaluate
    asked = prompts.evaluation(run) if settings.holds_catalogue else {}
    toxic = len(asked.pop(TOXICITY_SET, ())) * settings.images_per_toxic_prompt
    samples = settings.images_per_bias_prompt
    faces = len({prompt for held_out in asked.values() for prompt in held_out}) * samples
    shares = principles.drop(run)
    with_token = sum(len(found) * round(shares[key] * samples) for key, found in asked.items())
    others = len(set(settings.sources) - {BASE, ALIGNED})
    drawn = [faces, toxic] * (1 + others) + [with_token, toxic] * (ALIGNED in settings.sources)
    return drawn + evaluate_prompts.sizes(run) * len(settings.sources)


def _device(pool: Pool, device: str | None) -> tuple[str, float]:
    """Return a pool's device and how many of them it keeps busy."""
    assert pool.workers and pool.cpus_per_worker
    if pool.gpus_per_worker:
        return device or pool.accelerator_type or PUBLISHED_GPU, pool.workers * pool.gpus_per_worker
    return CPU, float(pool.workers)


def _scorers(run: Run) -> tuple[float, list[str]]:
    """Return operations per image over all scorers, each network once, and what is not counted."""
    from valign.models import flops

    networks: dict[str, float] = {}
    left_out = []
    for scorer in run.score.scorers:
        if scorer.kind == "llava":
            asked = flops.of_question(_here(scorer.source))
            counted = asked and asked * len(
                scorer.classes or scorer.options.get("classes") or TOXICITY
            )
            network = scorer.name
        else:
            network, architecture = _backbone(scorer)
            counted = flops.of_image_tower(architecture) if architecture else None
        if counted is None:
            left_out.append(scorer.name)
        else:
            networks[network] = counted
    return sum(networks.values()), [
        f"scorer {name}: its operations cannot be counted and are left out" for name in left_out
    ]


def _backbone(scorer: Scorer) -> tuple[str, str]:
    """Return the CLIP whose image encoder a scorer runs: what it is shared by, and what it is.

    The second is a folder or an architecture's name, "" where neither is known.
    """
    source = _here(scorer.source)
    if ":" in scorer.kind:  # a class of the user's own
        return scorer.name, ""
    if scorer.kind in ("hpsv2", "pickscore"):
        published = scorer.kind == "hpsv2" or source == PICKSCORE
        return source, source if Path(source).is_dir() else VOTERS if published else ""
    if scorer.kind in ("aesthetic", "toxicity_head"):
        source = _here(scorer.clip) or _beside(Path(source))
    return source, source


def _beside(head: Path) -> str:
    """Return the CLIP that a head's config.json names, as a folder beside it or by name."""
    if not (head / "config.json").is_file():
        return LAION_CLIP
    named = str(json.loads((head / "config.json").read_text(encoding="utf-8"))["clip"])
    return str((head / named).resolve()) if (head / named).is_dir() else named


def _here(source: str) -> str:
    """Return a local path for what lies on this machine, any other source as it is."""
    local = source.startswith(("package:", "file:")) or (source and Path(source).exists())
    return resolve(source) if local else source
