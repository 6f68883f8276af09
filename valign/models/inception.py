"""InceptionV3 as a feature extractor, from weights that lie at hand: torchvision's, or FID's own.

In: uint8 images and a file of weights. Out: the 2,048 values before the last layer, which FID and
KID are taken from, and the class probabilities, which the inception score is taken from. Which
weights a file holds is told by its last layer. FID's (1,008 classes, converted from TensorFlow by
the authors of pytorch-fid and torch-fidelity) differ in how their blocks pool, in how images are
scaled, and in that class scores are taken without bias; published FIDs are of these.

Shapes: N images, C, H and W of pixels, D 2,048 features, K classes.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from valign.models.clip import in_chunks
from valign.models.score_columns import ColumnInfo, ScoreColumn
from valign.models.weight_files import hash_weights, load_strictly, read_weights
from valign.records import Prompt, digest

SIDE_PX, CHUNK = 299, 8
FID_CLASSES = 1008
MOST = float(np.finfo(np.float32).max)


class InceptionFeatures:
    """A scorer with two columns: `<name>`, the features, and `<name>_classes`, probabilities.

    Args:
        name: of the columns.
        source: the file of weights; a checkpoint is read with `weights_only`.
        device: where it runs.

    Raises:
        ValueError: the file cannot be read, or its weights are of another network.
    """

    def __init__(self, name: str, source: str, device: str = "cpu") -> None:
        weights = read_weights(source)
        last = weights.get("fc.weight")
        if last is None or last.ndim != 2:
            raise ValueError(
                f"{source} holds no InceptionV3: it has no layer fc.weight. Give torchvision's "
                "inception_v3 or FID's pt_inception weights"
            )
        self._is_fid = len(last) == FID_CLASSES
        self._network = network(len(last), fid=self._is_fid)
        kept = {k: v for k, v in weights.items() if not k.startswith("AuxLogits.")}
        counts = {k: v for k, v in self._network.state_dict().items() if k.endswith("_tracked")}
        load_strictly(self._network, {**counts, **kept}, source)  # FID's have no such counts
        self._device = torch.device(device)
        self._network.eval().to(self._device)
        self._last: Any = self._network.fc
        self._network.fc = nn.Identity()
        self._name = name
        features, classes = (
            tuple(map(str, range(n))) for n in (last.shape[1], len(last))
        )  # fmt: skip
        self.columns: Mapping[str, ColumnInfo] = {
            name: ColumnInfo(low=0, high=MOST, higher_means="more of it", classes=features),
            f"{name}_classes": ColumnInfo(
                low=0, high=1, higher_means="more likely this class", classes=classes
            ),
        }
        self.version = "InceptionV3 of FID" if self._is_fid else "InceptionV3 of torchvision"

    @cached_property
    def weights(self) -> str:
        """sha256 (hex) of the weights."""
        return digest(hash_weights(self._network), hash_weights(self._last))

    @property
    def fingerprint(self) -> str:
        """Changes whenever a feature could."""
        return digest("inception", self._is_fid, SIDE_PX, self.weights)

    @torch.inference_mode()
    def score(
        self, images_NHWC: np.ndarray, prompts: Sequence[Prompt], /
    ) -> dict[str, ScoreColumn]:
        """Return features and class probabilities of uint8 images."""
        features_ND = in_chunks(self._features, torch.from_numpy(images_NHWC.copy()), CHUNK)
        bias_K = None if self._is_fid else self._last.bias
        logits_NK = functional.linear(features_ND, self._last.weight, bias_K)
        found = {self._name: features_ND, f"{self._name}_classes": logits_NK.softmax(dim=1)}
        return {
            name: ScoreColumn.of(values.cpu().numpy(), self.columns[name].classes)
            for name, values in found.items()
        }

    def _features(self, images_NHWC: Tensor) -> Tensor:
        pixels_NCHW = images_NHWC.to(self._device).permute(0, 3, 1, 2).float()
        if self._is_fid:
            read = (scaled(pixels_NCHW, SIDE_PX) - 128) / 128
        else:
            size = (SIDE_PX, SIDE_PX)
            read = functional.interpolate(pixels_NCHW, size, mode="bilinear", antialias=True)
            read = read / 127.5 - 1
        found: Tensor = self._network(read)
        return found


def scaled(pixels_NCHW: Tensor, side_px: int) -> Tensor:
    """Return images scaled as TensorFlow 1 did: bilinear, pixels' corners and not their middles."""

    def along(x: Tensor, dim: int) -> Tensor:
        n = x.shape[dim]
        at = torch.arange(side_px, device=x.device, dtype=torch.float32) * (n / side_px)
        low = at.floor().long()
        shape = [1] * x.ndim
        shape[dim] = side_px
        part = (at - low).reshape(shape)
        high = (low + 1).clamp(max=n - 1)
        return x.index_select(dim, low) * (1 - part) + x.index_select(dim, high) * part

    return along(along(pixels_NCHW, 2), 3)


def network(classes: int, *, fid: bool) -> Any:
    """Return an InceptionV3 without weights, in torchvision's form or in FID's."""
    from torchvision.models import Inception3
    from torchvision.models.inception import InceptionA, InceptionC, InceptionE

    made = Inception3(num_classes=classes, aux_logits=False, init_weights=False)
    if not fid:
        return made

    def pooling(kind: type, pool: Any) -> Any:
        """Return a kind of block whose last branch reads what `pool` makes."""

        class Block(kind):
            def _forward(self, x: Tensor) -> list[Tensor]:
                *others, _ = super()._forward(x)
                return [*others, self.branch_pool(pool(x))]

        return Block

    a, c = pooling(InceptionA, mean_of_pixels), pooling(InceptionC, mean_of_pixels)
    for name, read, pooled in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        setattr(made, f"Mixed_{name}", a(read, pooled))
    for name, inner in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        setattr(made, f"Mixed_{name}", c(768, inner))
    made.Mixed_7b = pooling(InceptionE, mean_of_pixels)(1280)
    made.Mixed_7c = pooling(InceptionE, highest_of_pixels)(2048)
    return made


def mean_of_pixels(x: Tensor) -> Tensor:
    """Return each 3x3 neighbourhood's mean over the pixels that there are, without padding."""
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def highest_of_pixels(x: Tensor) -> Tensor:
    """Return each 3x3 neighbourhood's highest value."""
    return functional.max_pool2d(x, 3, stride=1, padding=1)
