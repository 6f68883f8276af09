"""Load the scorers a recipe names; those that read the same CLIP share it.

In: scorer references. Out: a `ScorerGroup` that scores images. What scores mean for labels and
metrics is not decided here.

Kinds (`source` is a local path or a hub id):

- `clip`: an open_clip model; columns `<name>_score` and `<name>_score_cleaned`, cosine times 100
- `clip_features`: an open_clip model; column `<name>`, its unit image embedding
- `inception_features`: a file of InceptionV3's weights; columns `<name>` and `<name>_classes`
- `hpsv2`: the published file of v2.0 or v2.1, or an open_clip folder; column `<name>`
- `pickscore`: a CLIPModel of transformers; column `<name>`
- `aesthetic`: LAION's .pth, or a head's folder whose config.json names its CLIP; column `<name>`
- `zero_shot`: an open_clip model and `classes`; column `<name>`, a probability per class
- `toxicity_head`: a head's folder, whose config.json names its CLIP; a column per class
- `zero_shot_toxicity`: an open_clip model and `classes` (a word each); a column per class
- `llava`: an image-text-to-text model of transformers and `classes`; a column per class
- `package.module:Class`: a user's own; see `score_columns.Scorer`
"""

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from valign.models.aesthetic import AestheticHead
from valign.models.clip import Clip
from valign.models.clip_reader import ClipReader
from valign.models.clip_towers import PRECISIONS, OpenClip, Towers, TransformersClip
from valign.models.features import ClipFeatures
from valign.models.inception import InceptionFeatures
from valign.models.llava import QUESTION, LlavaToxicity
from valign.models.score_columns import Scorer
from valign.models.scorer_group import ScorerGroup, SharedClip
from valign.models.toxicity import ToxicityHead
from valign.models.voters import HPS_ARCHITECTURE, Aesthetic, Preference, hps_source, hps_version
from valign.models.zero_shot import HARMLESS, TOXIC, ClipScore, Toxicity, ZeroShot, ZeroShotToxicity


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerRef:
    """One scorer to load; `source` is a local path or a hub id."""

    name: str
    kind: str
    source: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


class Backbones:
    """The CLIPs that scorers share: one for each source, precision and way of loading."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._loaded: dict[tuple[str, ...], Clip] = {}

    def get(
        self,
        source: str,
        precision: str,
        towers: Callable[[str, str, str], Towers] = OpenClip,
        library: str = "open_clip",
    ) -> Clip:
        """Return the CLIP of a source, loaded at its first use."""
        source = str(Path(source).resolve()) if Path(source).is_dir() else source
        key = (library, source, precision)
        if key not in self._loaded:
            self._loaded[key] = Clip(source, self.device, precision, towers)
        return self._loaded[key]


def load_scorers(refs: Sequence[ScorerRef], device: str = "cpu") -> ScorerGroup:
    """Load scorers; those that name the same CLIP share it.

    Raises:
        ValueError: an unknown kind or option, a model that does not load, a class that is no
            scorer, or two scorers with the same columns.
    """
    backbones = Backbones(device)
    readers: dict[int, list[ClipReader]] = {}
    own: list[Scorer] = []
    named: dict[str, tuple[str, ClipReader | Scorer]] = {}
    for ref in refs:
        if ref.name in named:
            raise ValueError(f"two scorers are named {ref.name!r}: give them different names")
        loaded = _load(ref, backbones)
        named[ref.name] = ref.kind, loaded
        if isinstance(loaded, ClipReader):
            readers.setdefault(id(loaded.clip), []).append(loaded)
        else:
            own.append(loaded)
    shared = [SharedClip(group[0].clip, group) for group in readers.values()]
    return ScorerGroup([*shared, *own], named)


def _load(ref: ScorerRef, backbones: Backbones) -> ClipReader | Scorer:
    if ":" in ref.kind:
        return _load_class(ref)
    if ref.kind not in KINDS:
        raise ValueError(
            f"the scorer {ref.name!r} has the kind {ref.kind!r}; it must be one of "
            f"{', '.join(KINDS)}, or package.module:Class"
        )
    _check_options(ref)
    return KINDS[ref.kind](ref, backbones, **ref.options)


def _check_options(ref: ScorerRef) -> None:
    known = list(inspect.signature(KINDS[ref.kind]).parameters)[2:]
    for option in ref.options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(known)}"
            raise ValueError(
                f"the scorer {ref.name!r} of kind {ref.kind} has no option {option!r}{meant}"
            )
    precision = ref.options.get("precision", "float32")
    if precision not in PRECISIONS:
        raise ValueError(
            f"the scorer {ref.name!r} has the precision {precision!r}; it must be one of "
            f"{', '.join(PRECISIONS)}"
        )


def _clip(ref: ScorerRef, backbones: Backbones, *, precision: str = "float32") -> ClipReader:
    return ClipScore(ref.name, backbones.get(ref.source, precision))


def _clip_features(
    ref: ScorerRef, backbones: Backbones, *, precision: str = "float32"
) -> ClipReader:
    return ClipFeatures(ref.name, backbones.get(ref.source, precision))


def _inception_features(ref: ScorerRef, backbones: Backbones) -> Scorer:
    return InceptionFeatures(ref.name, ref.source, backbones.device)


def _hpsv2(
    ref: ScorerRef,
    backbones: Backbones,
    *,
    version: str = "",
    architecture: str = HPS_ARCHITECTURE,
    precision: str = "float32",
) -> ClipReader:
    version = hps_version(ref.source, version)
    source, towers = hps_source(ref.source, version, architecture)
    library = "open_clip" if towers is OpenClip else "hpsv2"
    return Preference(ref.name, backbones.get(source, precision, towers, library), version)


def _pickscore(ref: ScorerRef, backbones: Backbones, *, precision: str = "float32") -> ClipReader:
    clip = backbones.get(ref.source, precision, TransformersClip, "transformers")
    return Preference(ref.name, clip)


def _aesthetic(
    ref: ScorerRef, backbones: Backbones, *, clip: str = "", precision: str = "float32"
) -> ClipReader:
    head = AestheticHead.load(ref.source)
    source = _clip_of_head(ref, head.clip, clip)
    return Aesthetic(ref.name, backbones.get(source, precision), head)


def _zero_shot(
    ref: ScorerRef,
    backbones: Backbones,
    *,
    classes: Sequence[str] = (),
    precision: str = "float32",
) -> ClipReader:
    return ZeroShot(ref.name, backbones.get(ref.source, precision), classes)


def _toxicity_head(
    ref: ScorerRef, backbones: Backbones, *, clip: str = "", precision: str = "float32"
) -> ClipReader:
    head = ToxicityHead.load(ref.source)
    source = _clip_of_head(ref, head.clip, clip)
    return Toxicity(ref.name, backbones.get(source, precision), head)


def _zero_shot_toxicity(
    ref: ScorerRef,
    backbones: Backbones,
    *,
    classes: Mapping[str, str] | Sequence[str] = (),
    precision: str = "float32",
    toxic: str = TOXIC,
    harmless: str = HARMLESS,
) -> ClipReader:
    return ZeroShotToxicity(
        ref.name,
        backbones.get(ref.source, precision),
        _words(classes),
        toxic=toxic,
        harmless=harmless,
    )


def _llava(
    ref: ScorerRef,
    backbones: Backbones,
    *,
    classes: Mapping[str, str] | Sequence[str] = (),
    precision: str = "float32",
    question: str = QUESTION,
    chat: bool | None = None,
    images_per_forward: int = 8,
) -> Scorer:
    return LlavaToxicity(
        ref.source,
        _words(classes),
        device=backbones.device,
        precision=precision,
        question=question,
        chat=chat,
        images_per_forward=images_per_forward,
    )


def _words(classes: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Return the word that stands for each class; without one, its own name."""
    return dict(classes) if isinstance(classes, Mapping) else {name: name for name in classes}


def _clip_of_head(ref: ScorerRef, named: str, chosen: str) -> str:
    """Return the source of the CLIP whose embeddings a head reads."""
    beside = Path(ref.source) / named
    if chosen or beside.is_dir():
        return chosen or str(beside)
    if named.startswith("."):
        raise ValueError(
            f"the head {ref.name!r} reads the CLIP at {named}, which is not beside {ref.source}: "
            "name it as the scorer's `clip`"
        )
    return named


KINDS: dict[str, Callable[..., ClipReader | Scorer]] = {
    "clip": _clip,
    "hpsv2": _hpsv2,
    "pickscore": _pickscore,
    "aesthetic": _aesthetic,
    "zero_shot": _zero_shot,
    "toxicity_head": _toxicity_head,
    "zero_shot_toxicity": _zero_shot_toxicity,
    "clip_features": _clip_features,
    "inception_features": _inception_features,
    "llava": _llava,
}


def _load_class(ref: ScorerRef) -> Scorer:
    """Make a user's scorer: `Class(**options)`, with `source=` among them if one is named."""
    module, _, name = ref.kind.partition(":")
    options = {**ref.options, **({"source": ref.source} if ref.source else {})}
    try:
        scorer = getattr(importlib.import_module(module), name)(**options)
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(
            f"the scorer {ref.name!r} ({ref.kind}) could not be made: {error}"
        ) from error
    if not isinstance(scorer, Scorer):
        raise ValueError(
            f"{ref.kind} is no scorer: it needs the attributes `fingerprint` and `columns` and the "
            "method `score(images, prompts)`; see valign.models.score_columns.Scorer"
        )
    return scorer
