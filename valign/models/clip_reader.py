"""A scorer that reads the image embeddings of a CLIP, which it shares with other scorers.

In: unit image embeddings and the images' prompts. Out: score columns. Loading and running the CLIP
is not its matter.

Shapes: N images, D embedding width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property

from torch import Tensor, nn

from valign.models.clip import Clip
from valign.models.score_columns import ColumnInfo, ScoreColumn
from valign.models.weight_files import hash_weights
from valign.records import Prompt, digest


class ClipReader(ABC):
    """What all scorers of a CLIP's embeddings are.

    Args:
        clip: the model whose embeddings it reads.
        columns: every column that `read` returns.
        settings: whatever else shapes the scores, the scorer's own kind first.
        head: a network of its own, if it has one.
        version: which published weights, for people; "": what the CLIP is called.
    """

    def __init__(
        self,
        clip: Clip,
        columns: Mapping[str, ColumnInfo],
        settings: Sequence[object],
        head: nn.Module | None = None,
        version: str = "",
    ) -> None:
        self.clip = clip
        self.columns = dict(columns)
        self.version = version or clip.label
        self._settings = list(settings)
        self._head_network = head

    @cached_property
    def weights(self) -> str:
        """sha256 (hex) of the weights that are its own: its head's, else the CLIP's."""
        return hash_weights(self._head_network) if self._head_network else self.clip.weights

    @property
    def fingerprint(self) -> str:
        """Changes whenever the scores could."""
        return digest(*self._settings, self.clip.fingerprint, self.weights)

    @abstractmethod
    def read(self, image_ND: Tensor, prompts: Sequence[Prompt]) -> dict[str, ScoreColumn]:
        """Return the columns for unit image embeddings and the images' prompts."""
