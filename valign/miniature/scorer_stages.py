"""Train the scorers, stage by stage: CLIP, and the toxicity head on it.

In: a `Work`. Out, in its `weights`: `clip` and `toxicity`.
"""

from typing import Any

from valign.miniature.generator_stages import autoencoder_of, text_encoder_of, tokenizer_of
from valign.miniature.progress import Log, Work


def train_clip(work: Work) -> None:
    import torch

    from valign.miniature import clip

    torch.manual_seed(5)
    tokenizer, steps = tokenizer_of(work), work.scaled(900, 2)
    model = clip.build(tokenizer, text_encoder_of(work))
    clip.train(
        model,
        tokenizer,
        autoencoder_of(work),
        steps=steps,
        batch=96,
        lr=2e-3,
        seed=5,
        log=Log(work.out, "clip", steps),
        save=lambda: clip.save(model, tokenizer, work.weights / "clip"),
        save_every=300,
    )


def train_toxicity(work: Work) -> None:
    from valign.miniature import clip, publish

    steps = work.scaled(3000, 10)
    log = Log(work.out, "toxicity", steps, every=500)
    head = clip.train_toxicity(
        _teacher(work),
        autoencoder_of(work),
        images=work.scaled(6000, 200),
        steps=steps,
        lr=3e-3,
        seed=6,
        log=log,
    )
    head.save(work.weights / "toxicity")
    publish.for_everyone(work.weights / "toxicity")


def _teacher(work: Work) -> Any:
    import open_clip

    return open_clip.create_model(f"local-dir:{(work.weights / 'clip').resolve()}").eval()
