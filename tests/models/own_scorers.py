"""Scorers as a user would write them; the tests name them by module and class."""

import numpy as np

from valign.models.score_columns import ColumnInfo, ScoreColumn


class Brightness:
    """Mean of the pixels; fails on an image whose first pixel is pure green."""

    def __init__(self, source: str = "", gain: float = 1.0) -> None:
        self.gain = gain
        self.fingerprint = f"brightness 1 {gain} {source}"
        self.columns = {
            "brightness": ColumnInfo(low=0, high=255 * gain, higher_means="the image is brighter"),
            "parts": ColumnInfo(
                low=0, high=1, higher_means="more of it", classes=("dark", "light")
            ),
        }

    def score(self, images, prompts):
        assert all(prompt.text for prompt in prompts)
        if (images[:, 0, 0] == (0, 255, 0)).all(axis=-1).any():
            raise ValueError("a green corner")
        light = (images.mean(axis=(1, 2, 3)) / 255).astype(np.float32)
        return {
            "brightness": ScoreColumn.of(light * 255 * self.gain),
            "parts": ScoreColumn.of(np.stack([1 - light, light], 1), ("dark", "light")),
        }


class Broken(Brightness):
    """Fails on every image."""

    def score(self, images, prompts):
        raise OSError("the disk is gone")


class NoScorer:
    """Lacks what a scorer needs."""


class Careful(Brightness):
    """As Brightness, but reads what it prepares ahead, and meets the green corner there."""

    preprocessing = "brightness"

    def preprocess(self, images):
        if (images[:, 0, 0] == (0, 255, 0)).all(axis=-1).any():
            raise ValueError("a green corner")
        return images.astype(np.float32)

    def score(self, images, prompts):
        return self.score_prepared(self.preprocess(images), prompts)

    def score_prepared(self, prepared, prompts):
        return super().score(prepared, prompts)


class Short(Brightness):
    """Gives a value too few."""

    def score(self, images, prompts):
        scored = super().score(images, prompts)
        return {**scored, "brightness": ScoreColumn.of(scored["brightness"].values[1:])}


class Silent(Brightness):
    """Leaves a column out that it names."""

    def score(self, images, prompts):
        return {"brightness": super().score(images, prompts)["brightness"]}
