"""FID, KID and IS against torchmetrics and known answers; diversity and intervals by hand."""

import dataclasses

import numpy as np
import pytest
from eval_worlds import bias_set
from scipy.linalg import sqrtm

from valign.evaluation.feature_metrics import (
    diversity,
    fid,
    fid_is_reliable,
    inception_score,
    jackknife,
    kid,
    kid_jackknife,
)
from valign.evaluation.measure import measure
from valign.evaluation.report import render
from valign.evaluation.sets import EvalSet

WIDTH = 8


def samples(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(WIDTH, WIDTH))
    return rng.normal(size=(n, WIDTH)) @ mix, rng.normal(0.3, 1.2, size=(n, WIDTH))


@pytest.mark.slow
def test_parity_with_torchmetrics() -> None:
    """Its metrics get features for images, by a network that only flattens."""
    torch = pytest.importorskip("torch")
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance

    class Flat(torch.nn.Module):
        num_features = WIDTH

        def forward(self, images: "torch.Tensor") -> "torch.Tensor":
            return images.flatten(1)

    one, other = samples(0)
    first, second = (torch.from_numpy(x)[:, :, None, None] for x in (one, other))
    theirs = FrechetInceptionDistance(Flat(), normalize=True, input_img_size=(WIDTH, 1, 1))
    theirs.set_dtype(torch.float64)
    kernel = KernelInceptionDistance(Flat(), subsets=2, subset_size=60, normalize=True)
    for metric in (theirs, kernel):
        metric.update(second, real=True)
        metric.update(first, real=False)
    assert fid(one, other) == pytest.approx(float(theirs.compute()), rel=1e-6)
    assert kid(one, other) == pytest.approx(float(kernel.compute()[0]), rel=1e-4)
    score = InceptionScore(Flat(), splits=1)
    score.update(first)
    probabilities = torch.from_numpy(one).softmax(dim=1).numpy()
    assert inception_score(probabilities) == pytest.approx(float(score.compute()[0]), rel=1e-5)


def test_fid_by_another_derivation() -> None:
    one, other = samples(1)
    root = sqrtm(np.cov(one.T) @ np.cov(other.T)).real
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(
        np.cov(one.T) + np.cov(other.T) - 2 * root
    )
    assert fid(one, other) == pytest.approx(expected, rel=1e-9)
    assert fid(one, one) == pytest.approx(0, abs=1e-9)
    assert fid(one + 2, one) == pytest.approx(4 * WIDTH)
    few = samples(2, n=5)  # fewer images than dimensions: singular covariances
    assert np.isfinite(fid(*few))
    assert not fid_is_reliable(5, WIDTH)


def test_kid_is_unbiased_at_any_size_and_fid_is_not() -> None:
    rng = np.random.default_rng(3)
    draws = [(rng.normal(size=(12, 4)), rng.normal(size=(12, 4))) for _ in range(400)]
    kids = np.array([kid(*pair) for pair in draws])
    assert abs(kids.mean()) < 3 * kids.std() / np.sqrt(len(kids))
    assert np.mean([fid(*pair) for pair in draws]) > 0.5
    shifted = [kid(one + 0.7, other) for one, other in draws]
    assert np.mean(shifted) > 5 * kids.std() / np.sqrt(len(kids))


def test_kid_by_hand() -> None:
    one, other = np.array([[1.0], [2.0]]), np.array([[0.0], [1.0]])
    # k(1, 2) = 27, k(0, 1) = 1, and across: 1, 8, 1, 27
    assert kid(one, other) == pytest.approx(27 + 1 - 2 * (1 + 8 + 1 + 27) / 4)


def test_kid_with_an_interval_is_kid_without_each_group_of_prompts() -> None:
    one, other = samples(6, n=48)
    prompt_N, prompt_M = np.arange(48) % 6, np.arange(48) // 8
    prompt_X = np.concatenate([prompt_N, prompt_M])
    slow = jackknife(lambda use: kid(one[use[:48]], other[use[48:]]), prompt_X)
    found = kid_jackknife(one, prompt_N, other, prompt_M)
    assert found.value == pytest.approx(kid(one, other))
    assert (found.low, found.high, found.n) == pytest.approx((slow.low, slow.high, 6))


def test_images_of_one_noise_are_left_out_across() -> None:
    one, prompt_N = samples(7, n=48)[0], np.arange(48) % 6
    twins = np.stack([np.arange(48)] * 2, axis=1)
    same = kid_jackknife(one, prompt_N, one, prompt_N, twins)
    assert (same.value, same.low, same.high) == pytest.approx((0, 0, 0), abs=1e-12)
    assert kid_jackknife(one, prompt_N, one, prompt_N).value < 0


def test_kid_is_unbiased_where_half_of_the_images_are_the_baselines() -> None:
    found = []
    for seed in range(100):
        one, fresh = np.random.default_rng(seed).normal(size=(2, 60, WIDTH))
        other = np.where(np.arange(60)[:, None] % 2 == 0, one, fresh)
        twins = np.stack([np.arange(60)] * 2, axis=1)
        found.append(kid_jackknife(other, np.arange(60) % 12, one, np.arange(60) % 12, twins))
    values = np.array([each.value for each in found])
    assert abs(values.mean()) < 3 * values.std(ddof=1) / 10
    missed = sum(not each.low <= 0 <= each.high for each in found)
    assert missed <= 15  # of 100, where 5 are expected


def with_features(images: EvalSet, shift: float, seed: int) -> EvalSet:
    features = np.random.default_rng(seed).normal(shift, 1, size=(len(images.sample_N), 4))
    features[0] = np.nan
    return dataclasses.replace(images, scores={**images.scores, "features": features})


def test_distances_and_diversity_are_in_the_results() -> None:
    images = bias_set("gender", [0.5, 0.5], prompts=12, samples=20, seed=0)
    models = {
        "base": {"gender": with_features(images, 0, 1)},
        "same": {"gender": with_features(images, 0, 2)},
        "far": {"gender": with_features(images, 1, 3)},
    }
    made = measure(models, resamples=200)
    same, far = made["distances"]["same - base"], made["distances"]["far - base"]
    assert same["gender.kid"]["low"] < 0 < same["gender.kid"]["high"]
    assert far["gender.kid"]["low"] > same["gender.kid"]["high"]
    assert far["gender.fid"]["value"] == pytest.approx(4, abs=0.8)
    facts = far["gender.fid"]
    assert (facts["images"], facts["dimensions"], facts["n"]) == (239, 4, 12)
    assert facts["reliable"] is True
    few = bias_set("gender", [0.5, 0.5], prompts=3, samples=8, seed=0)
    small = {name: {"gender": with_features(few, 0, 4)} for name in ("base", "aligned")}
    found = measure(small, resamples=200)["distances"]["aligned - base"]["gender.fid"]
    assert found["reliable"] is False
    assert found["read"].startswith("kid")
    varied = made["models"]["far"]["bias.quality.diversity"]
    # two draws of a normal in four dimensions are 2 Gamma(2.5) / Gamma(2) = 2.659 apart
    assert varied["value"] == pytest.approx(2.659, abs=0.15)
    assert varied["n"] == 12
    render(made)


def test_the_extremes_of_the_inception_score() -> None:
    assert inception_score(np.eye(5)) == pytest.approx(5)
    assert inception_score(np.full((7, 5), 0.2)) == pytest.approx(1)
    with pytest.raises(ValueError, match="sum to 1"):
        inception_score([[0.5, 0.4]])


def test_diversity_by_hand() -> None:
    nan = [np.nan, np.nan]
    features = [[[0, 0], [3, 4], [0, 0]], [[1, 1], [1, 1], nan], [[1, 1], nan, nan]]
    found = diversity(features)
    np.testing.assert_allclose(found[:2], [(5 + 0 + 5) / 3, 0], atol=1e-12)
    assert np.isnan(found[2])


def test_the_jackknife_of_a_mean_is_the_standard_error_and_covers() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=12)
    found = jackknife(lambda use: float(values[use].mean()), np.arange(12))
    half = 2.200985 * values.std(ddof=1) / np.sqrt(12)  # Student's t with 11 degrees
    assert found.high - found.value == pytest.approx(half, rel=1e-5)
    assert found.n == 12
    prompt_N = np.repeat(np.arange(30), 4)
    held = 0
    for _ in range(150):
        centre_N = rng.normal(size=30)[prompt_N]
        one = centre_N + rng.normal(size=120)
        made = jackknife(lambda use, one=one: float(one[use].mean()), prompt_N)
        held += made.low <= 0 <= made.high
    assert 0.9 <= held / 150 <= 0.99
    with pytest.raises(ValueError, match="at least 3 prompts"):
        jackknife(lambda use: 0.0, [0, 0, 1])


def test_what_makes_no_sense_is_refused() -> None:
    one, other = samples(5)
    for call, why in (
        (lambda: fid(one, other[:, :3]), "with one D"),
        (lambda: kid(one[:1], other), "at least 2 images"),
        (lambda: kid(np.full((3, 2), np.nan), np.zeros((3, 2))), "not finite"),
        (lambda: diversity(one), "prompts, samples, D"),
    ):
        with pytest.raises(ValueError, match=why):
            call()
