"""The value encoder of LiVO: a value principle and a prompt in, one extra context token out.

It is a second CLIP text encoder that starts as a copy of the generator's own and reads
"{principle}, {prompt}"; its pooled (end of text) output is the token. The generator stays as it is.
The context becomes the prompt's 77 slots plus the token's, in training and in inference alike;
cross-attention knows no positions, so where the token stands does not matter. Rows without a token,
and the unconditional context, get a masked slot, which equals no slot.

Shapes: B rows, L token ids, D context width.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from valign.models.conditioning import Conditioning, Half
from valign.models.generator import Generator
from valign.models.pipeline_folder import TEXT_PREFIX, load_text_encoder
from valign.models.value_drop import DEFAULT_DROP

SETTINGS, WEIGHTS = "value_encoder.json", "model.safetensors"
SCHEMA_VERSION = 1


class ValueEncoder(nn.Module):
    """ids of "{principle}, {prompt}" -> token_B1D. All its weights train, in float32.

    Attributes:
        principles: key -> canonical text; no other text is understood.
        drop: key -> share of a prompt's images that get the token (see `value_drop`).
        base_fingerprint: fingerprint of the generator it was made for.
        calibration: key -> how its share was found, where it was not just stated.
    """

    def __init__(
        self,
        text_encoder: Any,  # a transformers CLIPTextModel
        tokenizer: Any,  # a transformers CLIPTokenizer
        *,
        principles: Mapping[str, str],
        drop: Mapping[str, float],
        base_fingerprint: str,
        calibration: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.principles = dict(principles)
        self.drop = dict(drop)
        self.base_fingerprint = base_fingerprint
        self.calibration = dict(calibration or {})
        config = self.text_encoder.config
        # 2 is how old configs mark "the highest id", and CLIP's tokenizers keep to that
        if config.eos_token_id not in (2, self.tokenizer.eos_token_id):
            raise ValueError(
                f"the text encoder pools at token {config.eos_token_id}, but its tokenizer ends "
                f"texts with {self.tokenizer.eos_token_id}: correct eos_token_id in its config.json"
            )

    @classmethod
    def from_generator(
        cls,
        generator: Generator,
        principles: Mapping[str, str],
        drop: Mapping[str, float] | None = None,
    ) -> "ValueEncoder":
        """Start a value encoder as a float32 copy of the generator's text encoder.

        Args:
            generator: the base model.
            principles: key -> canonical text.
            drop: key -> share of images that get the token; default: LiVO's for its principles.

        Raises:
            ValueError: no principles, a share that is missing or outside 0..1, or a generator of
                two text encoders, neither of which pools to the context's width.
        """
        if len(generator.text.encoders) > 1:
            raise ValueError(
                f"{generator.files} has two text encoders (SDXL); a value encoder is a copy of the "
                "one text encoder of a Stable Diffusion 1.x or 2.x model"
            )
        shares = {key: (drop or {}).get(key, DEFAULT_DROP.get(key)) for key in principles}
        wrong = [key for key, share in shares.items() if share is None or not 0 <= share <= 1]
        if not principles or wrong:
            raise ValueError(
                f"no share in 0..1 of images that get the token is stated for {wrong}; pass drop="
                if wrong
                else "a value encoder needs at least one principle"
            )
        text_encoder = copy.deepcopy(generator.text_encoder).float().requires_grad_(True)
        return cls(
            text_encoder,
            generator.tokenizer,
            principles=principles,
            drop={key: float(share) for key, share in shares.items() if share is not None},
            base_fingerprint=generator.fingerprint,
        )

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def text(self, key: str, prompt: str) -> str:
        """Return what is read for a principle and a prompt.

        Raises:
            LookupError: the principle is not one of this encoder's.
        """
        if key not in self.principles:
            raise LookupError(
                f"this value encoder knows no principle {key!r}; it knows "
                f"{', '.join(self.principles)}"
            )
        return f"{self.principles[key]}, {prompt}"

    def token_ids(self, keys: Sequence[str], prompts: Sequence[str]) -> Tensor:
        """Return ids_BL (int64, L = 77) of the texts, padded; a long prompt is cut at its end."""
        texts = [self.text(key, prompt) for key, prompt in zip(keys, prompts, strict=True)]
        return self.tokenizer(
            texts,
            padding="max_length",
            max_length=self.text_encoder.config.max_position_embeddings,
            truncation=True,
            return_tensors="pt",
        ).input_ids

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Return token_B1D; padding behind the end of text changes nothing and may be cut off."""
        return self.text_encoder(ids_BL).pooler_output.unsqueeze(1)

    @torch.no_grad()
    def token(self, keys: Sequence[str], prompts: Sequence[str]) -> Tensor:
        """Return token_B1D for inference.

        Each distinct (principle, prompt) is encoded once and alone, so that a row's token never
        depends on what else is asked for.
        """
        pairs = list(zip(keys, prompts, strict=True))
        ids_BL = self.token_ids(keys, prompts).to(self.device)
        known: dict[tuple[str, str], Tensor] = {}
        for row, pair in enumerate(pairs):
            if pair not in known:
                known[pair] = self(ids_BL[row : row + 1])[0]
        return torch.stack([known[pair] for pair in pairs])

    @staticmethod
    def attach(
        cond: Conditioning,
        token_B1D: Tensor,
        apply_B: Sequence[bool],
        strength_B: Sequence[float] | None = None,
    ) -> Conditioning:
        """Add the token as one more context slot, masked in the rows where it is not applied.

        The unconditional context gets a masked slot. Rows without a token equal the base model's to
        rounding; where they must be its bytes, sample them apart (`aligned.sample_rows`).

        Args:
            cond: what the batch is conditioned on.
            token_B1D: a token per row.
            apply_B: whether a row's token is seen.
            strength_B: how much each token counts: the guided noise moves by that much of what the
                token changes, at the price of one more UNet call. None: wholly, which is 1.

        Raises:
            ValueError: the number of rows or the context's width differ.
        """
        rows, _, width = cond.context_BLD.shape
        if token_B1D.shape != (rows, 1, width) or len(apply_B) != rows:
            raise ValueError(
                f"{rows} rows of context of width {width}, but tokens of shape "
                f"{tuple(token_B1D.shape)} and {len(apply_B)} flags"
            )
        token = token_B1D.to(cond.context_BLD)
        apply = torch.as_tensor(list(apply_B), dtype=torch.bool, device=token.device)[:, None]
        return replace(
            cond,
            context_BLD=torch.cat([cond.context_BLD, token], dim=1),
            uncond_BLD=torch.cat([cond.uncond_BLD, torch.zeros_like(token)], dim=1),
            mask_BL=torch.cat([_seen(cond.context_BLD, cond.mask_BL), apply], dim=1),
            plain=None
            if strength_B is None
            else Half(cond.context_BLD, cond.mask_BL, cond.pooled_BP),
            strength_B=None
            if strength_B is None
            else torch.tensor(list(strength_B), dtype=torch.float32, device=token.device),
            uncond_mask_BL=torch.cat(
                [_seen(cond.uncond_BLD, cond.uncond_mask_BL), torch.zeros_like(apply)], dim=1
            ),
        )

    def save(self, folder: str | Path) -> None:
        """Write a transformers CLIPTextModel folder, the tokenizer and value_encoder.json.

        Weights carry the `text_model.` prefix, the layout that transformers 4 and 5 both load.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.text_encoder.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        weights = {
            TEXT_PREFIX + key.removeprefix(TEXT_PREFIX): value.detach().cpu().contiguous()
            for key, value in self.text_encoder.state_dict().items()
        }
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        settings = {
            "schema_version": SCHEMA_VERSION,
            "principles": self.principles,
            "drop": self.drop,
            "base_fingerprint": self.base_fingerprint,
        } | ({"calibration": self.calibration} if self.calibration else {})
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "ValueEncoder":
        """Load a saved value encoder, in float32 and evaluation mode.

        Raises:
            ValueError: the folder holds none, or one of another version, or weights do not fit.
        """
        from transformers import CLIPTokenizer

        folder = Path(folder)
        if not (folder / SETTINGS).is_file():
            raise ValueError(f"{folder} holds no {SETTINGS}: it is no saved value encoder")
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if settings["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"{folder} is a value encoder of version {settings['schema_version']}, and this "
                f"valign reads version {SCHEMA_VERSION}: use the valign that wrote it"
            )
        encoder = cls(
            load_text_encoder(folder, torch.float32),
            CLIPTokenizer.from_pretrained(folder),
            principles=settings["principles"],
            drop=settings["drop"],
            base_fingerprint=settings["base_fingerprint"],
            calibration=settings.get("calibration"),
        )
        return encoder.eval()


def _seen(context_BLD: Tensor, mask_BL: Tensor | None) -> Tensor:
    if mask_BL is not None:
        return mask_BL
    return torch.ones(context_BLD.shape[:2], dtype=torch.bool, device=context_BLD.device)
