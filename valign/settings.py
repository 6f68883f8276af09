"""What a recipe may say: one typed, frozen section for every stage, and one for resources.

A field's description is its manual. `config` joins the sections into a run and reads recipes.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SHIPPED = ("gender", "race", "nudity", "bloody", "horror")
"""The catalogue's principles; a recipe may describe others under `principles`."""


class Section(BaseModel):
    """A frozen group of settings that rejects keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class Sampling(Section):
    """How an image is sampled; every field changes pixels."""

    scheduler: Literal["dpmsolver++", "ddim", "euler"] = Field(
        "dpmsolver++", description="The solver, on the generator's own noise schedule."
    )
    solver_order: Literal[1, 2, 3] | None = Field(
        None, description="Of dpmsolver++; none: what the generator's folder says, else 2."
    )
    karras: bool | None = Field(
        None, description="Karras's noise levels; none: what the generator's folder says, else no."
    )
    steps: int = Field(10, ge=1, le=1000, description="Solver steps per image.")
    guidance: float = Field(7.5, ge=1.0, le=50.0, description="Classifier-free guidance scale.")
    size_px: int | None = Field(
        None, ge=8, description="Side of the square image; none: the generator's own."
    )
    precision: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="Of the generator's weights and computation."
    )
    batch_size: int = Field(
        40, ge=1, description="Images per batch, always filled up: part of the image's identity."
    )
    attention: Literal["auto", "flash", "efficient", "cudnn", "math"] = Field(
        "auto", description="Kernel of the UNet's attention; auto: torch's choice."
    )
    compile: bool = Field(False, description="Compile the UNet: minutes at first, then faster.")
    vae_tiling: bool = Field(
        False, description="Images larger than the VAE was made for in overlapping tiles."
    )
    vae_slicing: bool = Field(False, description="One image at a time through the VAE.")


class Images(Section):
    """How images are kept. What is embedded in each: its ids, seed and generator's fingerprint."""

    format: Literal["png", "webp", "jpeg"] = Field(
        "png", description="PNG and WebP are lossless; scorers see what was kept."
    )
    quality: int = Field(95, ge=1, le=100, description="Of JPEG.")
    embed_prompt: bool = Field(False, description="Embed the prompt's text as well.")


class Generate(Section):
    """Which images the preference data is made of."""

    shard_rows: int = Field(200, ge=1, description="Images per shard, the unit of work and loss.")
    principles: tuple[str, ...] = Field(
        SHIPPED, min_length=1, description="Principles to build preferences for."
    )
    bias_prompts: int | None = Field(
        None, ge=1, description="Concepts for the bias principles; none: all 528 of the catalogue."
    )
    toxic_prompts: int | None = Field(
        None, ge=1, description="Prompts per toxicity principle; none: all of the catalogue."
    )
    plan: Literal["even", "paper"] = Field(
        "even",
        description="How many images: as many of each prompt as the fields below say, or per "
        "prompt so that they sum to LiVO's table (159,040), neutral sets on top.",
    )
    neutral_images: int = Field(
        50, ge=1, description="Images per neutral prompt, from which the base shares are measured."
    )
    images_per_attribute_pair: int = Field(
        20, ge=1, description="Even plan: for each (race, gender) of a concept; ten such pairs."
    )
    images_per_toxic_prompt: int = Field(
        30, ge=1, description="Even plan: of a toxic prompt, and as many of its cleaned twin."
    )
    images_per_user_prompt: int = Field(1, ge=1, description="Images per prompt of a user's file.")


class Imports(Section):
    """Images of others, taken in the place of generated ones."""

    source: str = Field(
        "",
        description="Parquet, .csv, .tsv or .jsonl file, a folder of such or of pictures with .txt "
        "captions, or another run's root; empty: images are generated.",
    )
    caption: str | None = Field(
        None, description="Column of the captions; none: caption, prompt or text."
    )
    max_pixels: int = Field(
        1 << 26, ge=64, description="Pictures of more pixels are not decoded but quarantined."
    )


class Scorer(Section):
    """One scorer: the name its columns are kept under, what kind it is, and where it is from."""

    name: str = Field(description="Name of the scorer; its columns begin with it.")
    kind: str = Field(
        description="clip, clip_features, inception_features, hpsv2, pickscore, aesthetic, "
        "zero_shot, toxicity_head, zero_shot_toxicity, llava, or package.module:Class."
    )
    source: str = Field(
        "",
        description="Of the weights: folder, file, URL, hub id, or open_clip's name:weights.",
    )
    classes: tuple[str, ...] = Field(
        (),
        description="zero_shot: the attribute's classes. llava, zero_shot_toxicity: the kinds of "
        "content to look for; none: the toxicity principles.",
    )
    clip: str = Field(
        "",
        description="aesthetic, toxicity_head: the CLIP whose embeddings the head reads; none: the "
        "one its config.json names, for LAION's .pth ViT-L-14:openai.",
    )
    precision: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="Of the network; scores are float32."
    )
    options: dict[str, Any] = Field(
        {},
        description="More of a kind's own: hpsv2 version and architecture; llava question, chat "
        "and images_per_forward; zero_shot_toxicity toxic and harmless; a class's arguments.",
    )

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


class Score(Section):
    """What every image is scored with."""

    scorers: tuple[Scorer, ...] = Field((), description="The scorers, oracle included if any.")
    batch_size: int = Field(100, ge=1, description="Images per forward pass.")


class Pool(Section):
    """The workers of one stage, where they differ from those of `resources` itself."""

    workers: int | None = Field(None, ge=1, description="How many, all started at once.")
    cpus_per_worker: float | None = Field(None, gt=0, description="CPU cores reserved per worker.")
    gpus_per_worker: float | None = Field(None, ge=0, description="GPUs per worker: 0.5, 1, 2.")
    workers_per_gpu: int | None = Field(
        None, ge=1, description="Workers that share a GPU; the same as that fraction of one each."
    )
    memory_gib_per_worker: float | None = Field(
        None, gt=0, description="Memory reserved per worker, which Ray places them by."
    )
    accelerator_type: str | None = Field(
        None, description="Only nodes with this GPU, by Ray's name for it, such as H100."
    )
    custom: dict[str, float] = Field(
        default_factory=dict, description="Custom Ray resources per worker, {name: amount}."
    )
    labels: dict[str, str] = Field(
        default_factory=dict, description="Only nodes with these Ray labels, {key: value}."
    )

    @model_validator(mode="after")
    def _gpus_fit(self) -> "Pool":
        gpus = self.gpus_per_worker or 0
        if gpus > 1 and gpus % 1:
            raise ValueError(f"gpus_per_worker ({gpus:g}) must be whole, or below 1")
        if self.workers_per_gpu and self.gpus_per_worker is not None:
            raise ValueError("set gpus_per_worker or workers_per_gpu, not both")
        return self


class Retriever(Section):
    """How a prompt's principle is found: keywords, then (if one is named) a language model."""

    model: str = Field("", description="Chat model asked for persons; empty: the offline rule.")
    base_url: str = Field(
        "", description="OpenAI-compatible endpoint; empty: OPENAI_BASE_URL, or OpenAI's own."
    )
    timeout_s: float = Field(20.0, gt=0, description="Time for one try.")
    max_retries: int = Field(2, ge=0, le=10, description="Further tries, with growing pauses.")
    max_tokens: int = Field(16, ge=1, description="Of an answer; reasoning models need more.")


DEEPSPEED_OURS = (
    *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"),
    *("managed_gradient_accumulation", "optimizer", "scheduler", "gradient_clipping"),
    *("fp16", "bf16", "amp", "torch_autocast", "data_types", "communication_data_type"),
)
"""Keys that a DeepSpeed configuration may not hold: a result would depend on them."""


EngineName = Literal["ddp", "zero0", "zero1", "zero2", "zero3"]


class Engine(Section):
    """How the training workers share the work; no more than rounding depends on it."""

    name: EngineName = Field("ddp", description="Plain torch DDP, or DeepSpeed with a ZeRO stage.")
    offload: bool = Field(False, description="zero1 to zero3: optimizer state on the CPU.")
    deepspeed: dict[str, Any] = Field(
        {}, description="More of DeepSpeed's own configuration, or the path of its JSON file."
    )
    micro_steps: int = Field(
        1, ge=1, description="Parts of a worker's share of a step, one after another: less memory."
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute the UNet's activations again in the backward pass: less memory."
    )

    @field_validator("deepspeed", mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        try:
            return json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{given} is no JSON file that can be read: {error}") from error

    @model_validator(mode="after")
    def _fits(self) -> "Engine":
        if self.name == "ddp" and (self.offload or self.deepspeed):
            raise ValueError("offload and deepspeed need an engine zero1 to zero3")
        if self.name == "zero0" and self.offload:
            raise ValueError("there is nothing to offload in zero0: use zero1 to zero3")
        if taken := [key for key in DEEPSPEED_OURS if key in self.deepspeed]:
            raise ValueError(
                f"resources.engine.deepspeed may not hold {', '.join(taken)}: the recipe's own "
                "settings decide that"
            )
        zero = self.deepspeed.get("zero_optimization", {})
        if rounded := sorted(key for key in zero if key.startswith("zero_quantized")):
            raise ValueError(
                f"resources.engine.deepspeed may not hold {', '.join(rounded)}: weights and "
                "gradients are not rounded on their way here"
            )
        if (stage := zero.get("stage")) is not None and f"zero{stage}" != self.name:
            raise ValueError(
                f"resources.engine: name={self.name}, and deepspeed's zero_optimization has stage "
                f"{stage}; leave the stage out"
            )
        return self


POOLS = ("generate", "score", "encode", "train")  # stages with workers of their own


class Resources(Section):
    """Where and how fast the work runs.

    Nothing here changes a result, save that another number of training workers, or another engine,
    adds gradients in another order, which rounds differently in the last bits.
    """

    workers: int = Field(2, ge=1, description="Workers for generate, score, encode and evaluate.")
    train_workers: int = Field(2, ge=1, description="Data-parallel training workers.")
    engine: Engine = Field(default_factory=Engine, description="How these share the work.")
    cpus_per_worker: float = Field(1.0, gt=0, description="CPU cores reserved per worker.")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs per worker; fractions allowed.")
    max_attempts: int = Field(3, ge=1, description="Tries per shard before it is an error.")
    max_failures: int = Field(3, ge=0, description="Restarts of the training workers.")
    max_bad_fraction: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of images that may be quarantined, or not scored, before work stops.",
    )
    generate: Pool = Field(default_factory=Pool, description="Workers that draw, if they differ.")
    score: Pool = Field(default_factory=Pool, description="Workers that score, likewise.")
    encode: Pool = Field(default_factory=Pool, description="Workers that encode, likewise.")
    train: Pool = Field(default_factory=Pool, description="Training workers, likewise.")

    @model_validator(mode="after")
    def _pools_fit(self) -> "Resources":
        if self.train.workers is not None:
            raise ValueError("resources.train.workers: set resources.train_workers instead")
        for stage in ("generate", "score", "encode", "train"):
            self.pool(stage)  # a whole pool can be wrong where its parts are not
        return self

    def pool(self, stage: str) -> Pool:
        """Return a stage's pool with every number set; `evaluate` draws and scores in theirs.

        Raises:
            LookupError: the stage has no workers of its own.
        """
        pools = {name: getattr(self, name) for name in POOLS}
        if stage not in pools:
            raise LookupError(f"no pool of workers {stage!r}; there are {', '.join(pools)}")
        own: Pool = pools[stage]
        gpus = self.gpus_per_worker if own.gpus_per_worker is None else own.gpus_per_worker
        if own.workers_per_gpu:
            gpus = 10_000 // own.workers_per_gpu / 10_000  # Ray counts in ten-thousandths
        return Pool(
            workers=own.workers or (self.train_workers if stage == "train" else self.workers),
            cpus_per_worker=own.cpus_per_worker or self.cpus_per_worker,
            gpus_per_worker=gpus,
            memory_gib_per_worker=own.memory_gib_per_worker,
            accelerator_type=own.accelerator_type,
            custom=own.custom,
            labels=own.labels,
        )
