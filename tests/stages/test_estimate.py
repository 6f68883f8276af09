"""What a run will take is counted: operations against a second count, images against the plans."""

import json
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import nn
from transformers import LlavaForConditionalGeneration
from typer.testing import CliRunner

import valign.miniature
from tests import tiny, tiny_scorers
from valign import config
from valign.cli import app
from valign.models import flops
from valign.models.generator import load_generator
from valign.stages import estimate, evaluate_sets, images, principles
from valign.stages.evaluate_models import Model
from valign.storage import layout, tables
from valign.storage.objects import open_store

WEIGHTS = Path(valign.miniature.__file__).parent / "weights"


def by_hooks(network, run):
    """Operations of a real forward, by each layer's own formula."""
    total, hooks = [0], []

    def convolution(layer, _, out):
        taps = layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
        total[0] += 2 * out.numel() * taps

    def linear(layer, _, out):
        total[0] += 2 * out.numel() * layer.in_features

    def attention(layer, args, kwargs, _):
        hidden = args[0]
        queries = hidden.shape[1] if hidden.dim() == 3 else hidden.shape[2] * hidden.shape[3]
        context = kwargs.get("encoder_hidden_states")
        keys = queries if context is None else context.shape[1]
        total[0] += 2 * 2 * hidden.shape[0] * queries * keys * layer.inner_dim

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            hooks.append(layer.register_forward_hook(convolution))
        elif isinstance(layer, nn.Linear):
            hooks.append(layer.register_forward_hook(linear))
        elif isinstance(layer, Attention):
            hooks.append(layer.register_forward_hook(attention, with_kwargs=True))
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return total[0]


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_operations_of_a_generator_are_those_of_its_layers(family, tmp_path):
    build = tiny.build_generator if family == "sd" else tiny.build_sdxl
    folder = build(tmp_path / "generator")
    generator = load_generator(str(folder))
    counted = flops.of_configs(folder)
    unet, vae = generator.unet, generator.vae
    context = torch.zeros(1, 77, unet.config.cross_attention_dim)
    added = {"text_embeds": torch.zeros(1, 24), "time_ids": torch.zeros(1, 6)}
    latents = torch.zeros(1, 4, 8, 8)
    assert counted.unet == by_hooks(
        unet, lambda: unet(latents, 1, context, added_cond_kwargs=added)
    )
    assert counted.decode == by_hooks(vae, lambda: vae.decode(latents))
    assert counted.encode == by_hooks(vae, lambda: vae.encode(torch.zeros(1, 3, 64, 64)))
    larger = flops.of_configs(folder, 128)
    assert (larger.size_px, larger.latent_bytes) == (128, 2 * 4 * 16 * 16)
    assert larger.decode > 4 * counted.decode  # attention grows with the square of the area


def test_stable_diffusions_known_operations_are_those_of_its_architecture(tmp_path):
    folder = tiny.build_generator(tmp_path / "generator", width=8)
    unet = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
    vae = {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
    }
    text = json.loads((folder / "text_encoder/config.json").read_text())
    for part, tree in {
        "unet": unet,
        "vae": vae,
        "text_encoder": text | {"hidden_size": 768},
    }.items():
        (folder / part / "config.json").write_text(json.dumps(tree))
    counted, known = flops.of_configs(folder), flops.of_generator(flops.SD15)
    for name in ("unet", "decode", "encode", "size_px", "latent_bytes"):
        assert getattr(counted, name) == getattr(known, name), name
    assert known.unet / 1e12 == pytest.approx(0.80, abs=0.005)  # as others publish it
    assert known.image(25, 7.5) / 1e12 == pytest.approx(42.7, abs=0.1)
    assert known.image(25, 1.0) == 25 * known.unet + known.decode


def vision_transformer(side, patch, width, layers, mlp, projected=0):
    """Operations of a vision transformer with a class token, by the textbook."""
    patches = (side // patch) ** 2
    tokens = patches + 1
    layer = 8 * tokens * width**2 + 4 * tokens**2 * width + 4 * tokens * width * mlp
    return 2 * patches * 3 * patch**2 * width + layers * layer + 2 * width * projected


def test_operations_of_scorers_are_those_of_the_textbook(tmp_path):
    found = flops.of_image_tower(str(tiny.build_clip(tmp_path / "clip")))
    assert found == vision_transformer(64, 16, 32, 2, 128, projected=24)
    found = flops.of_image_tower("ViT-L-14:openai")
    assert found == vision_transformer(224, 14, 1024, 24, 4096, projected=768)
    folder = tiny_scorers.build_pickscore(tmp_path / "pickscore")
    assert flops.of_image_tower(str(folder)) == vision_transformer(32, 16, 32, 2, 64)
    assert flops.of_image_tower("no such model") is None

    folder = tiny_scorers.build_llava(tmp_path / "llava")
    language = LlavaForConditionalGeneration.from_pretrained(folder).model.language_model
    tokens = torch.zeros(1, 4 + 40, 32)
    read = by_hooks(language, lambda: language(inputs_embeds=tokens)) + 2 * 4 * 44**2 * 32
    assert flops.of_question(str(folder)) == vision_transformer(32, 16, 32, 3, 64) + read
    seven = flops.of_question(flops.LLAVA_7B)
    assert seven == pytest.approx(2 * 7.06e9 * 616, rel=0.1)  # two per parameter and token
    assert flops.of_question("llava-hf/another") is None


def test_the_papers_plan_on_the_miniature_is_counted(tmp_path):
    run = config.load("miniature_full")
    found = {line.stage: line for line in estimate.estimate(run).lines}
    assert found["generate"].images == 159_040 + 528 * 50
    assert found["encode"].images == 159_040
    assert found["generate"].shards == -(-158_370 // 500) + -(-27_070 // 500)
    assert found["generate"].gib == pytest.approx(185_440 * 64 * 64 * 3 / 2**30)
    assert found["train"].work == f"{run.train.steps * run.train.global_batch:,} pairs"
    for line in found.values():
        assert line.device == "cpu core"
        assert line.devices == 2
        assert line.hours == pytest.approx(line.tflop / 0.048 / 3600)
    base = Model("base", "base", run, "generator", own=True)
    aligned = Model(
        "aligned", "trained", run, "generator", encoder="token", shares=principles.drop(run)
    )
    drawn = evaluate_sets.distinct(evaluate_sets.plan(run, [base, aligned], {}))
    assert found["evaluate"].images == len(drawn)
    store = open_store(str(tmp_path))
    tables.write(store, layout.plan("drawn"), images.columns(drawn), tables.PLAN)
    assert found["evaluate"].shards == len(images.shards(store, "drawn", 500))


def test_the_papers_run_on_stable_diffusion_is_planned_without_its_weights():
    run = config.load("livo_sd15")
    found = estimate.estimate(run)
    lines = {line.stage: line for line in found.lines}
    assert lines["generate"].images == 185_440
    assert lines["generate"].tflop == pytest.approx(185_440 * 42.68, rel=1e-3)
    once_l14 = vision_transformer(224, 14, 1024, 24, 4096, projected=768)
    asked = 3 * flops.of_question(flops.LLAVA_7B)
    assert lines["score"].tflop == pytest.approx(185_440 * (once_l14 + asked) / 1e12)
    assert lines["encode"].gib == pytest.approx(159_040 * 32_768 / 2**30)
    assert {line.device for line in found.lines} == {"A100"}
    hours = found.device_hours["A100"]
    assert hours == pytest.approx(sum(line.tflop for line in found.lines) / 124.2 / 3600)
    assert found.cost(2.0) == pytest.approx(2 * hours)
    assert any("A100: 124.2 TFLOP/s, published" in note for note in found.notes)

    given = estimate.estimate(run, device="B300", tflop_per_s=1000.0)
    assert given.device_hours["B300"] == pytest.approx(hours * 0.1242)
    assert any("B300: 1000 TFLOP/s, as given" in note for note in given.notes)


def test_every_network_is_counted_once_and_what_cannot_be_is_named():
    clip = str(WEIGHTS / "clip")
    scorers = [
        {"name": "clip", "kind": "clip", "source": clip},
        {"name": "gender", "kind": "zero_shot", "source": "package:valign.miniature/weights/clip"},
        {"name": "toxicity", "kind": "toxicity_head", "source": str(WEIGHTS / "toxicity")},
        {"name": "aesthetic", "kind": "aesthetic", "source": "s3://bucket/laion.pth"},
        {"name": "hpsv2", "kind": "hpsv2", "source": "xswu/HPSv2"},
        {"name": "pickscore", "kind": "pickscore", "source": "yuvalkirstain/PickScore_v1"},
        {"name": "mine", "kind": "my.own:Scorer"},
    ]
    run = config.load("miniature", [f"score.scorers={json.dumps(scorers)}"])
    found = estimate.estimate(run)
    line = next(line for line in found.lines if line.stage == "score")
    each = [flops.of_image_tower(name) for name in (clip, "ViT-L-14", "ViT-H-14", "ViT-H-14")]
    assert line.tflop == pytest.approx(line.images * sum(each) / 1e12)
    assert [note for note in found.notes if "left out" in note and "mine" in note]
    assert not [note for note in found.notes if "hpsv2" in note]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["livo_sd15", "--device", "H9000"], "no rate is known of H9000"),
        (["generator=nobody/nothing"], "could not be fetched"),
        (["generator=/no/folder"], "nothing at /no/folder"),
        (["imports.source=pairs.parquet"], "known once they are imported"),
    ],
)
def test_what_cannot_be_known_is_one_clear_error(words, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shown = CliRunner().invoke(app, ["plan", *words])
    assert shown.exit_code == 2
    assert message in " ".join(shown.output.split())


def test_plan_prints_stages_hours_cost_and_where_its_rates_are_from():
    shown = CliRunner().invoke(
        app, ["plan", "livo_sd15", "--price-per-hour", "2.5"], env={"COLUMNS": "200"}
    )
    assert shown.exit_code == 0, shown.output
    text = shown.output
    for words in ("185,440", "A100-hours", "cost: ", "published", "Stable Diffusion 1.5"):
        assert words in text, text
