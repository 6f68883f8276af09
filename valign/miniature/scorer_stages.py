"""Train the scorers, stage by stage: CLIP and toxicity head, then the voters and the LLaVA.

In: a `Work`. Out, in its `weights`: `clip`, `toxicity`, `hpsv2`, `pickscore`, `aesthetic`, `llava`.
All but the first two learn from images that the assembled generator makes, as the oracle reads
them, and need only its folder and CLIP's in `weights`.
"""

from pathlib import Path
from typing import Any

from valign.miniature.generator_stages import autoencoder_of, text_encoder_of, tokenizer_of
from valign.miniature.progress import Log, Work

JUDGED_SEED, PLAIN, FADING, EACH = 31, 400, 48, 8  # prompts of each kind, images of a plain one


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


def make_judged(work: Work, part: int) -> None:
    from valign.miniature import judged

    judged.write(
        work.out / f"judged-{part}.npz",
        work.weights / "generator",
        plain=work.scaled(PLAIN, 4),
        fading=work.scaled(FADING, 3),
        images=work.scaled(EACH, 2),
        split="train",
        seed=JUDGED_SEED,
        part=part,
        parts=work.processes,
    )


def collect_verdicts(work: Work) -> None:
    from diffusers import AutoencoderKL

    from valign.miniature import verdicts

    verdicts.collect(
        [work.out / f"judged-{part}.npz" for part in range(work.processes)],
        work.out / "verdicts.npz",
        work.weights / "clip",
        AutoencoderKL.from_pretrained(work.weights / "generator" / "vae").float().eval(),
        drawn=work.scaled(400, 4),
        scenes=work.scaled(3000, 100),
        seed=12,
    )


def teach_eyes(work: Work) -> None:
    import torch

    from valign.miniature import student, tokenizer, tuning

    torch.manual_seed(21)
    folder, steps = work.out / "eyes", work.scaled(1200, 2)
    tokenizer.build(folder, student.VOCABULARY)
    model = student.build(_tokenizer(folder))
    log = Log(work.out, "eyes", steps)
    tuning.teach_eyes(model, _verdicts(work), steps=steps, batch=48, lr=2e-3, seed=21, log=log)
    model.save_pretrained(folder)


def teach_words(work: Work) -> None:
    from transformers import CLIPModel

    from valign.miniature import tuning

    model, words = CLIPModel.from_pretrained(work.out / "eyes"), _tokenizer(work.out / "eyes")
    steps = work.scaled(1200, 2)
    tuning.teach_words(
        model,
        words,
        _teacher(work),
        _tokenizer(work.weights / "clip"),
        steps=steps,
        batch=48,
        lr=3e-3,
        seed=25,
        log=Log(work.out, "words", steps),
    )
    model.save_pretrained(work.out / "student")
    words.save_pretrained(work.out / "student")


def tune_rater(work: Work, rater: str) -> None:
    """`hpsv2` is saved as an open_clip folder, `pickscore` as one of transformers."""
    from valign.miniature import student, tuning

    words, steps = _tokenizer(work.out / "student"), work.scaled(600, 2)
    model = _student(work)
    tuning.tune(
        model,
        words,
        _verdicts(work),
        rater,
        steps=steps,
        lr=2e-3,
        seed=22,
        log=Log(work.out, rater, steps),
    )
    save = student.save_open_clip if rater == "hpsv2" else student.save_transformers
    save(model, words, work.weights / rater)


def train_aesthetic(work: Work) -> None:
    import torch

    from valign.miniature import clip, publish, tuning
    from valign.models.aesthetic import AestheticHead

    torch.manual_seed(23)
    steps = work.scaled(3000, 10)
    head = AestheticHead((clip.EMBEDDING, 32, 1), clip="../clip")
    log = Log(work.out, "aesthetic", steps, every=500)
    tuning.train_head(head, _verdicts(work), "aesthetic", steps=steps, lr=3e-3, seed=23, log=log)
    head.save(work.weights / "aesthetic")
    publish.for_everyone(work.weights / "aesthetic")


def train_llava(work: Work) -> None:
    import torch

    from valign.miniature import llava

    torch.manual_seed(24)
    processor, steps = llava.build_processor(), work.scaled(1600, 2)
    model = llava.build(_student(work), processor.tokenizer)
    llava.train(
        model,
        processor.tokenizer,
        _verdicts(work),
        steps=steps,
        batch=32,
        lr=2e-3,
        seed=24,
        log=Log(work.out, "llava", steps),
    )
    llava.save(model, processor, work.weights / "llava")


def _verdicts(work: Work) -> Any:
    from valign.miniature import verdicts

    return verdicts.load(work.out / "verdicts.npz")


def _teacher(work: Work) -> Any:
    import open_clip

    return open_clip.create_model(f"local-dir:{(work.weights / 'clip').resolve()}").eval()


def _student(work: Work) -> Any:
    from transformers import CLIPModel

    return CLIPModel.from_pretrained(work.out / "student")


def _tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder)
