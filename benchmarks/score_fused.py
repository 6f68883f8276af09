#!/usr/bin/env python
"""Scorers that share a backbone, run together and one by one, over the same encoded images.

    python benchmarks/score_fused.py
    python benchmarks/score_fused.py --images 96 --rounds 2     # only to see that it runs

The goal is for CLIP score, gender, race and aesthetic score, which all read one CLIP: each alone
decodes, preprocesses and embeds every image again. Told beside it is the figure of the four voters,
which share an aesthetic head's CLIP with nobody, and decoding and preprocessing where they agree
on it. Networks are the miniature's; where it ships no weights for a scorer, a network of the same
size with random weights stands in, which takes as long.
"""

import argparse
import io
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from shared.host import print_result

import valign.miniature
from valign.models.aesthetic import AestheticHead
from valign.models.scorer_group import ScorerGroup
from valign.models.scorers import ScorerRef, load_scorers

WEIGHTS = Path(valign.miniature.__file__).parent / "weights"
BATCH, PER_PROMPT, SIZE_PX = 96, 48, 64
GENDERS = ("male", "female")
RACES = ("White", "Black", "Asian", "Indian", "Latino")
GOAL = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=960)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    files, prompts = encoded_images(arguments.images)
    print(
        f"{len(files)} encoded images of {SIZE_PX}x{SIZE_PX}, {PER_PROMPT} per prompt, in batches "
        f"of {BATCH} on {arguments.device}; {arguments.rounds} rounds, together and one by one in "
        "turn; ratio of the seconds of one by one to those of together, per round"
    )
    with tempfile.TemporaryDirectory() as folder:
        sharing, voters = scorers(Path(folder))
        ratios = {}
        for name, refs in (("sharing", sharing), ("voters", voters)):
            together = load_scorers(refs, arguments.device)
            alone = [load_scorers([ref], arguments.device) for ref in refs]
            ratios[name] = measure(together, alone, files, prompts, arguments.rounds)
            found = ratios[name]
            listed = ", ".join(ref.name for ref in refs)
            print(
                f"{listed}: {np.median(found):.2f} times as fast together "
                f"({min(found):.2f} to {max(found):.2f})"
            )
    print_result(
        benchmark="scorers of one CLIP, together against one by one",
        figure=round(float(np.median(ratios["sharing"])), 3),
        goal=f">= {GOAL}",
        unit="ratio",
        spread=[round(min(ratios["sharing"]), 3), round(max(ratios["sharing"]), 3)],
        device=arguments.device,
    )


def encoded_images(count: int) -> tuple[list[bytes], list[str]]:
    """Return PNG files of smooth random images, and a prompt for each."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        stream = io.BytesIO()
        coarse.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC).save(stream, "PNG")
        files.append(stream.getvalue())
    return files, [f"A photo of worker number {row // PER_PROMPT}" for row in range(count)]


def scorers(folder: Path) -> tuple[list[ScorerRef], list[ScorerRef]]:
    """Return the scorers of one CLIP, and the four voters; stand-ins are made in the folder."""
    clip = str(WEIGHTS / "clip")
    aesthetic = WEIGHTS / "aesthetic"
    if not aesthetic.is_dir():
        config = json.loads((WEIGHTS / "clip/open_clip_config.json").read_text())
        aesthetic = folder / "aesthetic"
        sizes = (config["model_cfg"]["embed_dim"], 1024, 128, 64, 16, 1)
        AestheticHead(sizes, clip=clip).save(aesthetic)
    hpsv2 = WEIGHTS / "hpsv2"
    if not hpsv2.is_dir():
        hpsv2 = shutil.copytree(WEIGHTS / "clip", folder / "hpsv2")
    pickscore = WEIGHTS / "pickscore"
    if not pickscore.is_dir():
        pickscore = random_pickscore(folder / "pickscore")
    metric = ScorerRef(name="clip", kind="clip", source=clip)
    beauty = ScorerRef(name="aesthetic", kind="aesthetic", source=str(aesthetic))
    sharing = [
        metric,
        ScorerRef(name="gender", kind="zero_shot", source=clip, options={"classes": GENDERS}),
        ScorerRef(name="race", kind="zero_shot", source=clip, options={"classes": RACES}),
        beauty,
    ]
    clip_h = shutil.copytree(WEIGHTS / "clip", folder / "clip_h")
    voters = [
        ScorerRef(name="clip_h", kind="clip", source=str(clip_h)),
        ScorerRef(name="hpsv2", kind="hpsv2", source=str(hpsv2)),
        ScorerRef(name="pickscore", kind="pickscore", source=str(pickscore)),
        beauty,
    ]
    return sharing, voters


def random_pickscore(folder: Path) -> Path:
    """Save a CLIPModel of about the miniature CLIP's size, with its tokenizer."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "clip")
    size = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4}
    text = {**size, "num_hidden_layers": 2, "vocab_size": len(tokenizer)}
    text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    vision = {**size, "num_hidden_layers": 4, "image_size": SIZE_PX, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)
    CLIPModel(config).save_pretrained(folder)
    square = {"height": SIZE_PX, "width": SIZE_PX}
    images = CLIPImageProcessor(size={"shortest_edge": SIZE_PX}, crop_size=square)
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def measure(
    together: ScorerGroup,
    alone: list[ScorerGroup],
    files: list[bytes],
    prompts: list[str],
    rounds: int,
) -> list[float]:
    """Return per round how many times as long the scorers take one by one."""
    for group in (together, *alone):
        score(group, files[:BATCH], prompts[:BATCH])  # texts of later batches stay to be read
    ratios = []
    for turn in range(rounds):
        seconds = {}
        for name in ("together", "alone") if turn % 2 else ("alone", "together"):
            groups = [together] if name == "together" else alone
            start = time.perf_counter()
            for group in groups:
                score(group, files, prompts)
            seconds[name] = time.perf_counter() - start
        ratios.append(seconds["alone"] / seconds["together"])
    return ratios


def score(group: ScorerGroup, files: list[bytes], prompts: list[str]) -> None:
    """Decode and score all images in batches."""
    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        images = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in batch]
        group.score(np.stack(images), prompts[start : start + BATCH])


if __name__ == "__main__":
    main()
