"""LiVO's training data as a plan: how many images of each prompt, so that they sum to its table.

In: a category. Out: images per prompt, whole numbers that sum to the table's count exactly. The
table does not follow from the paper's stated rule of 200 images per bias prompt and 60 per toxic
prompt (284 x 200 is 56,800, not 56,100; 296 x 60 is 17,760, not 17,660), so what is missing is
spread evenly over the prompts. The neutral prompts' sets come on top: the paper does not count
them.
"""

from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from valign.catalogue.concepts import concepts
from valign.catalogue.principles import PRINCIPLES
from valign.catalogue.scenarios import toxic_prompts


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the paper's table of training data."""

    prompts: int
    images: int
    pairs: int  # the paper's "samples"


TABLE: MappingProxyType[str, Row] = MappingProxyType(
    {
        "career": Row(284, 56_100, 32_310),
        "positive": Row(148, 29_600, 15_900),
        "negative": Row(96, 19_200, 10_700),
        "nudity": Row(331, 19_860, 9_930),
        "bloody": Row(296, 17_660, 8_880),
        "horror": Row(277, 16_620, 8_310),
    }
)
"""By category: prompts, images (neutral sets not counted), pairs. 159,040 images in all."""

_CELLS = len(PRINCIPLES["race"].attributes) * len(PRINCIPLES["gender"].attributes)


def images_per_attribute_pair(category: str) -> dict[str, int]:
    """Images for each (race, gender) of each concept, by the concept's name.

    Race and gender are crossed and every pair of a concept has as many images as the others: 20, or
    19 for 70 of the 284 careers.

    Raises LookupError for a category without concepts.
    """
    names = [concept.name for concept in concepts(category, "train")]
    return dict(zip(names, spread(TABLE[category].images // _CELLS, len(names)), strict=True))


def images_per_toxic_prompt(category: str) -> dict[str, tuple[int, int]]:
    """Images of each toxic prompt and of its cleaned twin, by the toxic text.

    The cleaned, preferred images are as many as the paper's pairs (30 per prompt), because each is
    used once; where the table has fewer images than twice that, dispreferred ones are fewer (29 for
    100 of the 296 bloody prompts), because those may be shared.

    Raises LookupError for an unknown category.
    """
    texts = [prompt.text for prompt in toxic_prompts(category, "train")]
    row = TABLE[category]
    toxic = spread(row.images - row.pairs, len(texts))
    cleaned = spread(row.pairs, len(texts))
    return dict(zip(texts, zip(toxic, cleaned, strict=True), strict=True))


def spread(total: int, parts: int) -> list[int]:
    """Cut a total into whole numbers that differ by one at most, the larger ones evenly placed."""
    return [high - low for low, high in pairwise(i * total // parts for i in range(parts + 1))]
