"""A tiny LLaVA that answers whether an image holds toxic content: yes or no.

In: `verdicts.Verdicts` and the student CLIP, whose vision tower it starts from. Out: a plain
transformers folder: LlavaForConditionalGeneration (CLIP vision tower, two-layer Llama) with its
processor. The tokenizer is a small byte-level BPE, so any text encodes; of language the model
knows the papers' question only. The answer after "ASSISTANT:" is " Yes" or " No".
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from valign.catalogue.principles import PRINCIPLES, TOXICITY
from valign.miniature import publish, student, vae
from valign.miniature.progress import one_cycle
from valign.miniature.verdicts import Verdicts
from valign.models.llava import ANSWERS, PLAIN, QUESTION

# B batch, I images, L tokens, V vocabulary

VOCABULARY, WIDTH, LAYERS = 512, 48, 2
EYES = student.VISION_LAYERS - 1  # LLaVA-1.5 too reads its tower before the last layer
START, END, PAD, IMAGE = "<s>", "</s>", "<pad>", "<image>"
_PATCHES = (student.SIZE // student.PATCH) ** 2
_PRESENT = 0.5  # share of the questions whose answer is yes


def build_tokenizer() -> Any:
    """A byte-level BPE of the papers' question and the principles' own words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    asked = [
        PLAIN.format(image="", question=QUESTION.format(word=PRINCIPLES[key].question))
        for key in TOXICITY
    ]
    texts = [f"{text} {answer}" for text in asked for answer in ANSWERS]
    texts += [f"{p.text} {p.negative}" for p in PRINCIPLES.values()]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts * 3,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[START, END, PAD, IMAGE],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    begin = bpe.token_to_id(START)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, begin)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        unk_token=PAD,
        additional_special_tokens=[IMAGE],
        padding_side="left",
        model_max_length=512,
    )


def build_processor() -> Any:
    """The processor: an image becomes one token per patch in place of `<image>`."""
    from transformers import LlavaProcessor

    return LlavaProcessor(
        image_processor=student.image_processor(),
        tokenizer=build_tokenizer(),
        patch_size=student.PATCH,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
    )


def build(taught: Any, tokenizer: Any) -> Any:
    """A fresh LLaVA that sees with the taught student's eyes."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    language = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**student.vision_config(EYES)),
            text_config=language,
            image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
            image_seq_length=_PATCHES,
            tie_word_embeddings=True,
        )
    )
    last = f"encoder.layers.{EYES}."
    eyes = {k: v for k, v in taught.vision_model.state_dict().items() if not k.startswith(last)}
    model.model.vision_tower.load_state_dict(eyes, strict=True)
    return model


def train(
    model: Any,
    tokenizer: Any,
    verdicts: Verdicts,
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    log: Callable[[int, float], None],
) -> None:
    """Next-token loss on the answer alone, in place; half of the questions deserve a yes."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    asked, answers = _prompts(tokenizer)
    eyes = {id(p) for p in model.model.vision_tower.parameters()}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if id(p) not in eyes], "lr": lr},
            {"params": list(model.model.vision_tower.parameters()), "lr": lr / 3},
        ],
        weight_decay=0.01,
        betas=(0.9, 0.98),
    )
    schedule = one_cycle(optimizer, [lr, lr / 3], steps)
    shown = [np.flatnonzero(verdicts.toxic[:, k]) for k in range(len(TOXICITY))]
    hidden = [np.flatnonzero(~verdicts.toxic[:, k]) for k in range(len(TOXICITY))]
    model.train()
    for step in range(steps):
        kind_B, yes_B = rng.integers(len(TOXICITY), size=batch), rng.random(batch) < _PRESENT
        rows = [
            int(rng.choice((shown if yes else hidden)[kind]))
            for kind, yes in zip(kind_B, yes_B, strict=True)
        ]
        ids_BL, mask_BL = (part[kind_B] for part in asked)
        logits_BV = model(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            pixel_values=vae.to_tensor(verdicts.images[rows]),
            logits_to_keep=1,
            use_cache=False,
        ).logits[:, -1]
        wanted_B = torch.from_numpy(np.where(yes_B, *answers))
        loss = nn.functional.cross_entropy(logits_BV, wanted_B)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        log(step, loss.item())
    model.eval()


def _prompts(tokenizer: Any) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[int, int]]:
    """The three questions' ids and masks (3, L), padded on the left, and the answers' ids."""
    texts = [
        PLAIN.format(
            image=IMAGE * _PATCHES, question=QUESTION.format(word=PRINCIPLES[key].question)
        )
        for key in TOXICITY
    ]
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    length = encoded.input_ids.shape[1]
    yes, no = (
        tokenizer([f"{texts[0]} {answer}"], padding=False).input_ids[0][
            int(encoded.attention_mask[0].sum()) :
        ]
        for answer in ANSWERS
    )
    assert len(yes) == len(no) == 1 and yes != no and length > _PATCHES
    return (encoded.input_ids, encoded.attention_mask), (yes[0], no[0])


def save(model: Any, processor: Any, folder: Path) -> None:
    """Write the folder, weights in half precision, to be read in float32."""
    model.half().save_pretrained(folder, safe_serialization=True)
    processor.save_pretrained(folder)
    publish.for_everyone(folder)
