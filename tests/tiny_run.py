"""A run small enough for a test: tiny random models, a few dozen images, every stage real."""

import hashlib
from pathlib import Path

import yaml

from tests import tiny
from valign import config
from valign.config import Run
from valign.storage.objects import open_store

SETTINGS = {
    "seed": 1,
    "sampling": {"steps": 2, "batch_size": 8},
    "generate": {
        "shard_rows": 16,
        "principles": ["gender", "nudity"],
        "bias_prompts": 2,
        "toxic_prompts": 2,
        "neutral_images": 6,
        "images_per_attribute_pair": 1,
        "images_per_toxic_prompt": 3,
    },
    "label": {"verify_toxic": "none", "share_attribute_images": True},
    "train": {
        "steps": 4,
        "global_batch": 4,
        "learning_rate": 1.0e-3,
        "warmup_steps": 1,
        "save_every": 2,
        "log_every": 1,
    },
    "evaluate": {
        "bias_prompts": 2,
        "toxic_prompts": 2,
        "images_per_bias_prompt": 4,
        "images_per_toxic_prompt": 5,
        "resamples": 100,
        "report_prompts": 1,
    },
    "resources": {"workers": 2, "train_workers": 1},
}


def write_recipe(folder: Path) -> Path:
    """Build the tiny models under `folder` and return the path of a recipe that uses them."""
    generator = tiny.build_generator(folder / "generator")
    clip = str(tiny.build_clip(folder / "clip"))
    head = str(tiny.build_toxicity_head(folder / "toxicity"))
    scorers = [
        {"name": "clip", "kind": "clip", "source": clip},
        {"name": "gender", "kind": "zero_shot", "source": clip, "classes": ["male", "female"]},
        {"name": "toxicity", "kind": "toxicity_head", "source": head},
    ]
    recipe = {"generator": str(generator), "score": {"scorers": scorers}, **SETTINGS}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def load(recipe: Path, root: Path | str, *overrides: str) -> Run:
    """Return the tiny run under a root."""
    return config.load(str(recipe), [f"root={root}", *overrides])


def tree(root: Path | str) -> dict[str, str]:
    """Return the hash of every object under a root, save times and whatever names the root."""
    store = open_store(str(root))
    left_out = ("train/tensorboard/", "recipe.yaml")
    return {
        key: hashlib.sha256(store.read(key)).hexdigest()
        for key in store.list()
        if not key.startswith(left_out)
    }
