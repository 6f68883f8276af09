"""How voters are made: the preference loss, and one network saved in two formats."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

import valign.miniature
from valign.miniature import student, tuning
from valign.models.clip import Clip
from valign.models.clip_towers import TransformersClip

WEIGHTS = Path(valign.miniature.__file__).parent / "weights"


def test_the_preference_loss_is_least_where_scores_are_the_utility():
    utility_GN = torch.tensor([[0.3, -1.0, 0.8, 0.0], [2.0, 2.0, -0.5, 0.1]])
    score_GN = (utility_GN + 5.0).requires_grad_()  # only differences within a group count
    least = tuning.preference_loss(score_GN, utility_GN)
    least.backward()
    assert score_GN.grad.abs().max() < 1e-6
    draws = torch.Generator().manual_seed(0)
    for _ in range(5):
        other = utility_GN + torch.randn(2, 4, generator=draws)
        assert tuning.preference_loss(other, utility_GN) > least


def test_the_preference_loss_equals_its_definition():
    score_GN, utility_GN = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    terms = []
    for scores, utilities in zip(score_GN.tolist(), utility_GN.tolist(), strict=True):
        for i in range(4):
            for j in range(i + 1, 4):
                wins = 1 / (1 + np.exp(utilities[j] - utilities[i]))
                given = 1 / (1 + np.exp(scores[j] - scores[i]))
                terms.append(-wins * np.log(given) - (1 - wins) * np.log(1 - given))
    assert tuning.preference_loss(score_GN, utility_GN).item() == pytest.approx(np.mean(terms))


def test_both_formats_hold_the_same_network(tmp_path):
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "hpsv2")
    torch.manual_seed(0)
    model = student.build(tokenizer).eval()
    student.save_open_clip(model, tokenizer, tmp_path / "one")
    student.save_transformers(model, tokenizer, tmp_path / "other")
    one, other = Clip(str(tmp_path / "one")), Clip(str(tmp_path / "other"), towers=TransformersClip)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    texts = ["A photo of a doctor", "", "зима 🎉", "A photo of the face of a " + "very " * 90]
    assert torch.allclose(one.embed_images(images), other.embed_images(images), atol=1e-5)
    assert torch.allclose(one.embed_texts(texts), other.embed_texts(texts), atol=1e-5)
