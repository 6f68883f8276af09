"""Train the voters: a student of the shipped CLIP, two raters' tunings of it, an aesthetic head.

In: `verdicts.Verdicts`. Out: the student (see `student`), two copies of it that are tuned to the
`hpsv2` and the `pickscore` rater, and the `aesthetic` head. The student's two towers learn the
CLIP's embeddings, each for itself; the eyes also learn, by a linear reader that is thrown away,
the quality factors and toxic marks. A tuning learns which of two images of one prompt its rater
likes better, from the rater's own utilities (Bradley and Terry's loss on soft labels), as HPSv2 and
PickScore were tuned from CLIP; of the network it changes the two projections only.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from valign.miniature import clip, student, text, vae
from valign.miniature.captions import sample
from valign.miniature.progress import one_cycle
from valign.miniature.raters import RATERS
from valign.miniature.verdicts import Verdicts

# B batch, T texts, G groups, N images of a group, D embedding

SOFTNESS = 0.5  # utility difference at which a rater's choice is e : 1
_GROUPS = 64  # prompts of a batch

Log = Callable[[int, float], None]


def teach_eyes(
    model: Any, verdicts: Verdicts, *, steps: int, batch: int, lr: float, seed: int, log: Log
) -> None:
    """Distil the teacher's image embeddings into the student, in place."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    eyes = nn.ModuleList([model.vision_model, model.visual_projection])
    reader = nn.Linear(student.VISION_WIDTH, verdicts.factors.shape[1] + verdicts.toxic.shape[1])
    optimizer, schedule = _optimizer([*eyes.parameters(), *reader.parameters()], lr, steps)
    model.train()
    for step in range(steps):
        rows = rng.integers(len(verdicts.images), size=batch)
        pooled = model.vision_model(pixel_values=vae.to_tensor(verdicts.images[rows])).pooler_output
        image_BD = nn.functional.normalize(model.visual_projection(pooled), dim=-1)
        far = _distance(image_BD, torch.from_numpy(verdicts.embeddings[rows]))
        quality, marks = reader(pooled).tensor_split([verdicts.factors.shape[1]], dim=1)
        wanted = torch.from_numpy(verdicts.factors[rows])
        toxic = torch.from_numpy(verdicts.toxic[rows]).float()
        seen = 0.3 * nn.functional.smooth_l1_loss(quality, wanted)
        seen = seen + 0.2 * nn.functional.binary_cross_entropy_with_logits(marks, toxic)
        _step(optimizer, schedule, eyes, far + seen)
        log(step, far.item())
    model.eval()


def teach_words(
    model: Any,
    tokenizer: Any,
    teacher: Any,
    teachers_tokenizer: Any,
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    log: Log,
) -> None:
    """Distil the text embeddings of the teacher (an open_clip model) into the student, in place."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    words = nn.ModuleList([model.text_model, model.text_projection])
    optimizer, schedule = _optimizer(list(words.parameters()), lr, steps)
    model.train()
    for step in range(steps):
        texts = [sample(rng).text for _ in range(batch)]
        with torch.no_grad():
            wanted_TD = clip.embed_texts(teacher, _ids(teachers_tokenizer, texts))
        far = _distance(student.unit_texts(model, _ids(tokenizer, texts)), wanted_TD)
        _step(optimizer, schedule, words, far)
        log(step, far.item())
    model.eval()


def tune(
    model: Any,
    tokenizer: Any,
    verdicts: Verdicts,
    rater: str,
    *,
    steps: int,
    lr: float,
    seed: int,
    log: Log,
) -> None:
    """Teach the student one rater's taste, in place: its projections, on features read once."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    utility_GN = torch.from_numpy(verdicts.utility[..., RATERS.index(rater)])
    with torch.no_grad():
        model.logit_scale.fill_(float(np.log(30.0)))
        pictures = vae.to_tensor(verdicts.images[: verdicts.groups.size]).split(64)
        seen_ID = torch.cat([model.vision_model(pixel_values=p).pooler_output for p in pictures])
        read_GD = model.text_model(input_ids=_ids(tokenizer, verdicts.texts)).pooler_output
    heads = nn.ModuleList([model.visual_projection, model.text_projection])
    optimizer, schedule = _optimizer([*heads.parameters(), model.logit_scale], lr, steps)
    for step in range(steps):
        groups = rng.integers(len(utility_GN), size=_GROUPS)
        seen_GND = seen_ID[torch.from_numpy(verdicts.groups[groups])]
        image_GND = nn.functional.normalize(model.visual_projection(seen_GND), dim=-1)
        text_GD = nn.functional.normalize(model.text_projection(read_GD[groups]), dim=-1)
        score_GN = model.logit_scale.exp() * (image_GND * text_GD[:, None]).sum(-1)
        loss = preference_loss(score_GN, utility_GN[groups] / SOFTNESS)
        _step(optimizer, schedule, heads, loss)
        log(step, loss.item())


def preference_loss(score_GN: Tensor, utility_GN: Tensor) -> Tensor:
    """Mean cross entropy of Bradley-Terry choices over all pairs of a group's images."""
    first, second = torch.triu_indices(score_GN.shape[1], score_GN.shape[1], offset=1)
    wanted = (utility_GN[:, first] - utility_GN[:, second]).sigmoid()
    given = score_GN[:, first] - score_GN[:, second]
    return nn.functional.binary_cross_entropy_with_logits(given, wanted)


def train_head(
    head: nn.Module, verdicts: Verdicts, rater: str, *, steps: int, lr: float, seed: int, log: Log
) -> None:
    """Teach a head on the shipped CLIP's embeddings one rater's taste, in place."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    utility_GN = torch.from_numpy(verdicts.utility[..., RATERS.index(rater)])
    image_ID = torch.from_numpy(verdicts.embeddings)
    optimizer, schedule = _optimizer(list(head.parameters()), lr, steps)
    for step in range(steps):
        groups = rng.integers(len(utility_GN), size=_GROUPS)
        rows = torch.from_numpy(verdicts.groups[groups])
        score_GN = head(image_ID[rows])
        loss = preference_loss(score_GN, utility_GN[groups] / SOFTNESS)
        _step(optimizer, schedule, head, loss)
        log(step, loss.item())


def _ids(tokenizer: Any, texts: list[str]) -> Tensor:
    """Token ids, cut after the longest text."""
    ids_TL = text.token_ids(tokenizer, texts)
    return ids_TL[:, : int((ids_TL != tokenizer.pad_token_id).sum(1).max())]


def _distance(given: Tensor, wanted: Tensor) -> Tensor:
    return 1 - (given * wanted).sum(-1).mean()


def _optimizer(parameters: list[Any], lr: float, steps: int) -> tuple[Any, Any]:
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    return optimizer, one_cycle(optimizer, lr, steps)


def _step(optimizer: Any, schedule: Any, model: nn.Module, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
