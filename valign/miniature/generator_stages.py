"""Train the generator, stage by stage: tokenizer, text encoder, autoencoder, pool, denoiser.

In: a `Work`. Out, in its folder: `tokenizer`, `text_encoder`, `vae`, `pool`, `unet`, and from them
`weights/generator`. What each network is and how it learns is in the module of its name.
"""

from functools import partial
from typing import Any

from valign.miniature.progress import Log, Work

POOL, POOL_SEED = 50_000, 11
UNET_ROUNDS = ((2750, 1e-3), (2200, 7e-4))  # steps, peak rate; each from the average


def _silent(step: int, loss: float) -> None:
    """The log of every rank but the first."""


def tokenizer_of(work: Work) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(work.out / "tokenizer")


def text_encoder_of(work: Work) -> Any:
    from transformers import CLIPTextModel

    return CLIPTextModel.from_pretrained(work.out / "text_encoder").eval()


def autoencoder_of(work: Work) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(work.out / "vae").eval()


def train_tokenizer(work: Work) -> None:
    from valign.miniature import tokenizer

    tokenizer.build(work.out / "tokenizer")


def train_text(work: Work) -> None:
    import torch

    from valign.miniature import text

    torch.manual_seed(2)
    tokenizer, steps = tokenizer_of(work), work.scaled(1400, 2)
    encoder, heads = text.build(tokenizer), text.Heads()
    text.train(
        encoder,
        heads,
        tokenizer,
        steps=steps,
        batch=192,
        lr=1.5e-3,
        seed=2,
        log=Log(work.out, "text", steps),
    )
    print(text.accuracy(encoder, heads, tokenizer, captions=work.scaled(2000, 50), seed=77))
    encoder.save_pretrained(work.out / "text_encoder")


def train_vae(work: Work) -> None:
    import torch

    from valign.miniature import vae

    torch.manual_seed(1)
    model, steps = vae.build(), work.scaled(2500, 2)
    vae.train(model, steps=steps, batch=16, lr=2e-3, seed=1, log=Log(work.out, "vae", steps))
    model.save_pretrained(work.out / "vae_blunt")


def sharpen_vae(work: Work, rank: int) -> None:
    """A second round for what is small: the badge and its glyph."""
    from diffusers import AutoencoderKL

    from valign.miniature import ranks, vae

    ranks.join(work.out, rank, work.processes)
    model, steps = (
        AutoencoderKL.from_pretrained(work.out / "vae_blunt").train(),
        work.scaled(600, 2),
    )
    log = Log(work.out, "sharpen", steps) if rank == 0 else _silent
    vae.train(model, steps=steps, batch=12, lr=1.5e-3, seed=7, badge_weight=4.0, log=log)
    if rank == 0:
        vae.set_scale(model, images=work.scaled(1024, 64), seed=9)
        model.save_pretrained(work.out / "vae")
    ranks.leave(work.out)


def encode_latents(work: Work, part: int) -> None:
    from valign.miniature import pool

    folder = work.out / "pool"
    folder.mkdir(exist_ok=True)
    pool.write_latents(
        folder,
        autoencoder_of(work),
        size=work.scaled(POOL, 200),
        seed=POOL_SEED,
        part=part,
        parts=work.processes,
    )


def encode_contexts(work: Work) -> None:
    from valign.miniature import pool

    folder = work.out / "pool"
    folder.mkdir(exist_ok=True)
    pool.write_contexts(
        folder,
        tokenizer_of(work),
        text_encoder_of(work),
        size=work.scaled(POOL, 200),
        seed=POOL_SEED,
    )


def train_unet(work: Work, rank: int) -> None:
    import torch

    from valign.miniature import pool, ranks, unet

    ranks.join(work.out, rank, work.processes)
    if rank == 0:
        pool.join_latents(work.out / "pool", work.processes)
    ranks.wait()
    torch.manual_seed(3)
    model, done = unet.build(), 0
    rounds = [(work.scaled(steps, 2), lr) for steps, lr in UNET_ROUNDS]
    total = sum(steps for steps, _ in rounds)
    report = Log(work.out, "unet", total) if rank == 0 else None
    for steps, lr in rounds:
        unet.train(
            model,
            work.out / "pool",
            steps=steps,
            batch=48,
            lr=lr,
            seed=3 + done,
            log=partial(report.after, done) if report else _silent,
            save=lambda averaged: averaged.save_pretrained(work.out / "unet"),
            save_every=250,
        )
        done += steps
    if rank == 0:
        model.save_pretrained(work.out / "unet")
    ranks.leave(work.out)


def assemble(work: Work) -> None:
    from valign.miniature import publish

    publish.assemble(work.out, tokenizer_of(work), text_encoder_of(work))
