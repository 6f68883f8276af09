"""Black and constant images are quarantined with the reason; the others are made as ever."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny_run
from valign import config
from valign.stages.execute import execute
from valign.stages.image_files import pixels
from valign.stages.inline import Inline
from valign.storage import layout, tables
from valign.storage.objects import open_store


def altered(recipe: Path, folder: Path, part: str, change) -> str:
    """Return a copy of the recipe's generator with some weights changed."""
    shutil.copytree(config.load(str(recipe)).generator, folder)
    (file,) = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    change(weights)
    save_file(weights, file)
    return f"generator={folder}"


def run_of(recipe: Path, tmp_path: Path, generator: str, *more: str):
    prompts = tmp_path / "mine.txt"
    prompts.write_text("a hill\na quiz\na lake\n")
    return tiny_run.load(recipe, tmp_path / "root", generator, f"prompts={prompts}", *more)


def quarantined(root: str) -> list[str]:
    table = tables.read(open_store(root), layout.quarantine("generate", 0), tables.QUARANTINE)
    return table["reason"].to_pylist()


def test_a_prompt_whose_image_is_black_costs_that_image_alone(recipe, tmp_path):
    def poison(weights):
        tokenizer = json.loads((tmp_path / "bad/tokenizer/tokenizer.json").read_text())
        (name,) = (key for key in weights if key.endswith("token_embedding.weight"))
        weights[name][tokenizer["model"]["vocab"]["q"]] = torch.nan

    generator = altered(recipe, tmp_path / "bad", "text_encoder", poison)
    run = run_of(recipe, tmp_path, generator, "resources.max_bad_fraction=0.5")
    made = execute(("generate", "score"), run, Inline())["generate"]
    assert (made.counts["images"], made.counts["quarantined"]) == (2, 1)
    assert quarantined(run.root) == ["the image is black"]
    store = open_store(run.root)
    kept = tables.read(store, layout.part("generate", 0), tables.IMAGES)["text"].to_pylist()
    assert kept == ["a hill", "a lake"]
    assert tables.read_scores(store, layout.part("score", 0)).num_rows == 2


def test_constant_images_are_quarantined_and_too_many_stop_the_run(recipe, tmp_path):
    def flatten(weights):
        weights["decoder.conv_out.weight"].zero_()

    generator = altered(recipe, tmp_path / "flat", "vae", flatten)
    with pytest.raises(ValueError, match="3 of 3 images could not be used"):
        execute(("generate",), run_of(recipe, tmp_path, generator), Inline())
    assert quarantined(str(tmp_path / "root")) == ["the image is one constant colour"] * 3


def test_a_folders_own_safety_checker_is_never_loaded(recipe, tmp_path):
    plain = altered(recipe, tmp_path / "plain", "vae", lambda weights: None)
    checked = altered(recipe, tmp_path / "checked", "vae", lambda weights: None)
    index = tmp_path / "checked/model_index.json"
    tree = json.loads(index.read_text())
    named = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    index.write_text(json.dumps(tree | named | {"requires_safety_checker": True}))
    (tmp_path / "checked/safety_checker").mkdir()
    (tmp_path / "checked/safety_checker/model.safetensors").write_bytes(b"not even weights")
    pictures = []
    for name, generator in (("a", plain), ("b", checked)):
        (tmp_path / name).mkdir()
        run = run_of(recipe, tmp_path / name, generator)
        execute(("generate",), run, Inline())
        part = tables.read(open_store(run.root), layout.part("generate", 0), tables.IMAGES)
        pictures.append([image["bytes"] for image in part["image"].to_pylist()])
    assert len(pictures[0]) == 3
    for one, other in zip(*pictures, strict=True):
        assert (pixels(one) == pixels(other)).all()
