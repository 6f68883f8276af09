"""A trained UNet as a diffusers pipeline folder: the base's own files with other UNet weights.

In: the base pipeline's files, and weights by name. Out: a folder that
`StableDiffusionPipeline.from_pretrained` and `load_generator` load. All but the UNet is copied as
it lies, so text encoders keep the layout that their users' library reads. There is no safety
checker in it, as in everything this package makes.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from valign.models.pipeline_files import PipelineFiles, is_wanted

LEFT_OUT = ("unet", "safety_checker")
WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = "model_index.json"


def check_base(files: PipelineFiles) -> None:
    """Raise ValueError if a base pipeline cannot be written out with another UNet."""
    if files.checkpoint is not None or files.variant is not None:
        raise ValueError(
            f"{files} is a single file or a variant; a UNet is trained from a plain pipeline "
            "folder, whose other parts are saved with it: convert it with diffusers' "
            "save_pretrained"
        )


def save_pipeline(
    folder: Path | str, files: PipelineFiles, unet: Mapping[str, Tensor], card: str
) -> None:
    """Write a pipeline folder.

    Args:
        folder: is made if need be.
        files: of the base pipeline.
        unet: all of the UNet's weights, by its own names.
        card: the model card, Markdown.

    Raises:
        ValueError: the base is a single file.
    """
    from safetensors.torch import save_file

    check_base(files)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    index = json.loads((files.folder / INDEX).read_text(encoding="utf-8"))
    parts = [name for name, kind in index.items() if isinstance(kind, list) and kind[0]]
    for part in parts:
        if part not in LEFT_OUT and (files.folder / part).is_dir():
            (folder / part).mkdir(exist_ok=True)
            for file in sorted((files.folder / part).iterdir()):
                if is_wanted(file.name):
                    shutil.copyfile(file, folder / part / file.name)
    (folder / "unet").mkdir(exist_ok=True)
    shutil.copyfile(files.folder / "unet" / "config.json", folder / "unet" / "config.json")
    weights = {name: value.contiguous() for name, value in unet.items()}
    save_file(weights, folder / "unet" / WEIGHTS, metadata={"format": "pt"})
    if "safety_checker" in index:
        index |= {"safety_checker": [None, None], "requires_safety_checker": False}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
