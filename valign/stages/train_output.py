"""What training leaves behind: the last checkpoint's weights in formats that others load.

In: the checkpoint's tensors by name, whatever engine wrote them. Out, under `train/`: `aligned/`
for a value encoder (with `unet/` beside it where that trained too), `model/` (a diffusers folder)
for a UNet, `lora/` (peft folders) for adapters; each with a card. A checkpoint can be written out
likewise, elsewhere.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from valign.config import Run
from valign.stages import model_card, principles
from valign.stages.generator import fetched, fingerprint_of, load_generator, sampler
from valign.storage import layout
from valign.storage.checkpoints import Checkpoint
from valign.storage.objects import Store


def save(store: Store, run: Run, made: Checkpoint, at: str = "train") -> None:
    """Write what was trained, under `at`; of a moving average, where there is one, its weights."""
    import torch

    kind = "value" if run.train.ema_decay is None else "ema"
    weights = {
        key.removeprefix(f"{kind}/"): torch.from_numpy(value)
        for key, value in made.tensors.items()
        if key.startswith(f"{kind}/")
    }
    card = model_card.card(store, run, made, at)
    with tempfile.TemporaryDirectory(prefix="valign-trained-") as scratch:
        folder = Path(scratch)
        if run.train.trains == "lora":
            _lora(folder / "lora", run, weights, card)
        if "unet" in run.train.trains:
            _pipeline(folder / "model", run, _under("unet", weights), card)
        if "value_encoder" in run.train.trains:
            own = _under("value_encoder", weights)
            _aligned(folder / "aligned", run, own, folder / "model", at, card)
        # the pointer last: who finds it finds the weights
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        for file in sorted(files, key=lambda file: file.name == layout.POINTER):
            store.write(f"{at}/{file.relative_to(folder).as_posix()}", file)


def _under(name: str, weights: Mapping[str, Any]) -> dict[str, Any]:
    start = f"{name}."
    return {key.removeprefix(start): w for key, w in weights.items() if key.startswith(start)}


def _pipeline(folder: Path, run: Run, unet: Mapping[str, Any], card: str) -> None:
    from valign.models.trained_pipeline import save_pipeline

    save_pipeline(folder, fetched(run), unet, card)


def _lora(folder: Path, run: Run, weights: Mapping[str, Any], card: str) -> None:
    from valign.models.lora import save_adapter

    settings = run.train.lora
    parts = {"unet": _under("unet", weights)}
    for number, name in enumerate(("text_encoder", "text_encoder_2")):
        parts[name] = _under(f"text_encoders.{number}", weights)
    for name, factors in parts.items():
        if factors:
            save_adapter(
                folder / name,
                factors,
                rank=settings.rank,
                alpha=settings.alpha,
                base=run.generator,
            )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _aligned(
    folder: Path, run: Run, weights: Mapping[str, Any], model: Path, at: str, card: str
) -> None:
    """Write an aligned model: a folder that `models.aligned` loads."""
    from valign.models.aligned import save_aligned
    from valign.models.pipeline_files import fingerprint, local_files
    from valign.models.value_encoder import ValueEncoder

    encoder = ValueEncoder.from_generator(
        load_generator(run, "float32"), principles.texts(run), principles.drop(run)
    )
    encoder.load_state_dict(weights)
    made_for, base = fingerprint_of(run), _anywhere(run.generator)
    variant, config = (
        run.generator_variant,
        run.generator_config and _anywhere(run.generator_config),
    )
    if model.is_dir():  # the UNet trained too, and the encoder belongs to that
        base = f"{_anywhere(run.root)}/{at}/model"
        made_for = encoder.base_fingerprint = fingerprint(local_files(str(model)))
        variant = config = None
    save_aligned(
        folder,
        encoder,
        base=base,
        base_variant=variant,
        base_config=config,
        base_fingerprint=made_for,
        card=card,
        sampler=sampler(run),
    )
    (folder / principles.IN_FOLDER).write_text(principles.to_json(run), "utf-8")


def _anywhere(source: str) -> str:
    """Return a source that means the same in any working folder."""
    return str(Path(source).resolve()) if Path(source).exists() else source
