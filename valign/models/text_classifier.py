"""A text classifier of transformers, as a filter of prompts: safetensors only, and no code of its.

In: texts. Out: the probability that a text has one of some labels. A model with one label, or whose
config says `multi_label_classification`, has a probability of its own for each label; any other
shares out one between them.

Shapes: N texts, K labels.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from valign.models.weight_files import hash_weights
from valign.records import digest

BATCH = 32
LONGEST = 512  # tokens, where the tokenizer names no limit


class TextClassifier:
    """A classifier by folder or hub id.

    Raises:
        ValueError: it does not load, or is of another kind.
    """

    def __init__(self, source: str) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.source = source
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            self._network, info = AutoModelForSequenceClassification.from_pretrained(
                source, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise ValueError(f"{source} is no text classifier that can be read: {error}") from error
        if missing := sorted(info["missing_keys"]):
            raise ValueError(
                f"{source} is no text classifier: it has no weights for {missing[0]}; name a model "
                "that was trained to classify texts"
            )
        self._network.eval()
        config = self._network.config
        self.labels = tuple(config.id2label[row] for row in range(config.num_labels))
        self._separate = (
            len(self.labels) == 1 or config.problem_type == "multi_label_classification"
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes whenever a verdict could."""
        return digest("text classifier", self.labels, self._separate, hash_weights(self._network))

    @torch.inference_mode()
    def probability(self, texts: Sequence[str], labels: Sequence[str]) -> np.ndarray:
        """Return float64_N, 0..1: the probability that a text has one of these labels.

        Where labels are judged apart, the highest of them.

        Raises:
            ValueError: the classifier has no such label.
        """
        if unknown := [label for label in labels if label not in self.labels]:
            raise ValueError(
                f"{self.source} has no label {unknown[0]!r}; it has {', '.join(self.labels)}"
            )
        places = [self.labels.index(label) for label in labels]
        limit = min(self._tokenizer.model_max_length, LONGEST)
        found: list[Tensor] = []
        for start in range(0, len(texts), BATCH):
            batch = list(texts[start : start + BATCH])
            tokens = self._tokenizer(
                batch, padding=True, truncation=True, max_length=limit, return_tensors="pt"
            )
            logits_NK = self._network(**tokens).logits.double()
            if self._separate:
                found.append(logits_NK.sigmoid()[:, places].amax(dim=1))
            else:
                found.append(logits_NK.softmax(dim=1)[:, places].sum(dim=1))
        return torch.cat(found).numpy() if found else np.zeros(0)


@functools.cache
def load(source: str) -> TextClassifier:
    """Return the classifier of a folder or hub id; it stays loaded."""
    return TextClassifier(source)
