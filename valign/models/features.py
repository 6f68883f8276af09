"""The embeddings of a CLIP themselves, as a column: what FID, KID and diversity are taken from.

In: unit image embeddings. Out: one column of D values per image. It shares the forward pass of any
other scorer of the same CLIP. What the features are used for is evaluation's.

Shapes: N images, D embedding width.
"""

from collections.abc import Sequence

from torch import Tensor

from valign.models.clip import Clip
from valign.models.clip_reader import ClipReader
from valign.models.score_columns import ColumnInfo, ScoreColumn
from valign.records import Prompt


class ClipFeatures(ClipReader):
    """The unit image embedding of a CLIP."""

    def __init__(self, name: str, clip: Clip) -> None:
        self._column = name
        self._classes = tuple(str(place) for place in range(clip.embed_dim))
        info = ColumnInfo(
            low=-1, high=1, higher_means="further along this axis", classes=self._classes
        )
        super().__init__(clip, {name: info}, ["features"])

    def read(self, image_ND: Tensor, prompts: Sequence[Prompt]) -> dict[str, ScoreColumn]:
        """Return the embedding of each image."""
        return {self._column: ScoreColumn.of(image_ND.numpy(), self._classes)}
