"""serve: what a server is made of, loaded as the recipe says; how requests reach it is elsewhere.

In: a run. Out: the models over one shared generator, the evaluator, the retriever, and the limits
that requests are held to. Everything may lie in a bucket; each node keeps a copy.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from valign import config
from valign.catalogue.principles import of_kind
from valign.config import Run
from valign.preferences.votes import Voter
from valign.records import digest
from valign.serving.access import ApiKey, is_loopback, new_key, read_keys
from valign.serving.aligned import AlignedModels, ImageRequest, ModelCard, ServedModel
from valign.serving.evaluator import Evaluator
from valign.serving.tables import Limits
from valign.settings import Scorer
from valign.stages import principles, release, score
from valign.stages.device import prepare
from valign.stages.generator import load_generator, sampler
from valign.stages.retrieve import Retriever
from valign.storage import documents, layout
from valign.storage.objects import local, open_store

if TYPE_CHECKING:
    from valign.models.generator import Sampler

__all__ = ["new_key"]  # for the command line, which reaches serving through here

BASE, ALIGNED, POINTER = "base", "aligned", "valign.json"
VOTING = {"clip": "{}_score", "hpsv2": "{}", "pickscore": "{}", "aesthetic": "{}"}  # column by kind


def run_of(target: str, overrides: Sequence[str] = ()) -> Run:
    """Return the run that a server is started with.

    Args:
        target: a run's root, an aligned model's folder, a recipe (its base model), or
            `release:URL`, the run that a pointer names.
        overrides: `key=value` settings.

    Raises:
        LookupError: it is none of these.
        ValueError: a setting is wrong.
    """
    if target.startswith(release.SCHEME):
        target = release.verified_root(target)
    if target in config.recipes() or target.endswith((".yaml", ".yml")):
        return config.load(target, overrides)
    store = open_store(target)
    if store.exists(layout.RECIPE):
        recipe = store.local(layout.RECIPE)
        return config.load(str(recipe), [f"root={json.dumps(target)}", *overrides])
    if store.exists(POINTER):
        pointer = documents.read(store, POINTER)
        base, own = pointer["base"], pointer["sampler"]
        settings = {
            "root": target,
            "generator": base["source"],
            "generator_variant": base.get("variant"),
            "generator_config": base.get("config"),
            "serve.models": {ALIGNED: target},
            "sampling.size_px": own.get("height"),
            **{f"sampling.{key}": own[key] for key in ("steps", "guidance", "scheduler")},
            **{f"sampling.{key}": own.get(key) for key in ("solver_order", "karras")},
        }
        said = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        return config.load("miniature", [*said, *overrides])
    raise LookupError(
        f"{target} is no run ({layout.RECIPE}), no aligned model ({POINTER}) and no recipe. Make a "
        "run with `valign demo`, or serve a base model by a recipe's name"
    )


def check(run: Run) -> None:
    """Make sure that the server may be started as the recipe says.

    Raises:
        ValueError: it would listen beyond this machine without keys, the key file is wrong, the
            queue is too short, or there is nowhere to put the audit.
        LookupError: there is no key file, or no such model.
    """
    serve = run.serve
    if not is_loopback(serve.host) and not serve.keys:
        raise ValueError(
            f"serve.host={serve.host} is reached from other machines, so callers need keys: make "
            "one with `valign key NAME >> keys.jsonl`, and set serve.keys=keys.jsonl"
        )
    if serve.keys and not keys(serve.keys):
        raise ValueError(f"serve.keys={serve.keys} holds no key: add one with `valign key NAME`")
    most = max(serve.max_images, serve.max_pictures)
    if serve.queue < most:
        raise ValueError(
            f"serve.queue={serve.queue} is less than one request may bring, {most}: raise it, or "
            "lower serve.max_images and serve.max_pictures"
        )
    audit_file(run)
    folders(run)


def keys(file: str) -> tuple[ApiKey, ...]:
    """Return the keys of a key file.

    Raises:
        LookupError: there is no such file.
        ValueError: it is wrong.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise LookupError(f"serve.keys={file}: no such file; `valign key NAME >> {file}` makes it")
    return read_keys(path.read_text("utf-8"))


def audit_file(run: Run) -> Path:
    """Return the file of the audit.

    Raises:
        ValueError: the root is no folder of this machine, and no file is named.
    """
    if run.serve.audit:
        return Path(run.serve.audit).expanduser().absolute()
    if "://" in run.root and not run.root.startswith("file://"):
        raise ValueError(
            f"the root {run.root} is no folder: name a local file for the audit as serve.audit"
        )
    return Path(run.root.removeprefix("file://")).expanduser().absolute() / "serve/audit.jsonl"


def limits(run: Run) -> Limits:
    """Return the most that a request may ask for."""
    serve = run.serve
    return Limits(
        images=serve.max_images,
        prompt_chars=serve.max_prompt_chars,
        steps=serve.max_steps,
        pixels=serve.max_pixels,
        pictures=serve.max_pictures,
        picture_bytes=int(serve.max_picture_mib * 2**20),
    )


def folders(run: Run) -> dict[str, Path]:
    """Return the folders of the aligned models that are served, by name.

    Raises:
        ValueError: a model is named as the base is.
        LookupError: a folder holds no aligned model.
    """
    named = run.serve.models
    if not named:
        store = open_store(run.root)
        own = store.exists(f"{layout.ALIGNED}/{POINTER}")
        return {ALIGNED: store.local(layout.ALIGNED)} if own else {}
    if BASE in named:
        raise ValueError(f"serve.models: {BASE} is the generator itself; name the model otherwise")
    return {name: _folder(where) for name, where in named.items()}


def _folder(where: str) -> Path:
    store = open_store(where)
    if store.exists(POINTER):
        return local(where)
    if store.exists(f"{layout.ALIGNED}/{POINTER}"):
        return store.local(layout.ALIGNED)
    raise LookupError(f"serve.models: {where} holds no aligned model")


def load_models(run: Run) -> AlignedModels:
    """Load the generator once, and every value encoder beside it.

    Raises:
        ValueError: a model was trained beside another generator, or takes more steps than allowed.
    """
    from valign.models.generator import Sampler
    from valign.models.pipeline_files import file_sha256
    from valign.models.value_encoder import ValueEncoder

    generator = load_generator(run)
    served = []
    for name, folder in folders(run).items():
        pointer = json.loads((folder / POINTER).read_text("utf-8"))
        if pointer["base"]["fingerprint"] != generator.fingerprint:
            raise ValueError(
                f"the model {name} was trained beside {pointer['base']['source']}, and this server "
                f"draws with {run.generator}: all its models must share one generator"
            )
        encoder = ValueEncoder.load(folder / "value_encoder").to(generator.device)
        weights = file_sha256(folder / "value_encoder/model.safetensors")
        mark = digest("aligned", generator.fingerprint, weights, encoder.principles, encoder.drop)
        own = Sampler(**pointer["sampler"])
        card = _card(run, generator, name, mark, own, encoder)
        served.append(ServedModel(card, own, encoder))
    own = sampler(run)
    served.append(ServedModel(_card(run, generator, BASE, generator.fingerprint, own), own))
    return AlignedModels(generator, served)


def _card(
    run: Run, generator: Any, name: str, mark: str, own: "Sampler", encoder: Any = None
) -> ModelCard:
    if own.steps > run.serve.max_steps:
        raise ValueError(
            f"the model {name} takes {own.steps} steps, more than serve.max_steps="
            f"{run.serve.max_steps}: raise that"
        )
    return ModelCard(
        name=name,
        fingerprint=mark,
        principles=dict(encoder.principles) if encoder else {},
        drop=dict(encoder.drop) if encoder else {},
        steps=own.steps,
        guidance=own.guidance,
        size_px=own.height or generator.size_px,
        scale=generator.scale,
    )


def load_evaluator(run: Run) -> Evaluator:
    """Load the scorers; their CLIPs are shared as in the score stage.

    Raises:
        ValueError: a voter has no column, or no scorer tells what the output filter asks for.
    """
    prepare()
    toxic = of_kind("toxicity", principles.known(run))
    group = score.load(scorers(run))
    for key in run.serve.output_filter:
        if key not in toxic or key not in group.columns:
            told = [name for name in toxic if name in group.columns]
            raise ValueError(
                f"serve.output_filter: no scorer tells {key}; they tell {', '.join(told) or 'none'}"
            )
    return Evaluator(group, voters(run), toxic=toxic, max_pixels=run.serve.max_pixels)


def scorers(run: Run) -> tuple[Scorer, ...]:
    """Return the scorers that are served."""
    return run.serve.scorers or run.score.scorers


def voters(run: Run) -> tuple[Voter, ...]:
    """Return who votes in comparisons."""
    named = run.serve.voters or (() if run.serve.scorers else run.label.vote.voters)
    if named:
        return tuple(Voter(voter.name, voter.weight) for voter in named)
    kinds = ((one.name, VOTING.get(one.kind)) for one in scorers(run))
    return tuple(Voter(column.format(name)) for name, column in kinds if column)


def retriever(run: Run) -> Retriever:
    """Return what finds a prompt's principle."""
    return Retriever(run, open_store(run.root))


def warm_up(models: AlignedModels) -> None:
    """Draw one image with every model, so that the first request does not pay for first times.

    Raises:
        RuntimeError: a model cannot draw.
    """
    for name, card in models.cards.items():
        request = ImageRequest(
            model=name,
            prompt="a photo",
            negative="",
            seed=0,
            steps=1,
            guidance=card.guidance,
            size=(card.size_px, card.size_px),
            principle=next(iter(card.principles), ""),
        )
        (answer,) = models.answer([request])
        if answer.fault:
            raise RuntimeError(f"the model {name} cannot draw: {answer.fault}")


def warm_up_scorers(evaluator: Evaluator) -> None:
    """Score one image."""
    grey = np.full((1, 64, 64, 3), 127, np.uint8)
    grey[:, ::2] = 90
    evaluator.score_images(grey, ["a photo"])
