"""Train the tokenizer: CLIP's format (lower-cased byte-level BPE), a small vocabulary.

In: the caption grammar's texts. Out: a `CLIPTokenizer` folder. Any text encodes, because all 256
bytes are tokens. Padding is a token of its own, before the end-of-text token, whose id is the
highest (open_clip finds it by argmax).
"""

import json
from pathlib import Path

from valign.miniature.captions import corpus

VOCABULARY = 4096
START, PAD, END = "<|startoftext|>", "<|pad|>", "<|endoftext|>"


def _merges(texts: list[str], count: int) -> list[tuple[str, str]]:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    pattern = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + count,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    merges = json.loads(bpe.to_str())["model"]["merges"]
    pairs = (m.split(" ") if isinstance(m, str) else m for m in merges)
    return [(first, second) for first, second in pairs][:count]


def build(folder: Path, vocabulary: int = VOCABULARY) -> None:
    """Train on the grammar and write the tokenizer folder.

    A smaller vocabulary has the first merges of a larger one.
    """
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _merges(corpus(), vocabulary - 2 * len(alphabet) - 3)
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *("".join(m) for m in merges)]
    tokens = list(dict.fromkeys([*tokens, START, PAD, END]))
    tokenizer = CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=PAD,
        model_max_length=77,
    )
    tokenizer.save_pretrained(folder)
