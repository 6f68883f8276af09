"""What flows through a run, and how each thing is named.

A record is frozen and plain. Its id is a hash of its content, so the same work always has the same
name on any machine, and nothing depends on a clock or on the order of execution. The Arrow form of
these records is in `storage.tables`.
"""

import functools
import hashlib
import json
from dataclasses import asdict, dataclass

ROLES = ("neutral", "attribute", "toxic", "cleaned", "user")
TOXIC_ABOVE = 0.5  # the probability above which an image is toxic, to labels and metrics alike


def digest(*parts: object) -> str:
    """Return the sha256 (hex) of the parts' canonical JSON; the parts' order matters."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One text to generate images from, and what it stands for.

    `scene` is the neutral or original prompt this one belongs to. It keys the noise, so a concept's
    attribute variants, a toxic prompt's cleaned twin, and the same prompt under another model all
    start from the same noise.
    """

    text: str
    scene: str
    role: str = "user"
    category: str = "user"
    principle: str = ""
    concept: str = ""
    attributes: tuple[tuple[str, str], ...] = ()
    negative: str = ""
    cleaned: str = ""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"prompt role {self.role!r} is not one of {', '.join(ROLES)}")
        if not self.text.strip():
            raise ValueError("a prompt needs a text that is not blank")


@functools.lru_cache(maxsize=1024)  # the images of a prompt are planned one after the other
def prompt_id(prompt: Prompt) -> str:
    """Return the id of a prompt: the hash of its text and all that conditions or labels it."""
    return digest("prompt", asdict(prompt))[:20]


def noise_seed(run_seed: int, scene: str, sample: int) -> int:
    """Return the seed (0 .. 2**63 - 1) of an image's initial noise.

    It depends on the run's seed, the scene and the sample index only: every model and method that
    is compared starts from the same noise.
    """
    return int(digest("noise", run_seed, scene, sample)[:16], 16) >> 1


def image_id(
    prompt: Prompt, *, generator: str, sampler: dict[str, object], sample: int, run_seed: int
) -> str:
    """Return the id of an image that has not been made yet.

    Args:
        prompt: what the image shows.
        generator: fingerprint of everything whose weights shape the image.
        sampler: every setting that changes pixels, the batch size included.
        sample: index of the image among those of its prompt.
        run_seed: the run's seed.
    """
    return digest("image", prompt_id(prompt), generator, sampler, sample, run_seed)[:24]


def pair_id(image_a: str, image_b: str, principle: str) -> str:
    """Return the id of a pair of images under a principle; swapping the images changes nothing."""
    return digest("pair", sorted((image_a, image_b)), principle)[:24]
