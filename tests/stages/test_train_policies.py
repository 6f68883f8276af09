"""Training of other weights than a value encoder, from pairs that were voted on, to what loads."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests import tiny_run
from valign.models.aligned import sample_rows
from valign.models.generator import load_generator
from valign.records import noise_seed
from valign.stages.dataset_samples import draw
from valign.stages.execute import execute
from valign.stages.generator import sampler
from valign.stages.image_files import pixels, png
from valign.stages.inline import Inline
from valign.storage import checkpoints, layout
from valign.storage.objects import open_store

VOTED = ("label.rule=vote", "label.vote.voters=[clip_score]", "label.vote.candidates=best_worst")
BALANCED = (
    *("train.objective=balanced_dpo", "train.refresh_every=2", "train.prompt_dropout=0.5"),
    *("train.beta=500", "resources.engine.micro_steps=2"),
)
PROMPT = "A photo of a doctor"
SAMPLED = ("train.samples.every=2", f"train.samples.prompts=[{PROMPT}]")


def drawn(run, generator):
    """Return the run's two samples as a generator draws them."""
    seeds = [noise_seed(run.seed, PROMPT, number) for number in range(2)]
    condition = generator.condition([PROMPT, PROMPT])
    return sample_rows(generator, condition, seeds, sampler(run), batch_size=2)


def grid(*rows):
    return draw([[png(image) for image in row] for row in rows])


def sample(root, step):
    return (root / layout.sample(step, toxic=False)).read_bytes()


@pytest.fixture(scope="module")
def voted(recipe, finished, tmp_path_factory):
    """Root of a tiny run up to encode, labelled by a vote."""
    root = tmp_path_factory.mktemp("voted")
    for stage in ("generate", "score"):
        shutil.copytree(finished / stage, root / stage)
    execute(("label", "encode"), tiny_run.load(recipe, root, *VOTED), Inline())
    return root


def train(recipe, before, root, *settings):
    for stage in ("generate", "score", "label", "encode"):
        shutil.copytree(before / stage, root / stage)
    run = tiny_run.load(recipe, root, *settings)
    execute(("train",), run, Inline())
    made = checkpoints.latest(open_store(str(root)), "train")
    assert made is not None
    return run, made


def test_a_trained_unet_is_a_pipeline_that_plain_diffusers_loads(recipe, voted, tmp_path):
    from diffusers import StableDiffusionPipeline

    ema = ("train.ema_decay=0.5", "train.reference_precision=bfloat16", "train.precision=bfloat16")
    run, made = train(
        recipe, voted, tmp_path, *VOTED, *BALANCED, *SAMPLED, "train.trains=unet", *ema
    )
    assert made.loop["refreshed"] == 4
    folder = tmp_path / "train" / "model"
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    assert pipeline.safety_checker is None
    tensors, base = made.tensors, load_generator(run.generator)
    assert {key.split("/")[0] for key in tensors} == {
        *("value", "exp_avg", "exp_avg_sq", "reference", "ema")
    }
    own = load_generator(str(folder))
    assert own.fingerprint != base.fingerprint
    assert sample(tmp_path, 4) == grid(drawn(run, base), drawn(run, own)), "of the moving average"
    for name, value in own.unet.state_dict().items():
        assert torch.equal(value, torch.from_numpy(tensors[f"ema/unet.{name}"]))
        assert torch.equal(value, pipeline.unet.state_dict()[name])
    assert any(
        not torch.equal(value, base.unet.state_dict()[name])
        for name, value in own.unet.state_dict().items()
    )
    for name, value in own.text_encoder.state_dict().items():
        assert torch.equal(value, base.text_encoder.state_dict()[name])
    rows = [json.loads(line) for line in (tmp_path / "train/metrics.jsonl").read_text().split("\n")
            if line]  # fmt: skip
    assert {"drift", "steps_since_refresh", "implicit_accuracy_clip_score"} <= set(rows[-1])
    card = (folder / "README.md").read_text()
    assert "- 4 of 4 steps of 4 pairs" in card and "- reference last refreshed at update 4" in card
    assert (
        "- engine ddp on 1 worker\n" in card and "[label/README.md](../../label/README.md)" in card
    )
    for name in ("loss", "implicit_accuracy", "implicit_accuracy_clip_score", "drift"):
        assert f"| {name} | {rows[-1][name]:.4g} |" in card
    assert (folder / "../../label/README.md").is_file()
    (events,) = (tmp_path / "train/tensorboard").iterdir()
    assert all(name in events.read_bytes() for name in (b"tflop_per_s", b"memory_gib"))
    execute(("evaluate",), run, Inline())
    results = json.loads((tmp_path / "evaluate/results.json").read_text())
    aligned = results["provenance"]["models"]["aligned"]
    assert aligned["generator_fingerprint"] == own.fingerprint
    assert set(results["models"]) == {"base", "aligned"}


def test_adapters_are_peft_folders_that_change_the_unet_as_trained(recipe, voted, tmp_path):
    from peft import PeftModel

    lora = ("train.trains=lora", "train.lora={rank: 2, alpha: 4, text_encoder: true}")
    run, made = train(recipe, voted, tmp_path, *VOTED, *BALANCED, *SAMPLED, *lora)
    assert "| loss | " in (tmp_path / "train/lora/README.md").read_text()
    base = load_generator(run.generator)
    start = drawn(run, base)
    for part, network, prefix in (
        ("unet", base.unet, "unet"),
        ("text_encoder", base.text_encoder, "text_encoders.0"),
    ):
        folder = tmp_path / "train" / "lora" / part
        before = {name: value.clone() for name, value in network.state_dict().items()}
        merged = PeftModel.from_pretrained(network, folder).merge_and_unload().state_dict()
        changed = [name for name in before if not torch.equal(before[name], merged[name])]
        factors = load_file(folder / "adapter_model.safetensors")
        assert len(factors) == 2 * len(changed) > 0
        for name in changed:
            layer = f"value/{prefix}.{name.removesuffix('.weight')}"
            first, second = (made.tensors[f"{layer}.lora_{x}.policy.weight"] for x in "AB")
            expected = before[name].numpy() + 4 / 2 * second @ first
            np.testing.assert_allclose(merged[name].numpy(), expected, rtol=1e-4, atol=1e-6)
        network.load_state_dict(merged)
    base.text.forget()
    shown, merged_draws = pixels(sample(tmp_path, 4)), pixels(grid(start, drawn(run, base)))
    off = np.abs(shown.astype(int) - merged_draws)
    assert off.max() <= 2 and not np.array_equal(shown, pixels(grid(start, start)))


def test_livo_with_the_unet_is_an_aligned_model_over_its_own_base(recipe, finished, tmp_path):
    from valign.models.aligned import AlignedPipeline

    _, made = train(recipe, finished, tmp_path, "train.trains=value_encoder+unet")
    aligned = AlignedPipeline.from_pretrained(tmp_path / "train" / "aligned")
    for name, value in aligned.generator.unet.state_dict().items():
        assert torch.equal(value, torch.from_numpy(made.tensors[f"value/unet.{name}"]))
    assert "| loss | " in (tmp_path / "train/aligned/README.md").read_text()
    assert aligned(["A photo of a doctor"], ["gender"], seeds=[1]).shape == (1, 64, 64, 3)


def test_an_objective_without_pairs_of_its_kind_says_how_to_label(
    recipe, finished, voted, tmp_path
):
    with pytest.raises(ValueError, match="decided by a vote, .*; label with label.rule=vote"):
        train(recipe, finished, tmp_path / "a", *BALANCED, "train.trains=unet")
    with pytest.raises(ValueError, match="under a principle, .*; label with label.rule=livo"):
        train(recipe, voted, tmp_path / "b", *VOTED)


def test_a_training_killed_after_a_refresh_ends_as_the_uninterrupted_one(recipe, voted, tmp_path):
    lora = ("train.trains=lora", "train.aggregation=random_scorer", *SAMPLED)
    settings = (*VOTED, *BALANCED, *lora)
    _, whole = train(recipe, voted, tmp_path / "whole", *settings)
    root = tmp_path / "killed"
    train(recipe, voted, root, *settings, "train.steps=2")
    for name in ("manifest.json", "started.json"):
        (root / "train" / name).unlink(missing_ok=True)
    execute(("train",), tiny_run.load(recipe, root, *settings), Inline())
    again = checkpoints.latest(open_store(str(root)), "train")
    assert again.loop == whole.loop
    assert again.files == whole.files
    samples = [sorted((at / layout.SAMPLES).iterdir()) for at in (tmp_path / "whole", root)]
    assert [[file.name for file in found] for found in samples] == [
        ["step-00000002.png", "step-00000004.png"]
    ] * 2
    assert [file.read_bytes() for file in samples[0]] == [file.read_bytes() for file in samples[1]]
    boards = sorted((root / layout.TENSORBOARD).iterdir())
    assert [board.read_bytes().count(b"\x89PNG") for board in boards] == [1, 1], "each once"
