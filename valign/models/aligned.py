"""The aligned model: a small folder beside an untouched base model, used in three lines.

    from valign.models.aligned import AlignedPipeline
    pipe = AlignedPipeline.from_pretrained("runs/demo/train/aligned")
    images = pipe(["A photo of a doctor"] * 4, ["gender"] * 4, seeds=range(4))

The folder holds the value encoder, `valign.json` (which base model, with its fingerprint) and a
model card. Rows without a principle are the base model's own images, byte for byte. Which principle
a prompt needs is not decided here.

Shapes: N images, B images of a batch, L context slots, D context width, H and W pixels.
"""

import importlib.resources
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
from torch import Tensor

from valign.models.generator import (
    Conditioning,
    Generator,
    GeneratorOptions,
    Sampler,
    load_generator,
)
from valign.models.value_drop import apply_mask
from valign.models.value_encoder import ValueEncoder

POINTER, CARD, ENCODER = "valign.json", "README.md", "value_encoder"
SCHEMA_VERSION = 1
LARGEST_BATCH = 16


def save_aligned(
    folder: str | Path,
    value_encoder: ValueEncoder,
    *,
    base: str,
    card: str,
    base_fingerprint: str | None = None,
    base_variant: str | None = None,
    base_config: str | None = None,
    sampler: Sampler | None = None,
) -> None:
    """Write an aligned model's folder.

    Args:
        folder: is made if need be.
        value_encoder: the trained encoder.
        base: where the base model is: a hub id, a `package:` or `file://` URL, or a folder.
        card: the model card, Markdown.
        base_variant: which of the base model's weight files, as in diffusers.
        base_config: where its configs are, if it is a single-file checkpoint.
        base_fingerprint: the base model's; default: that of the generator the encoder came from.
        sampler: what images are sampled with unless a call says otherwise.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    value_encoder.save(folder / ENCODER)
    (folder / CARD).write_text(card, encoding="utf-8")
    pointer = {
        "schema_version": SCHEMA_VERSION,
        "method": "livo",
        "base": {
            "source": base,
            "fingerprint": base_fingerprint or value_encoder.base_fingerprint,
            "variant": base_variant,
            "config": base_config,
        },
        "principles": value_encoder.principles,
        "sampler": asdict(sampler or Sampler()),
    }
    (folder / POINTER).write_text(json.dumps(pointer, indent=2) + "\n", encoding="utf-8")


def resolve_base(source: str) -> str:
    """Return the local folder or hub id that a base model's source names.

    Raises:
        ValueError: it lies in an object store or a package that is not installed.
    """
    if source.startswith("package:"):
        package, _, inside = source.removeprefix("package:").partition("/")
        try:
            return str(importlib.resources.files(package).joinpath(*inside.split("/")))
        except ModuleNotFoundError as error:
            raise ValueError(f"the base model {source} needs the package {package!r}") from error
    if source.startswith("file://"):
        return unquote(urlsplit(source).path)
    if "://" in source:
        raise ValueError(f"fetch the base model {source} and pass its folder as base=")
    return source


def tokens(
    value_encoder: ValueEncoder,
    principles: Sequence[str],
    prompts: Sequence[str],
    apply_N: Sequence[bool],
    cond: Conditioning,
) -> Tensor:
    """Return the tokens of the rows that get one, and zeros for the others: (N, 1, D).

    Raises:
        LookupError: a principle is unknown.
    """
    token_N1D = cond.context_BLD.new_zeros(len(prompts), 1, cond.context_BLD.shape[-1])
    if rows := [row for row, applied in enumerate(apply_N) if applied]:
        token_N1D[rows] = value_encoder.token(
            [principles[row] for row in rows], [prompts[row] for row in rows]
        ).to(token_N1D)
    return token_N1D


def sample_rows(
    generator: Generator,
    cond: Conditioning,
    seeds: Sequence[int],
    sampler: Sampler,
    *,
    batch_size: int,
    token_N1D: Tensor | None = None,
    apply_N: Sequence[bool] | None = None,
    strength_N: Sequence[float] | None = None,
) -> np.ndarray:
    """Sample any number of rows in batches of one size; return uint8 images_NHWC.

    Rows with and without a token go into batches of their own, and a batch that is not full is
    filled up. So a row's bytes depend on itself and the batch size alone, and rows without a token
    are the base model's bytes. So are rows whose token has the strength 0; other strengths than 1
    (see `ValueEncoder.attach`) have batches of their own as well.
    """
    strengths = [1.0] * len(cond) if strength_N is None else [float(s) for s in strength_N]
    apply = [False] * len(cond) if apply_N is None else list(apply_N)
    how = [_share(strengths[row]) if apply[row] else 0 for row in range(len(cond))]
    images: list[np.ndarray | None] = [None] * len(cond)
    for share in (0, 1, None):
        rows = [row for row in range(len(cond)) if how[row] == share]
        for start in range(0, len(rows), batch_size):
            some = rows[start : start + batch_size]
            filled = some + some[-1:] * (batch_size - len(some))
            batch = cond.take(filled)
            if share != 0:
                assert token_N1D is not None, "rows that a token applies to need tokens"
                parts = None if share else [strengths[row] for row in filled]
                batch = ValueEncoder.attach(batch, token_N1D[filled], [True] * batch_size, parts)
            made = generator.sample(batch, [seeds[row] for row in filled], sampler)
            for row, image_HWC in zip(some, made, strict=False):  # what filled up is dropped
                images[row] = image_HWC
    return np.stack([image for image in images if image is not None])


def _share(strength: float) -> int | None:
    """Return 0 or 1 for a strength that needs no more than the usual calls, else None."""
    return int(strength) if strength in (0, 1) else None


class AlignedPipeline:
    """A base generator with a value encoder beside it."""

    def __init__(
        self, generator: Generator, value_encoder: ValueEncoder, sampler: Sampler | None = None
    ) -> None:
        self.generator = generator
        self.sampler = sampler or Sampler()
        self.value_encoder = value_encoder.to(generator.device)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        base: str | None = None,
        *,
        options: GeneratorOptions | None = None,
        resolve: Callable[[str], str] = resolve_base,
    ) -> "AlignedPipeline":
        """Load an aligned model and the base model that it points to.

        Args:
            folder: what `save_aligned` wrote.
            base: use this folder or hub id of the base model instead of the one pointed to.
            options: device, dtype and variant of the base model.
            resolve: turns the base model's source into a local folder or hub id.

        Raises:
            ValueError: the folder holds no aligned model, or the base model is another one.
        """
        folder = Path(folder)
        if not (folder / POINTER).is_file():
            raise ValueError(f"{folder} holds no {POINTER}: it is no saved aligned model")
        pointer = json.loads((folder / POINTER).read_text(encoding="utf-8"))
        if pointer["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"{folder} is an aligned model of version {pointer['schema_version']}, and this "
                f"valign reads version {SCHEMA_VERSION}: use the valign that wrote it"
            )
        source, wanted = pointer["base"]["source"], pointer["base"]["fingerprint"]
        options = options or GeneratorOptions()
        config = pointer["base"].get("config")
        if base is None and options.variant is None:
            options = replace(options, variant=pointer["base"].get("variant"))
        try:
            if base is None and options.config is None and config is not None:
                options = replace(options, config=resolve(config))
            generator = load_generator(base or resolve(source), options)
        except ValueError as error:
            raise ValueError(
                f"the base model of {folder} ({source}) did not load: {error}. If it lies "
                "elsewhere, pass its folder as base="
            ) from error
        if generator.fingerprint != wanted:
            raise ValueError(
                f"{generator.files} is not the base model that {folder} was trained on, {source}: "
                f"its fingerprint is {generator.fingerprint[:12]}, not {wanted[:12]}. Pass the "
                "folder of the right one as base=, with the same weight variant, or train again"
            )
        sampler = Sampler(**pointer["sampler"])
        return cls(generator, ValueEncoder.load(folder / ENCODER), sampler)

    def __call__(
        self,
        prompts: Sequence[str],
        principles: Sequence[str],
        seeds: Sequence[int],
        sampler: Sampler | None = None,
        *,
        negatives: Sequence[str] | None = None,
        always: bool = False,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Generate one image per prompt.

        Args:
            prompts: N prompts.
            principles: N keys of the value encoder's principles, or "" for none.
            seeds: N noise seeds.
            sampler: steps, guidance, size; default: the saved one's.
            negatives: N negative prompts.
            always: give every row with a principle its token. Otherwise a prompt's images get it by
                the principle's share (`ValueEncoder.drop`), keyed by the first one's seed.
            batch_size: images per batch; default all N up to 16. It is part of what makes bytes.

        Returns:
            uint8 images_NHWC; rows without a principle are the base model's.

        Raises:
            LookupError: a principle is unknown.
            ValueError: the lists' lengths differ.
        """
        if isinstance(prompts, str) or isinstance(principles, str):
            raise ValueError("give lists: pipe([prompt], [principle], seeds=[0])")
        if not len(prompts) == len(principles) == len(seeds):
            raise ValueError(
                f"{len(prompts)} prompts, {len(principles)} principles and {len(seeds)} seeds: "
                "give one of each per image"
            )
        apply_N = self.applied(prompts, principles, seeds, always=always).tolist()
        cond = self.generator.condition(prompts, negatives)
        token_N1D = tokens(self.value_encoder, principles, prompts, apply_N, cond)
        return sample_rows(
            self.generator,
            cond,
            seeds,
            sampler or self.sampler,
            batch_size=batch_size or min(len(prompts), LARGEST_BATCH),
            token_N1D=token_N1D,
            apply_N=apply_N,
        )

    def applied(
        self,
        prompts: Sequence[str],
        principles: Sequence[str],
        seeds: Sequence[int],
        *,
        always: bool = False,
    ) -> np.ndarray:
        """Say as bool_N which rows get a token; see `value_drop`."""
        apply_N = np.zeros(len(prompts), dtype=bool)
        groups: dict[tuple[str, str], list[int]] = {}
        for row, pair in enumerate(zip(principles, prompts, strict=True)):
            if pair[0]:
                groups.setdefault(pair, []).append(row)
        for (key, prompt), rows in groups.items():
            self.value_encoder.text(key, prompt)  # an unknown principle is an error
            share = 1.0 if always else self.value_encoder.drop[key]
            apply_N[rows] = apply_mask(key, prompt, len(rows), share, seeds[rows[0]])
        return apply_N
