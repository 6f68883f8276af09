"""How beautiful people would find an image: LAION's aesthetic predictor on CLIP embeddings.

In: L2-normalised image embeddings of the CLIP that the predictor was trained on (OpenAI's ViT-L/14
for LAION's). Out: one number per image; LAION's was fitted to ratings from 1 to 10. LAION's network
768-1024-128-64-16-1 has no activation between its layers (dropout only, while training), so it is
an affine function of the embedding, and its range on unit vectors is known.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from valign.models.weight_files import (
    WEIGHTS,
    load_strictly,
    read_head_config,
    read_weights,
    write_head,
)

SIZES = (768, 1024, 128, 64, 16, 1)
CLIP = "ViT-L-14:openai"
_PLACE = re.compile(r"layers\.(\d+)\.(weight|bias)")


class AestheticHead(nn.Module):
    """Linear layers of `sizes`, the first the embedding's width, the last 1.

    `clip` is the model whose embeddings it reads: a folder, relative to where the head is saved, or
    any other source of `clip.Clip`.
    """

    def __init__(self, sizes: Sequence[int] = SIZES, *, clip: str = CLIP) -> None:
        super().__init__()
        if len(sizes) < 2 or sizes[-1] != 1 or min(sizes) < 1:
            raise ValueError(
                f"an aesthetic head needs sizes from the embedding's width to 1, got {list(sizes)}"
            )
        self.sizes = tuple(sizes)
        self.clip = clip
        self.layers = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))

    def forward(self, embedding_BD: Tensor) -> Tensor:
        """Return score_B of unit embeddings."""
        return self.layers(embedding_BD).squeeze(-1)

    @torch.no_grad()
    def bounds(self) -> tuple[float, float]:
        """Return the least and the greatest score of any unit embedding."""
        eye_DD = torch.eye(self.sizes[0])
        origin = self.forward(torch.zeros(1, self.sizes[0]))
        slope = float((self.forward(eye_DD) - origin).norm())
        # rounding in the layers may pass the exact bound a little
        slope += 1e-4 * (slope + abs(float(origin)))
        return float(origin) - slope, float(origin) + slope

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors (float32) into the folder."""
        write_head(folder, self, {"sizes": self.sizes, "clip": self.clip})

    @classmethod
    def load(cls, source: str | Path) -> "AestheticHead":
        """Read a saved head's folder, or the checkpoint that LAION published.

        Args:
            source: a folder (config.json with `sizes` and `clip`, and model.safetensors), or a
                .pth or .safetensors file with LAION's names of layers.

        Raises:
            ValueError: a weight is missing, unexpected or misshapen, or the file could run code.
        """
        if Path(source).is_dir():
            config = read_head_config(source, "sizes", "clip")
            head = cls(config["sizes"], clip=config["clip"])
            load_strictly(head, read_weights(Path(source) / WEIGHTS), source)
        else:
            weights = _without_dropout(read_weights(source), source)
            head = cls(_sizes(weights))
            load_strictly(head, weights, source)
        return head.eval()


def _without_dropout(weights: dict[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """Return LAION's weights with its linear layers counted from 0 without gaps."""
    found = {name: _PLACE.fullmatch(name) for name in weights}
    unknown = [name for name, match in found.items() if match is None]
    if unknown or not weights:
        raise ValueError(
            f"{source} is no aesthetic head: it holds {', '.join(unknown[:3]) or 'nothing'}, where "
            "layers.<number>.weight and .bias were expected"
        )
    places = sorted({int(match[1]) for match in found.values() if match})
    return {
        f"layers.{places.index(int(match[1]))}.{match[2]}": weights[name]
        for name, match in found.items()
        if match
    }


def _sizes(weights: dict[str, Tensor]) -> list[int]:
    """Return the widths that the weights ask for; whatever is missing is found by loading."""
    n_layers = len({name.split(".")[1] for name in weights})
    matrices = [
        weights.get(f"layers.{place}.weight", torch.empty(1, 1)) for place in range(n_layers)
    ]
    return [matrices[0].shape[-1], *(len(matrix) for matrix in matrices)]
