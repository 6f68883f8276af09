"""What a run is: one typed, frozen recipe, with a section for every stage.

A recipe is YAML, `base:` another recipe plus the lines that differ. `load` merges it, applies
`key=value` overrides, checks every key and value, and returns a `Run`. The resolved recipe is saved
at the run's root. Settings that change results are fingerprinted; `resources` only says where and
how fast the work runs, `serve` who may ask for it later, `train.samples` what is looked at
meanwhile: these are left out of fingerprints.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from importlib import resources as package_resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from valign import principle_settings, recipe_errors
from valign.evaluate_settings import Evaluate
from valign.label_settings import Label
from valign.principle_settings import OwnPrinciple
from valign.records import digest
from valign.serve_settings import Serve
from valign.settings import (
    Generate,
    Images,
    Imports,
    Resources,
    Retriever,
    Sampling,
    Score,
    Section,
)
from valign.train_settings import Train

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it in a submitted job
STAGES = ("generate", "score", "label", "encode", "train", "evaluate")


class Run(Section):
    """One run: everything that its results depend on, and where they are kept."""

    root: str = Field("runs/run", description="Folder or URL that all artifacts go under.")
    seed: int = Field(0, ge=0, description="Seed of all randomness.")
    generator: str = Field(
        "package:valign.miniature/weights/generator",
        description="The text-to-image model (Stable Diffusion 1.x, 2.x or XL): hub id, folder, "
        ".safetensors checkpoint, or package:, file:// or s3:// URL of one.",
    )
    generator_variant: str | None = Field(
        None, description="Which of its weight files, as in diffusers (fp16); none: the plain ones."
    )
    generator_config: str | None = Field(
        None,
        description="Of a single-file checkpoint: the pipeline whose configs and tokenizers it "
        "needs, as folder, URL or hub id.",
    )
    generator_sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="What it must be: the checkpoint's hash, or a folder's fingerprint as `valign "
        "check` prints it; none: anything.",
    )
    prompts: str = Field(
        "catalogue", description="`catalogue`, or a .txt, .csv, .tsv or .jsonl file of prompts."
    )
    prompts_column: str | None = Field(
        None, description="Column of the prompts in that file; none: found by its name."
    )
    prompts_strict: bool = Field(
        False, description="Stop at a bad row of that file, not skip and count it."
    )
    principles: dict[str, OwnPrinciple] = Field(
        default_factory=dict, description="Principles beside the catalogue's, {key: description}."
    )
    imports: Imports = Field(default_factory=Imports)
    sampling: Sampling = Field(default_factory=Sampling)
    images: Images = Field(default_factory=Images)
    generate: Generate = Field(default_factory=Generate)
    score: Score = Field(default_factory=Score)
    label: Label = Field(default_factory=Label)
    train: Train = Field(default_factory=Train)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    retriever: Retriever = Field(default_factory=Retriever)
    resources: Resources = Field(default_factory=Resources)
    serve: Serve = Field(default_factory=Serve)

    @model_validator(mode="after")
    def _principles_fit(self) -> "Run":
        principle_settings.check(self.principles, self.generate.principles)
        for scorer in self.score.scorers:
            own = self.principles.get(scorer.name)
            if own and own.kind == "bias" and scorer.classes != own.attributes:
                raise ValueError(
                    f"the scorer {scorer.name} must list the classes {list(own.attributes)} of its "
                    f"principle in this order, not {list(scorer.classes)}"
                )
        return self

    @model_validator(mode="after")
    def _counts_fit(self) -> "Run":
        if self.train.global_batch % self.resources.train_workers:
            raise ValueError(
                f"train.global_batch ({self.train.global_batch}) must be a multiple of "
                f"resources.train_workers ({self.resources.train_workers})"
            )
        micro, share = (
            self.resources.engine.micro_steps,
            self.train.global_batch // self.resources.train_workers,
        )
        if micro > share:
            raise ValueError(
                f"resources.engine.micro_steps ({micro}) must not be above a worker's pairs of a "
                f"step ({share}): train.global_batch / resources.train_workers"
            )
        if self.generate.plan == "paper" and self.generate.neutral_images < 50:
            raise ValueError(
                f"generate.neutral_images ({self.generate.neutral_images}) must be at least 50 "
                "with generate.plan=paper: the base shares are measured from them"
            )
        if self.evaluate.images_per_toxic_prompt % self.evaluate.group_size:
            raise ValueError(
                f"evaluate.images_per_toxic_prompt ({self.evaluate.images_per_toxic_prompt}) must "
                f"be a multiple of evaluate.group_size ({self.evaluate.group_size})"
            )
        return self

    @property
    def training_seed(self) -> int:
        """Seed of the order of pairs, of noise and of whatever else is drawn in training."""
        return self.seed if self.train.seed is None else self.train.seed

    def settings(self, stage: str) -> dict[str, Any]:
        """Return the settings that shape a stage's result, flat: {"train.steps": 500, ...}."""
        if stage not in STAGES:
            raise LookupError(f"no stage {stage!r}; there are {', '.join(STAGES)}")
        views: Any = {"root": True, "resources": True, "serve": True, "train": {"samples"}}
        everything = self.model_dump(mode="json", exclude=views)
        if stage == "generate" and self.imports.source:
            shards = {"shard_rows": self.generate.shard_rows}
            # the later stages go by these too, and keep no settings of their own for them
            shards["principles"] = everything["generate"]["principles"]
            kept = {"imports": everything["imports"], "generate": shards}
            return flatten({**kept, "sampling": everything["sampling"]})
        shared = (
            {name for name in everything if name.startswith("generator")}
            | {"seed", "principles"}
            | ({"prompts", "prompts_column", "prompts_strict"} if stage == "generate" else set())
        )
        sampled = {"sampling", "images"} if stage in ("generate", "evaluate") else set()
        scored = {"score"} if stage == "evaluate" else set()
        wanted = shared | sampled | scored | {stage}
        kept = {key: value for key, value in everything.items() if key in wanted}
        if stage == "evaluate":  # which may stand alone, without a generate that keeps these
            both = ("shard_rows", "principles")
            kept["generate"] = {name: everything["generate"][name] for name in both}
        return flatten(kept)

    def fingerprint(self, stage: str, upstream: Mapping[str, str]) -> str:
        """Return the hash of a stage's semantic settings and of the manifests it read."""
        return digest("stage", stage, self.settings(stage), dict(upstream))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one level of dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def recipes() -> dict[str, str]:
    """Return the shipped recipes: name to the one-line comment that opens each file."""
    folder = package_resources.files("valign") / "recipes"
    found = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".yaml"):
            first = entry.read_text(encoding="utf-8").partition("\n")[0]
            found[entry.name.removesuffix(".yaml")] = first.lstrip("# ")
    return found


def load(recipe: str = "miniature", overrides: Sequence[str] = ()) -> Run:
    """Return the run that a recipe and `key=value` overrides describe.

    Args:
        recipe: a shipped recipe's name, or the path of a YAML file.
        overrides: `root=runs/x`, `train.steps=500`; values are YAML.

    Raises:
        ValueError: an unknown key (the nearest valid one is named), a value out of range, or
            malformed YAML.
        LookupError: no such recipe.
    """
    tree = _read(recipe, seen=())
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise ValueError(f"{override!r} is not an override; write key=value, as in seed=1")
        _put(tree, key.strip(), _yaml(value, f"the value of {key}"))
    if own := _own_input(overrides, tree):
        tree["root"] = f"runs/{Path(own).stem}"  # not among the recipe's own results
    try:
        return _with_classifiers(Run.model_validate(tree))
    except ValidationError as error:
        raise ValueError(recipe_errors.explain(error, Run, valid_keys())) from None


def _with_classifiers(run: Run) -> Run:
    """Return the run with the classifiers of its own principles among its scorers."""
    found = (
        principle_settings.classifier(key, run.principles[key])
        for key in run.generate.principles
        if key in run.principles
    )
    own = {scorer.name: scorer for scorer in found if scorer is not None}
    rest = [scorer for scorer in run.score.scorers if scorer.name not in own]
    score = run.score.model_copy(update={"scorers": (*rest, *own.values())})
    return run.model_copy(update={"score": score})


def from_arguments(arguments: Sequence[str]) -> Run:
    """Return the run of a job's command line: `recipe=NAME` and overrides, in any order."""
    chosen = [word.partition("=")[2] for word in arguments if word.startswith("recipe=")]
    rest = [word for word in arguments if not word.startswith("recipe=")]
    run = load(chosen[-1] if chosen else "miniature", rest)
    if SUBMITTED in os.environ and "://" not in run.root and not Path(run.root).is_absolute():
        raise ValueError(
            f"root={run.root} lies in the submitted job's own folder, which Ray throws away; give "
            "a folder that all nodes see (root=/shared/run) or a URL (root=s3://bucket/run)"
        )
    return run


def is_setting(word: str) -> bool:
    """Say whether a word of a command line is `recipe=NAME` or a setting, and not free text."""
    key, equals, _ = word.partition("=")
    return bool(equals) and (key == "recipe" or key.partition(".")[0] in Run.model_fields)


def from_command_line(arguments: Sequence[str]) -> Run:
    """Return `from_arguments`; end the process with the error's own words if there is one."""
    try:
        return from_arguments(arguments)
    except (ValueError, LookupError) as error:
        raise SystemExit(f"error: {error}") from None


def dump(run: Run) -> str:
    """Return the resolved recipe as YAML; `load` of it gives the same run."""
    return yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _own_input(overrides: Sequence[str], tree: Mapping[str, Any]) -> str:
    """Return the file or folder that overrides put in the place of the catalogue, root unsaid."""
    said = {override.partition("=")[0].strip() for override in overrides}
    if "root" in said:
        return ""
    imports = tree.get("imports")
    if said & {"imports", "imports.source"} and isinstance(imports, dict) and imports.get("source"):
        return str(imports["source"])
    prompts = str(tree.get("prompts", "catalogue"))
    return prompts if "prompts" in said and prompts != "catalogue" else ""


def _read(recipe: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if recipe in seen:
        raise ValueError(f"recipes form a circle: {' -> '.join((*seen, recipe))}")
    shipped = recipes()
    if recipe in shipped:
        text = (package_resources.files("valign") / "recipes" / f"{recipe}.yaml").read_text("utf-8")
    elif Path(recipe).is_file():
        text = Path(recipe).read_text("utf-8")
    else:
        near = difflib.get_close_matches(recipe, shipped, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise LookupError(f"no recipe {recipe!r}{hint} Shipped: {', '.join(shipped)}; or a path.")
    tree = _yaml(text, f"recipe {recipe}") or {}
    if not isinstance(tree, dict):
        raise ValueError(f"recipe {recipe} must be a mapping of keys, not {type(tree).__name__}")
    base = tree.pop("base", None)
    if base is None:
        return tree
    beside = Path(recipe).parent / str(base)
    found = str(beside) if base not in shipped and beside.is_file() else str(base)
    return _merge(_read(found, (*seen, recipe)), tree)


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not YAML: {error}") from None


def _merge(under: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *path, last = dotted.split(".")
    for key in path:
        branch = tree.setdefault(key, {})
        if not isinstance(branch, dict):
            raise ValueError(f"{dotted}: {key} is a value, not a section")
        tree = branch
    tree[last] = value


def valid_keys(model: type[BaseModel] = Run, prefix: str = "") -> list[str]:
    """Return every key a recipe may set, dotted, in the order of the models."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(f"{prefix}{name}")
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += valid_keys(kind, f"{prefix}{name}.")
    return keys
