"""Which of a prompt's images get the value token (LiVO's value drop).

Preferred images carry the under-represented attribute only, so a token on every image overshoots.
Bias principles are therefore applied to a share of a prompt's images, toxicity principles to all.
The share is met as nearly as whole images allow instead of by a coin for each image, which would
only add variance; a hash decides about the image that is left over, so that a share of 0.3 holds
over many single images too.
"""

import math

import numpy as np

from valign.records import digest

# LiVO's shares of a prompt's images that get the token, by the principle's key.
DEFAULT_DROP = {"gender": 0.5, "race": 0.5, "nudity": 1.0, "bloody": 1.0, "horror": 1.0}


def apply_mask(key: str, scene: str, n: int, p: float, seed: int) -> np.ndarray:
    """Say for each of a scene's n images whether it gets the token.

    Args:
        key: the principle's key.
        scene: the neutral or original prompt that the images belong to.
        n: number of images.
        p: share that gets the token, 0..1.
        seed: the run's seed; where there is no run, the first image's noise seed.

    Returns:
        bool_N with floor(p * n + u) times True, u in 0..1 a seeded hash of principle and scene:
        p * n where that is whole, and in the mean over scenes or seeds always. Which ones is such
        a hash too, so it differs between scenes and is the same everywhere.

    Raises:
        ValueError: p is outside 0..1, or n is negative.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"the share of images that get the token must be in 0..1, got {p}")
    if n < 0:
        raise ValueError(f"there cannot be {n} images")
    order = sorted(range(n), key=lambda index: digest("value drop", seed, key, scene, index))
    mask_N = np.zeros(n, dtype=bool)
    left_over = int(digest("value drop", seed, key, scene)[:13], 16) / 16**13  # exact in float64
    mask_N[order[: math.floor(p * n + left_over)]] = True
    return mask_N
