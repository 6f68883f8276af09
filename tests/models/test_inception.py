"""InceptionV3's features: torchvision's own, FID's pooling and scaling, and strict loading."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import Inception3

from valign.models.inception import InceptionFeatures, network, scaled
from valign.models.scorers import ScorerRef, load_scorers


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)


def random_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return weights that keep signals alive: convolutions of unit gain, norms as they are."""
    generator = torch.Generator().manual_seed(0)
    weights = model.state_dict()
    for name, value in weights.items():
        if value.ndim >= 2:
            value.normal_(generator=generator).mul_((2 / value[0].numel()) ** 0.5)
        elif name == "fc.bias":
            value.normal_(generator=generator)
    return weights


def test_torchvisions_weights_give_torchvisions_features(images, tmp_path):
    model = Inception3(num_classes=10, aux_logits=True, init_weights=False).eval()
    model.load_state_dict(random_weights(model))
    torch.save(model.state_dict(), tmp_path / "inception_v3.pth")
    seen: list[torch.Tensor] = []
    model.avgpool.register_forward_hook(lambda *found: seen.append(found[2].flatten(1)))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    pixels = functional.interpolate(pixels, (299, 299), mode="bilinear", antialias=True)
    with torch.inference_mode():
        expected = model(2 * pixels - 1).softmax(1)
    ref = ScorerRef(name="f", kind="inception_features", source=str(tmp_path / "inception_v3.pth"))
    group = load_scorers([ref])
    found = group.score(images, ["x"] * 3)
    assert found["f"].values.shape == (3, 2048)
    np.testing.assert_allclose(found["f"].values, seen[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["f_classes"].values, expected, rtol=1e-3, atol=1e-5)
    assert group.about()["f"].version == "InceptionV3 of torchvision"


def test_fids_weights_are_pooled_and_scored_as_fids(images, tmp_path):
    weights = random_weights(network(1008, fid=True))
    # as FID's authors publish them
    kept = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    torch.save(kept, tmp_path / "pt_inception.pth")
    scorer = InceptionFeatures("f", str(tmp_path / "pt_inception.pth"))
    assert scorer.version == "InceptionV3 of FID"
    found = scorer.score(images, [])
    logits = found["f"].values @ kept["fc.weight"].numpy().T  # without bias
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        found["f_classes"].values, odds / odds.sum(axis=1, keepdims=True), rtol=1e-3, atol=1e-6
    )
    plain = network(1008, fid=False)
    plain.load_state_dict(weights)
    plain.fc = nn.Identity()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        other = plain.eval()((scaled(pixels, 299) - 128) / 128)
    assert np.abs(found["f"].values - other.numpy()).max() > 1e-3  # blocks pool otherwise


def test_blocks_of_fid_pool_over_the_pixels_that_there_are():
    block = network(1008, fid=True).Mixed_5b
    block.branch_pool = nn.Identity()
    ones = torch.ones(1, 192, 4, 4)
    assert torch.equal(block._forward(ones)[-1], ones)  # with padding, edges would be less
    last = network(1008, fid=True).Mixed_7c
    last.branch_pool = nn.Identity()
    x = torch.zeros(1, 2048, 5, 5)
    x[0, 0, 2, 2] = 3
    around = last._forward(x)[-1][0, 0]
    assert (around[1:4, 1:4] == 3).all() and around.sum() == 27  # the highest, not the mean


def test_images_are_scaled_from_their_corners_as_tensorflow_1_did():
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    made = scaled(x, 6)[0, 0]
    for row in range(6):
        for column in range(6):
            y, z = row * 3 / 6, column * 4 / 6
            top, left = int(y), int(z)
            below, right = min(top + 1, 2), min(left + 1, 3)
            v, h = y - top, z - left
            expected = (
                x[0, 0, top, left] * (1 - v) * (1 - h) + x[0, 0, top, right] * (1 - v) * h
                + x[0, 0, below, left] * v * (1 - h) + x[0, 0, below, right] * v * h
            )  # fmt: skip
            assert made[row, column] == pytest.approx(float(expected), abs=1e-5)


def test_other_weights_are_refused(tmp_path):
    torch.save({"layer.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="holds no InceptionV3"):
        InceptionFeatures("f", str(tmp_path / "other.pth"))
    torch.save({"fc.weight": torch.zeros(10, 2048)}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match="missing"):
        InceptionFeatures("f", str(tmp_path / "part.pth"))
    torch.save({"fc.weight": nn.Linear(2, 2)}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="could run code"):
        InceptionFeatures("f", str(tmp_path / "code.pth"))
