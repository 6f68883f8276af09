"""Preference scores that read embeddings: HPSv2, PickScore and LAION's aesthetic predictor.

In: unit image embeddings and the images' prompts. Out: one column per scorer, named like it. How
several of them vote on a pair is not decided here.

Shapes: N images, D embedding width.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from valign.models.aesthetic import AestheticHead
from valign.models.clip import IMAGE_CHUNK, Clip, in_chunks
from valign.models.clip_reader import ClipReader
from valign.models.clip_towers import OpenClip
from valign.models.score_columns import ColumnInfo, ScoreColumn
from valign.records import Prompt

HPS_ARCHITECTURE = "ViT-H-14"
# The files' names where the authors published them.
HPS_FILES = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}


class Preference(ClipReader):
    """Raw cosine of image and prompt in a CLIP that was fine-tuned on people's choices.

    HPSv2 and PickScore: for ranking, both are read without their logit scale.
    """

    def __init__(self, name: str, clip: Clip, version: str = "") -> None:
        self._name = name
        info = ColumnInfo(
            low=-1, high=1, higher_means="people prefer the image more for this prompt"
        )
        super().__init__(clip, {name: info}, ["preference"], version=version)

    def read(self, image_ND: Tensor, prompts: Sequence[Prompt]) -> dict[str, ScoreColumn]:
        """Return one cosine per image."""
        text_ND = self.clip.embed_texts([prompt.text for prompt in prompts])
        return {self._name: ScoreColumn.of((image_ND * text_ND).sum(dim=1).numpy())}


class Aesthetic(ClipReader):
    """The scores of an aesthetic head; the prompts play no part."""

    def __init__(self, name: str, clip: Clip, head: AestheticHead) -> None:
        if head.sizes[0] != clip.embed_dim:
            raise ValueError(
                f"the aesthetic head {name!r} reads embeddings of width {head.sizes[0]}, but "
                f"{clip.source} gives {clip.embed_dim}: name the CLIP that it was trained on as "
                "the scorer's `clip`"
            )
        self._name, self._head = name, head
        low, high = head.bounds()
        info = ColumnInfo(
            low=low, high=high, higher_means="people would rate the image more beautiful"
        )
        super().__init__(clip, {name: info}, ["aesthetic"], head)

    @torch.no_grad()
    def read(self, image_ND: Tensor, prompts: Sequence[Prompt]) -> dict[str, ScoreColumn]:
        """Return one score per image."""
        return {self._name: ScoreColumn.of(in_chunks(self._head, image_ND, IMAGE_CHUNK).numpy())}


def hps_version(source: str, version: str = "") -> str:
    """Return which HPSv2 a source is: what its name says, else what is stated, else v2.1.

    Raises:
        ValueError: the version is unknown, or the published file's name says another one.
    """
    if version and version not in HPS_FILES:
        raise ValueError(f"no HPSv2 version {version!r}; there are {', '.join(HPS_FILES)}")
    named = [known for known, file in HPS_FILES.items() if Path(source).stem == Path(file).stem]
    if version and named and named != [version]:
        raise ValueError(
            f"{source} is HPSv2 {named[0]} by its name, but the recipe says {version}: correct one"
        )
    return version or (named[0] if named else "v2.1")


def hps_source(source: str, version: str, architecture: str) -> tuple[str, Callable[..., OpenClip]]:
    """Return what loads HPSv2 weights, and how.

    Args:
        source: the published .pt file (or its state dict as safetensors), a hub id that holds the
            published files, or an open_clip folder.
        version: v2.0 or v2.1.
        architecture: open_clip's name of the network that a file's weights are for.
    """
    if Path(source).is_dir() or source.startswith("hf-hub:"):
        return source, OpenClip
    if not Path(source).is_file():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
            raise ValueError(
                f"no HPSv2 weights at {source!r}: give the published file, a hub id, or an "
                "open_clip folder"
            )
        source = _fetch(source, HPS_FILES[version])
    # as HPSv2's own code: the whole image, padded to a square, nothing cropped
    return f"{architecture}:{source}", partial(OpenClip, resize_mode="longest")


def _fetch(hub_id: str, file: str) -> str:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return str(hf_hub_download(hub_id, file))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"{file} could not be fetched from {hub_id!r}: {error}. Check the name and the "
            "network, or give the file"
        ) from error
