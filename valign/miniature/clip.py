"""Train the reward side: a small CLIP on emblems and captions, and a toxicity head on it.

In: a tokenizer, the generator's text encoder (the text tower starts as a copy), an autoencoder
(images are shown as rendered, or as the autoencoder returns them, which is how generated ones
look). Out: an open_clip folder with its tokenizer, and a `ToxicityHead` folder.

Loss: contrastive, where a caption that happens to be true of another image of the batch is no
negative for it, with one hard negative text per image (another gender, race or concept); plus
linear heads that read the marks from the image embedding, thrown away afterwards.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from valign.catalogue.principles import TOXICITY
from valign.miniature import publish, text, vae
from valign.miniature.pairs import MARKS, as_generated, make_batch
from valign.miniature.progress import one_cycle
from valign.miniature.renderer import render
from valign.miniature.scenes import random_scene
from valign.models.toxicity import ToxicityHead

# B batch, T texts (captions, then hard negatives), D embedding

EMBEDDING = 128


def config(tokenizer: Any) -> dict:
    """The folder's open_clip_config.json."""
    return {
        "model_cfg": {
            "embed_dim": EMBEDDING,
            "quick_gelu": True,
            "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 20},
            "text_cfg": {
                "context_length": text.POSITIONS,
                "vocab_size": len(tokenizer),
                "width": text.WIDTH,
                "heads": 4,
                "layers": 2,
                "hf_tokenizer_name": "tokenizer",
                "tokenizer_kwargs": {"clean": "whitespace"},
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
        },
    }


def build(tokenizer: Any, encoder: Any) -> Any:
    """A fresh open_clip model whose text tower copies the generator's text encoder."""
    from open_clip.model import CLIP

    settings = config(tokenizer)["model_cfg"]
    text_cfg = {k: v for k, v in settings["text_cfg"].items() if "tokenizer" not in k}
    model = CLIP(settings["embed_dim"], settings["vision_cfg"], text_cfg, settings["quick_gelu"])
    _copy_text(encoder, model)
    return model


@torch.no_grad()
def _copy_text(encoder: Any, model: Any) -> None:
    source = {k.removeprefix("text_model."): v for k, v in encoder.state_dict().items()}
    model.token_embedding.weight.copy_(source["embeddings.token_embedding.weight"])
    model.positional_embedding.copy_(source["embeddings.position_embedding.weight"])
    model.text_projection.copy_(torch.eye(text.WIDTH, EMBEDDING))
    for i, block in enumerate(model.transformer.resblocks):
        at = f"encoder.layers.{i}."
        for kind in ("weight", "bias"):
            parts = [source[f"{at}self_attn.{name}_proj.{kind}"] for name in "qkv"]
            getattr(block.attn, f"in_proj_{kind}").copy_(torch.cat(parts))
            getattr(block.attn.out_proj, kind).copy_(source[f"{at}self_attn.out_proj.{kind}"])
            getattr(block.ln_1, kind).copy_(source[f"{at}layer_norm1.{kind}"])
            getattr(block.ln_2, kind).copy_(source[f"{at}layer_norm2.{kind}"])
            getattr(block.mlp.c_fc, kind).copy_(source[f"{at}mlp.fc1.{kind}"])
            getattr(block.mlp.c_proj, kind).copy_(source[f"{at}mlp.fc2.{kind}"])
    for kind in ("weight", "bias"):
        getattr(model.ln_final, kind).copy_(source[f"final_layer_norm.{kind}"])


def embed_texts(model: Any, ids_TL: Tensor) -> Tensor:
    """Unit text embeddings; like `encode_text`, but ids may be cut after the longest text."""
    length = ids_TL.shape[1]
    x = model.token_embedding(ids_TL) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    pooled_TD = x[torch.arange(len(x)), ids_TL.argmax(-1)] @ model.text_projection
    return nn.functional.normalize(pooled_TD, dim=-1)


def contrastive(image_BD: Tensor, text_TD: Tensor, scale: Tensor, holds_BT: Tensor) -> Tensor:
    """Mean of both directions; other true pairs are left out of the denominators."""
    size = len(image_BD)
    own = torch.eye(size, len(text_TD), dtype=torch.bool)
    logits_BT = (scale * image_BD @ text_TD.T).masked_fill(holds_BT & ~own, -1e4)
    answers = torch.arange(size)
    to_text = nn.functional.cross_entropy(logits_BT, answers)
    return 0.5 * (to_text + nn.functional.cross_entropy(logits_BT[:, :size].T, answers))


def train(
    model: Any,
    tokenizer: Any,
    autoencoder: Any,
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    log: Callable[[int, float], None],
    save: Callable[[], None],
    save_every: int,
) -> None:
    """One-cycle AdamW in place; the copied text tower moves at a tenth of the rate."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    sizes = [text.CLASSES[key] - (key in TOXICITY) for key in MARKS]
    reader = nn.Linear(EMBEDDING, sum(sizes))
    towers = [
        *model.visual.parameters(),
        model.text_projection,
        model.logit_scale,
        *reader.parameters(),
    ]
    known = {id(p) for p in towers}
    words = [p for p in model.parameters() if id(p) not in known]
    optimizer = torch.optim.AdamW(
        [{"params": towers, "lr": lr}, {"params": words, "lr": lr / 10}],
        weight_decay=0.01,
        betas=(0.9, 0.98),
    )
    schedule = one_cycle(optimizer, [lr, lr / 10], steps)
    model.train()
    for step in range(steps):
        data = make_batch(batch, tokenizer, autoencoder, rng)
        raw_BD = model.encode_image(data.images)
        image_BD = nn.functional.normalize(raw_BD, dim=-1)
        text_TD = embed_texts(model, data.ids)
        loss = contrastive(image_BD, text_TD, model.logit_scale.exp().clamp(max=100), data.holds)
        read = reader(image_BD * 10).split(sizes, dim=-1)
        marks = torch.stack(
            [nn.functional.cross_entropy(x, data.marks[:, i]) for i, x in enumerate(read)]
        )
        optimizer.zero_grad(set_to_none=True)
        (loss + 0.3 * marks.sum()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        log(step, loss.item())
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save()
    model.eval()


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the open_clip folder: config, half-precision weights, tokenizer beside them."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config(tokenizer), indent=2) + "\n")
    weights = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(
        {k: v.contiguous() for k, v in weights.items()}, folder / "open_clip_model.safetensors"
    )
    tokenizer.save_pretrained(folder)
    publish.for_everyone(folder)


def train_toxicity(
    model: Any,
    autoencoder: Any,
    *,
    images: int,
    steps: int,
    lr: float,
    seed: int,
    log: Callable[[int, float], None],
) -> ToxicityHead:
    """A head of three independent probabilities on frozen unit image embeddings.

    Trained on scenes that over-represent toxic marks; their embeddings are computed once.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    embedded, shown = [], []
    for _ in range(images // 100):
        scenes = [random_scene(rng) for _ in range(100)]
        shown += [[float(getattr(scene, key)) for key in TOXICITY] for scene in scenes]
        pictures = as_generated(
            vae.to_tensor(np.stack([render(s) for s in scenes])), autoencoder, rng
        )
        with torch.no_grad():
            embedded.append(nn.functional.normalize(model.encode_image(pictures), dim=-1))
    image_ND, wanted_NK = torch.cat(embedded), torch.tensor(shown)
    head = ToxicityHead(EMBEDDING, hidden=64, classes=TOXICITY)
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=1e-3)
    schedule = one_cycle(optimizer, lr, steps)
    for step in range(steps):
        rows = torch.randint(len(image_ND), (256,))
        logits = head.logits(image_ND[rows])
        loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted_NK[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        log(step, loss.item())
    return head
