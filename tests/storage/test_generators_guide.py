"""The recipes of docs/generators.md run as they are written, on small models of the same kinds."""

import io
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests import tiny
from tests.original_layout import save_checkpoint
from valign import config
from valign.config import Run
from valign.stages.execute import execute
from valign.stages.generator import fetched, fingerprint_of
from valign.stages.inline import Inline
from valign.storage import layout, tables
from valign.storage.objects import open_store

GUIDE = (Path(__file__).parents[2] / "docs/generators.md").read_text()
RECIPES = [block.partition("```")[0] for block in GUIDE.split("```yaml\n")[1:]]


def put_in_hub_cache(cache: Path, hub_id: str) -> Path:
    """Return the folder that holds a repository's files in a hub's cache."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("abc")
    return repository / "snapshots/abc"


def as_variant(folder: Path, variant: str) -> None:
    for file in list(folder.rglob("*.safetensors")):
        file.rename(file.with_suffix(f".{variant}.safetensors"))


@pytest.fixture
def world(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, a hub's cache and a bucket with small models under the guide's names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hub = tmp_path / "hub"
    sd15 = put_in_hub_cache(hub, "stable-diffusion-v1-5/stable-diffusion-v1-5")
    tiny.build_generator(sd15)
    sdxl = put_in_hub_cache(hub, "stabilityai/stable-diffusion-xl-base-1.0")
    as_variant(tiny.build_sdxl(sdxl), "fp16")
    (tmp_path / "checkpoints").mkdir()
    save_checkpoint(sd15, tmp_path / "checkpoints/my_sd15.safetensors")
    store = open_store(f"s3://{bucket}/models/my_sd15")
    for file in sd15.rglob("*"):
        if file.is_file():
            store.write(file.relative_to(sd15).as_posix(), file)
    (tmp_path / "mine.txt").write_text("a red bus\na hill\n")
    return tmp_path


def generated(recipe: str, root: str) -> tuple[Run, list[dict[str, object]]]:
    """Run a recipe of the guide for two prompts, with one step and batches of two."""
    sampling = (yaml.safe_load(recipe).get("sampling") or {}) | {"steps": 2, "batch_size": 2}
    path = Path(f"{root}.yaml")
    path.write_text(recipe)
    run = config.load(str(path), [f"root={root}", "prompts=mine.txt", f"sampling={sampling}"])
    execute(("generate",), run, Inline())
    parts = tables.read(open_store(run.root), layout.part("generate", 0), tables.IMAGES)
    return run, parts.to_pylist()


def test_every_recipe_of_the_guide_makes_images(world):
    made = [generated(recipe, f"run{number}") for number, recipe in enumerate(RECIPES)]
    for run, rows in made:
        assert {row["generator"] for row in rows} == {fingerprint_of(run)}
        assert [row["text"] for row in rows] == ["a red bus", "a hill"]
    (sd15, _), (sdxl, xl_rows), (checkpoint, _), (bucket, jpegs) = made
    assert (sdxl.generator_variant, sdxl.sampling.scheduler) == ("fp16", "euler")
    assert fingerprint_of(bucket) == fingerprint_of(sd15)
    assert fetched(checkpoint).folder == fetched(sd15).folder
    first = Image.open(io.BytesIO(jpegs[0]["image"]["bytes"]))
    assert first.format == "JPEG" and b'valign:prompt="a red bus"' in first.info["xmp"]
    assert Image.open(io.BytesIO(xl_rows[0]["image"]["bytes"])).size == (64, 64)


def test_a_hub_id_that_is_not_there_says_what_to_do(world):
    with pytest.raises(ValueError, match="'org/absent' is no local folder.*Check the name"):
        fetched(Run(generator="org/absent"))
    with pytest.raises(ValueError, match="variant 'fp16'"):
        fingerprint_of(
            Run(generator="stable-diffusion-v1-5/stable-diffusion-v1-5", generator_variant="fp16")
        )


def test_the_guide_names_every_setting_of_sampling():
    from valign.settings import Sampling

    assert not [name for name in Sampling.model_fields if f"`{name}`" not in GUIDE]
