"""Which models evaluate measures: where each lies, what it is made of, what draws its images.

A model is a generator, and maybe a value encoder beside it that gives prompts their tokens. What
this run trained, its checkpoints, other runs and folders or hub ids of others all come to that.
Two models with the same generator share the images that neither gives a token.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from valign.config import Run
from valign.evaluate_settings import BASE, PROMPTED, STEP, TRAINED
from valign.records import digest
from valign.stages import generator, principles, train_output
from valign.stages.work import Work
from valign.storage import checkpoints, documents, layout, manifests
from valign.storage.objects import Store, open_store

POINTER, PIPELINE, ENCODER = "valign.json", "model_index.json", "value_encoder"


@dataclass(frozen=True)
class Model:
    """A model to measure.

    Attributes:
        name: as the results call it.
        source: as the recipe names it.
        run: the run, with this model's generator in it.
        generator: fingerprint of the generator.
        folder: URL of the aligned model's folder, "" if there is no value encoder.
        encoder: fingerprint of the value encoder, "" if there is none.
        shares: principle -> share of a prompt's images that get its token.
        own: whether it is the base, or a value encoder that this run trained for it.
    """

    name: str
    source: str
    run: Run
    generator: str
    folder: str = ""
    encoder: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)
    own: bool = False

    @property
    def prefix(self) -> str:
        """Where its images lie: those of the base and of the encoder trained for it together."""
        return "evaluate" if self.own else layout.evaluated(self.name)

    def made_by(self, token: str) -> str:
        """Return the fingerprint of all that shapes an image with this token, or with none."""
        return f"{self.generator}+{self.encoder}" if token else self.generator

    def about(self) -> dict[str, Any]:
        """Return what results say of it."""
        facts: dict[str, Any] = {"source": self.source, "generator_fingerprint": self.generator}
        if self.folder:
            facts |= {"value_encoder_fingerprint": self.encoder}
        return facts | ({"value_drop": dict(self.shares)} if self.shares else {})


def elsewhere(run: Run) -> dict[str, str]:
    """Return the fingerprints of the models that lie outside the run's root, by what they are."""
    found = {}
    for name, source in run.evaluate.sources.items():
        if source not in (BASE, TRAINED, PROMPTED) and not source.startswith(STEP):
            model = _from_source(run, name, source)
            found[f"the weights of model {name}"] = model.made_by(token="any")
    return found


def models(work: Work) -> list[Model]:
    """Return the models of a run, the baseline first; a checkpoint is written as a model.

    Raises:
        LookupError: a model, or a checkpoint, is not there.
        ValueError: one cannot be drawn with, as it is of another kind or its base is not found.
    """
    made = []
    for name, source in work.run.evaluate.sources.items():
        if source == BASE:
            model = base(work.run)
        elif source == TRAINED:
            model = _trained(work, name)
        elif source == PROMPTED:
            model = _prompted(work.run, name)
        elif source.startswith(STEP):
            model = _checkpoint(work, name, int(source.removeprefix(STEP)))
        else:
            model = _from_source(work.run, name, source)
        generator.check(model.run)
        made.append(model)
    return made


def base(run: Run) -> Model:
    """Return the run's own generator as a model."""
    return Model(BASE, run.generator, run, generator.fingerprint_of(run), own=True)


def _prompted(run: Run, name: str) -> Model:
    """The base, which reads the principle's text before the prompt (LiVO's "w/o v")."""
    encoder = digest("principles in prompts", principles.texts(run))
    made = generator.fingerprint_of(run)
    return Model(name, PROMPTED, run, made, encoder=encoder, shares=principles.drop(run))


def _trained(work: Work, name: str) -> Model:
    """What this run's train stage left, whichever weights it trained."""
    trained = manifests.get(work.store, "train")
    assert trained is not None, "execute checks that train is finished"
    if work.run.train.trains == "lora":
        raise ValueError(
            "train.trains=lora: adapters are not drawn with as they are; merge them into the "
            "generator with peft, and name the merged pipeline's folder under evaluate.models "
            f"(and evaluate.models.{name}=null)"
        )
    if work.run.train.trains != "value_encoder":
        return _at(work.run, name, TRAINED, work.root, "train")
    shares = principles.trained_drop(work.store)
    return Model(
        name,
        TRAINED,
        work.run,
        generator.fingerprint_of(work.run),
        folder=layout.ALIGNED,
        encoder=trained.fingerprint,
        shares=shares,
        own=True,
    )


def _checkpoint(work: Work, name: str, step: int) -> Model:
    """A checkpoint of this run's training, written once in the form that models have."""
    at = layout.evaluated(name)
    source = f"{STEP}{step}"
    if not work.store.exists(f"{at}/step.json"):
        if not work.store.exists(f"{layout.checkpoint('train', step)}/complete.json"):
            raise LookupError(
                f"evaluate.models.{name}: {work.root} keeps no checkpoint of step {step}; raise "
                "train.keep_checkpoints to keep more, or name a step that is there"
            )
        made = checkpoints.load(work.store, "train", step)
        train_output.save(work.store, work.run, made, at)
        documents.write(work.store, f"{at}/step.json", {"step": step})
    model = _at(work.run, name, source, work.root, at)
    # the shares that training ended with, so that checkpoints differ by their weights alone
    return replace(model, shares=principles.trained_drop(work.store)) if model.encoder else model


def _at(run: Run, name: str, source: str, root: str, prefix: str) -> Model:
    """What was written under a prefix of a root: an aligned model, or a whole pipeline."""
    store = open_store(root)
    for folder, marker in (("aligned", POINTER), ("model", PIPELINE)):
        if store.exists(f"{prefix}/{folder}/{marker}"):
            return _from_source(run, name, f"{root}/{prefix}/{folder}", said=source)
    raise LookupError(
        f"evaluate.models.{name}: {root} holds no model under {prefix}/ that images can be drawn "
        "with (a value encoder or a pipeline)"
    )


def _from_source(run: Run, name: str, source: str, *, said: str = "") -> Model:
    """A model of a source of any kind."""
    store = _folder(source)
    if store is not None:
        for inside, marker in (("train/aligned/", POINTER), ("train/model/", PIPELINE)):
            if store.exists(inside + marker):
                return _from_source(run, name, f"{store.url}/{inside[:-1]}", said=said or source)
        if store.exists(POINTER):
            return _aligned(run, name, said or source, store)
    other = run
    if source != run.generator:
        there = dict.fromkeys(("generator_variant", "generator_config", "generator_sha256"))
        other = run.model_copy(update={"generator": source, **there})
    try:
        return Model(name, said or source, other, generator.fingerprint_of(other))
    except (LookupError, ValueError) as error:
        raise type(error)(f"evaluate.models.{name}: {error}") from error


def _aligned(run: Run, name: str, source: str, store: Store) -> Model:
    """A value encoder's folder: over this run's generator if it was trained for it, else its own.

    Raises:
        ValueError: the generator that it was trained for is not found.
    """
    pointer = documents.read(store, POINTER)["base"]
    wanted = pointer["fingerprint"]
    if wanted != generator.fingerprint_of(run):
        run = run.model_copy(
            update={
                "generator": pointer["source"],
                "generator_variant": pointer.get("variant"),
                "generator_config": pointer.get("config"),
                "generator_sha256": None,
            }
        )
        if (found := generator.fingerprint_of(run)) != wanted:
            raise ValueError(
                f"evaluate.models.{name}: {source} was trained for a generator of fingerprint "
                f"{wanted[:12]}, and {pointer['source']}, which it names, has {found[:12]}"
            )
    settings = documents.read(store, f"{ENCODER}/value_encoder.json")
    files = [key for key in sorted(store.list(f"{ENCODER}/")) if not key.endswith(".md")]
    hashes = (hashlib.sha256(store.read(key)).hexdigest() for key in files)
    encoder = digest("value encoder", *hashes)
    return Model(name, source, run, wanted, store.url, encoder, settings["drop"])


def _folder(source: str) -> Store | None:
    """Return the folder that a source names as a store; None for a hub id or a single file."""
    if source.startswith("package:") or source.endswith((".safetensors", ".ckpt", ".pt", ".pth")):
        return None
    if "://" in source:
        return open_store(source)
    return open_store(source) if Path(source).expanduser().is_dir() else None
