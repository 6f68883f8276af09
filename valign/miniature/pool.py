"""The UNet's training pool: captions of the grammar, their scenes rendered and encoded once.

In: a trained tokenizer, text encoder and autoencoder. Out, as arrays in a folder:
`latents.npy` f16 (N, 4, 8, 8), `caption.npy` i64 (N,) index into `contexts.npy` f16 (T, 77, D).
The unstated attributes of each concept follow low-discrepancy sequences, so that the pool shows
the intended shares per concept: guidance amplifies every accident of sampling.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from valign.miniature import text, vae
from valign.miniature.captions import Caption, sample
from valign.miniature.renderer import Scene, render
from valign.miniature.scenes import draw

_GOLDEN, _PLASTIC = 0.6180339887498949, 0.7548776662466927


def captioned_scenes(size: int, seed: int) -> tuple[list[Caption], list[Scene]]:
    """`size` captions and one scene for each."""
    rng = np.random.default_rng(seed)
    uses: dict[str, int] = {}
    captions, scenes = [], []
    for _ in range(size):
        caption = sample(rng)
        name = caption.concept.name if caption.concept else ""
        start = hashlib.sha256(name.encode()).digest()
        turn = uses[name] = uses.get(name, 0) + 1
        sequence = {
            "gender_u": (start[0] / 256 + turn * _GOLDEN) % 1.0,
            "race_u": (start[1] / 256 + turn * _PLASTIC) % 1.0,
        }
        captions.append(caption)
        scenes.append(draw(caption.meaning, rng, **(sequence if name else {})))
    return captions, scenes


@torch.no_grad()
def write_latents(
    folder: Path, autoencoder: Any, *, size: int, seed: int, part: int, parts: int
) -> None:
    """Render and encode every `parts`-th scene into `latents-<part>.npy`."""
    _, scenes = captioned_scenes(size, seed)
    mine = scenes[part::parts]
    latents = np.empty((len(mine), 4, 8, 8), dtype=np.float16)
    for i in range(0, len(mine), 64):
        images = np.stack([render(scene) for scene in mine[i : i + 64]])
        latents[i : i + 64] = vae.encode(autoencoder, images).numpy()
    np.save(folder / f"latents-{part}.npy", latents)


@torch.no_grad()
def write_contexts(folder: Path, tokenizer: Any, encoder: Any, *, size: int, seed: int) -> None:
    """Encode each distinct caption once."""
    captions, _ = captioned_scenes(size, seed)
    index = {t: i for i, t in enumerate(dict.fromkeys(["", *(c.text for c in captions)]))}
    texts = list(index)
    contexts = np.lib.format.open_memmap(
        folder / "contexts.npy",
        "w+",
        dtype=np.float16,
        shape=(len(texts), text.POSITIONS, text.WIDTH),
    )
    for i in range(0, len(texts), 128):
        ids_BL = text.token_ids(tokenizer, texts[i : i + 128])
        contexts[i : i + 128] = encoder(ids_BL).last_hidden_state.numpy()
    contexts.flush()
    np.save(folder / "caption.npy", np.array([index[c.text] for c in captions]))


def join_latents(folder: Path, parts: int) -> None:
    """Put the parts back into the pool's order as `latents.npy`."""
    pieces = [np.load(folder / f"latents-{part}.npy") for part in range(parts)]
    joined = np.empty((sum(len(p) for p in pieces), *pieces[0].shape[1:]), dtype=np.float16)
    for part, piece in enumerate(pieces):
        joined[part::parts] = piece
    np.save(folder / "latents.npy", joined)
