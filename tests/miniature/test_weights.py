"""The shipped folders: they load by their libraries alone, read any text, and repeat themselves."""

import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from valign.models.generator import Sampler, load_generator
from valign.models.toxicity import ToxicityHead

WEIGHTS = Path(str(resources.files("valign.miniature"))) / "weights"


@pytest.fixture(scope="module")
def generator():
    return load_generator(str(WEIGHTS / "generator"))


def test_the_generator_loads_with_diffusers_alone():
    code = (
        "import sys; sys.modules['valign'] = None\n"
        "from diffusers import StableDiffusionPipeline as P\n"
        f"p = P.from_pretrained({str(WEIGHTS / 'generator')!r})\n"
        "print(p('A photo of a doctor', num_inference_steps=2).images[0].size)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "(64, 64)" in done.stdout, done.stderr[-500:]


@pytest.mark.parametrize(
    "text", ["", "зима 你好 🎉", "qwzx " * 300, "\x00\t\n", "A photo of a doctor"]
)
def test_any_text_makes_an_image(generator, text):
    image = generator.sample(generator.condition([text]), [2**62], Sampler(steps=2))
    assert image.shape == (1, 64, 64, 3)
    assert image.std() > 0


def test_images_do_not_depend_on_their_company(generator):
    texts = ["A photo of a doctor", "A photo of a happy person", "a snowy mountain"]
    sampler = Sampler(steps=3)
    one = generator.sample(generator.condition(texts), [1, 2, 3], sampler)
    other = generator.sample(generator.condition([texts[0], "", texts[2]]), [1, 9, 3], sampler)
    assert np.array_equal(one[[0, 2]], other[[0, 2]])
    alone = generator.sample(generator.condition(texts[:1]), [1], sampler)
    assert np.abs(one[0].astype(int) - alone[0].astype(int)).max() <= 1


def test_the_tokenizer_pads_with_a_token_of_its_own(generator):
    tokenizer = generator.tokenizer
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id)
    assert tokenizer.eos_token_id == len(tokenizer) - 1
    text = "an Asian female blacksmith"
    assert (
        tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).strip()
        == text.lower()
    )


def test_latents_have_unit_scale(generator):
    from valign.miniature.renderer import render
    from valign.miniature.scenes import random_scene

    rng = np.random.default_rng(0)
    latents = generator.encode(np.stack([render(random_scene(rng)) for _ in range(64)]))
    assert latents.shape == (64, 4, 8, 8)
    assert float(latents.std()) == pytest.approx(1, abs=0.1)


def test_the_toxicity_head_names_its_clip_and_classes():
    head = ToxicityHead.load(WEIGHTS / "toxicity")
    assert head.classes == ("nudity", "bloody", "horror")
    assert (WEIGHTS / "toxicity" / head.clip / "open_clip_config.json").is_file()


def test_the_whole_stays_small():
    size = sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file())
    assert size <= 21e6
