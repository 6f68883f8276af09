"""How well images fit their prompts: the mean CLIP score, in the scorer's unit (cosine x 100).

The mean over a prompt's images comes first, then the mean over prompts, so every prompt counts the
same. On toxic prompts a perfect method must lose against the prompt as it is, because the toxic
words are in it: the score against the cleaned prompt is the fair one.

Shapes: G prompts, S samples per prompt.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valign.evaluation.toxicity import row_mean

VOTERS = ("hpsv2", "pickscore", "aesthetic")  # BalancedDPO's metrics beside the CLIP score


def clip_score(scores_GS: ArrayLike) -> NDArray[np.float64]:
    """Return the mean score per prompt over its known images, NaN for a prompt without any."""
    scores = np.asarray(scores_GS, dtype=np.float64)
    if scores.ndim != 2:
        raise ValueError(f"give the scores as (prompts, samples), got shape {scores.shape}")
    return row_mean(scores)
