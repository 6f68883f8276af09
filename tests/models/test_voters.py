"""HPSv2, PickScore and the aesthetic head give what their authors' own computations give."""

import shutil

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.tiny_scorers import ARCHITECTURE, build_hps, build_laion, build_pickscore
from valign.models.aesthetic import SIZES, AestheticHead
from valign.models.clip import Clip
from valign.models.scorers import ScorerRef, load_scorers
from valign.models.voters import hps_version

PROMPTS = ["a photo of a doctor", "a red bus", "a"]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pickscore(tmp_path_factory):
    return build_pickscore(tmp_path_factory.mktemp("pick") / "score")


@pytest.fixture(scope="module")
def hps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hps")
    return folder, build_hps(folder)


def alone(kind, source, **options):
    return load_scorers([ScorerRef(name="own", kind=kind, source=str(source), options=options)])


def test_pickscore_is_the_cosine_of_a_direct_forward(pickscore, images):
    from transformers import CLIPModel, CLIPProcessor

    model = CLIPModel.from_pretrained(pickscore).eval()
    processor = CLIPProcessor.from_pretrained(pickscore)
    pictures = [Image.fromarray(image) for image in images]
    inputs = processor(text=PROMPTS, images=pictures, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model(**inputs)
    expected = torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)
    column = alone("pickscore", pickscore).score(images, PROMPTS)["own"]
    np.testing.assert_allclose(column.values, expected.numpy(), atol=1e-5)
    assert len(set(np.round(column.values, 4))) == 3


def test_pickscore_refuses_weights_that_do_not_fit(pickscore, tmp_path):
    folder = shutil.copytree(pickscore, tmp_path / "score")
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = "text_model.encoder.layers.0.mlp.fc1.weight"
    whole = weights[name]
    del weights[name]
    save_file({**weights, "surplus": torch.zeros(1)}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 missing .*mlp.fc1.*1 unexpected \(surplus\)"):
        alone("pickscore", folder)
    save_file({**weights, name: whole[:2].clone()}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="did not load|do not fit"):
        alone("pickscore", folder)
    save_file({**weights, name: whole}, file, metadata={"format": "pt"})
    alone("pickscore", folder)
    (folder / "processor_config.json").unlink()
    for leftover in folder.glob("*tokenizer*"):
        leftover.unlink()
    with pytest.raises(ValueError, match="has no processor"):
        alone("pickscore", folder)


def test_old_checkpoints_with_their_constants_still_load(pickscore, images, tmp_path):
    folder = shutil.copytree(pickscore, tmp_path / "score")
    weights = load_file(folder / "model.safetensors")
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    weights["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    old, new = alone("pickscore", folder), alone("pickscore", pickscore)
    assert np.array_equal(
        old.score(images, PROMPTS)["own"].values, new.score(images, PROMPTS)["own"].values
    )


def test_hpsv2_is_the_cosine_of_the_published_network(hps, images):
    folder, network = hps
    preprocess = open_clip.image_transform(64, is_train=False, resize_mode="longest")
    ids = open_clip.get_tokenizer("ViT-H-14")(PROMPTS)
    with torch.no_grad():
        pixels = torch.stack([preprocess(Image.fromarray(image)) for image in images])
        image, text, _ = network(pixels, ids)
        expected = (image @ text.T).diagonal()
    group = alone("hpsv2", folder / "HPS_v2_compressed.pt", architecture=ARCHITECTURE)
    np.testing.assert_allclose(group.score(images, PROMPTS)["own"].values, expected, atol=1e-5)
    assert group.about()["own"].version == "v2.0"


def test_both_versions_of_hpsv2_load_from_every_form(hps, images, tmp_path):
    folder, _ = hps
    scores = {}
    for version, file in (("v2.0", "HPS_v2_compressed"), ("v2.1", "HPS_v2.1_compressed")):
        weights = torch.load(folder / f"{file}.pt", weights_only=True)["state_dict"]
        safe = tmp_path / f"{version}.safetensors"
        save_file(weights, safe)
        from_pt = alone("hpsv2", folder / f"{file}.pt", architecture=ARCHITECTURE)
        from_safe = alone("hpsv2", safe, architecture=ARCHITECTURE, version=version)
        assert from_pt.about()["own"].version == from_safe.about()["own"].version == version
        assert from_pt.fingerprints == from_safe.fingerprints
        scores[version] = from_pt.score(images, PROMPTS)["own"].values
        assert np.array_equal(scores[version], from_safe.score(images, PROMPTS)["own"].values)
    assert not np.allclose(scores["v2.0"], scores["v2.1"], atol=1e-4)
    assert alone("hpsv2", folder / "clip").columns.keys() == {"own"}  # an open_clip folder


def test_a_whole_image_is_scored_by_hpsv2(hps):
    wide = np.zeros((2, 32, 96, 3), np.uint8)
    wide[1, :, -16:] = 255  # a crop to the middle square would not see it
    group = alone("hpsv2", hps[0] / "HPS_v2_compressed.pt", architecture=ARCHITECTURE)
    values = group.score(wide, ["a bus"] * 2)["own"].values
    assert values[0] != values[1]


def test_the_version_of_hpsv2_is_read_or_stated():
    assert hps_version("a/HPS_v2_compressed.pt") == hps_version("mine.pt", "v2.0") == "v2.0"
    assert hps_version("a/HPS_v2.1_compressed.pt") == hps_version("a/folder") == "v2.1"
    with pytest.raises(ValueError, match="HPSv2 v2.0 by its name, but the recipe says v2.1"):
        hps_version("HPS_v2_compressed.pt", "v2.1")
    with pytest.raises(ValueError, match="no HPSv2 version '3'"):
        hps_version("x.pt", "3")


def test_weights_that_do_not_fit_hpsv2_are_refused(hps, tmp_path):
    whole = torch.load(hps[0] / "HPS_v2_compressed.pt", weights_only=True)["state_dict"]

    def told(weights, match):
        file = tmp_path / "broken.pt"
        torch.save({"state_dict": weights}, file)
        with pytest.raises(ValueError, match=match):
            alone("hpsv2", file, architecture=ARCHITECTURE)

    told({k: v for k, v in whole.items() if k != "ln_final.weight"}, "ln_final")
    told({**whole, "surplus": torch.zeros(1)}, "surplus")
    # open_clip by itself would stretch these positions
    longer = torch.cat([whole["positional_embedding"]] * 2)
    told({**whole, "positional_embedding": longer}, r"1 misshapen \(positional_embedding\)")
    with pytest.raises(ValueError, match="no HPSv2 weights at"):
        alone("hpsv2", tmp_path / "absent.pt")


class Spy:
    """Pickled as something that would run on loading."""

    def __reduce__(self):
        return exec, ("import pathlib; pathlib.Path('ran').touch()",)


@pytest.mark.parametrize("kind", ["hpsv2", "aesthetic"])
def test_a_pickle_is_refused_unread(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Spy()}, "evil.pth")
    with pytest.raises(ValueError, match="could run code.*safetensors"):
        alone(kind, tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_the_aesthetic_score_is_laions_network_on_unit_embeddings(clip_folder, images, tmp_path):
    network = build_laion(tmp_path / "laion.pth")
    clip = Clip(str(clip_folder))
    with torch.no_grad():
        expected = network(clip.embed_images(images)).squeeze(1).numpy()
    group = alone("aesthetic", tmp_path / "laion.pth", clip=str(clip_folder))
    column = group.score(images, PROMPTS)["own"]
    np.testing.assert_allclose(column.values, expected, atol=1e-5)
    info = group.columns["own"]
    assert info.low < column.values.min() and column.values.max() < info.high


def test_the_bounds_of_an_aesthetic_head_are_reached(tmp_path):
    build_laion(tmp_path / "laion.pth", embed_dim=8)
    head = AestheticHead.load(tmp_path / "laion.pth")
    with torch.no_grad():
        origin = head(torch.zeros(1, 8))
        slope_D = head(torch.eye(8)) - origin
        best = head((slope_D / slope_D.norm())[None])
    low, high = head.bounds()
    assert high == pytest.approx(float(best), rel=1e-3) and high > float(best)
    assert low == pytest.approx(float(2 * origin - best), rel=1e-3)


def test_an_aesthetic_head_is_saved_and_finds_its_clip_beside_it(clip_folder, images, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "clip")
    torch.manual_seed(1)
    head = AestheticHead((24, 16, 1), clip="../clip").eval()
    head.save(tmp_path / "aesthetic")
    group = alone("aesthetic", tmp_path / "aesthetic")
    with torch.no_grad():
        expected = head(Clip(str(clip_folder)).embed_images(images)).numpy()
    np.testing.assert_allclose(group.score(images, PROMPTS)["own"].values, expected, atol=1e-5)
    assert AestheticHead().sizes == SIZES == (768, 1024, 128, 64, 16, 1)


def test_an_aesthetic_head_that_does_not_fit_is_refused(clip_folder, tmp_path):
    build_laion(tmp_path / "laion.pth", embed_dim=10)
    with pytest.raises(ValueError, match="reads embeddings of width 10, .*gives 24"):
        alone("aesthetic", tmp_path / "laion.pth", clip=str(clip_folder))
    weights = torch.load(tmp_path / "laion.pth", weights_only=True)

    def told(changed, match):
        torch.save(changed, tmp_path / "broken.pth")
        with pytest.raises(ValueError, match=match):
            AestheticHead.load(tmp_path / "broken.pth")

    told({k: v for k, v in weights.items() if k != "layers.2.bias"}, r"1 missing \(layers.1.bias\)")
    told({**weights, "head.weight": torch.zeros(1)}, "no aesthetic head: it holds head.weight")
    told({**weights, "layers.4.weight": torch.zeros(64, 5)}, r"1 misshapen \(layers.2.weight\)")
    told({k: v for k, v in weights.items() if "layers.7" not in k}, "to 1, got")
    told([1], "holds no state dict")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no config.json"):
        AestheticHead.load(tmp_path / "empty")


def test_scorers_of_one_clip_share_it_with_the_aesthetic_head(
    clip_folder, images, tmp_path, monkeypatch
):
    build_laion(tmp_path / "laion.pth")
    source = str(clip_folder)
    refs = [
        ScorerRef(name="clip", kind="clip", source=source),
        ScorerRef(name="g", kind="zero_shot", source=source, options={"classes": ["a", "b"]}),
        ScorerRef(name="r", kind="zero_shot", source=source, options={"classes": ["c", "d", "e"]}),
        ScorerRef(name="t", kind="zero_shot_toxicity", source=source, options={"classes": ["x"]}),
        ScorerRef(
            name="aesthetic",
            kind="aesthetic",
            source=str(tmp_path / "laion.pth"),
            options={"clip": source},
        ),
    ]
    seen = []
    whole = Clip.embed_pixels

    def counting(self, pixels_NCHW):
        seen.append(len(pixels_NCHW))
        return whole(self, pixels_NCHW)

    monkeypatch.setattr(Clip, "embed_pixels", counting)
    together = load_scorers(refs).score(images, PROMPTS)
    assert seen == [3]
    for ref in refs:
        for name, column in load_scorers([ref]).score(images, PROMPTS).items():
            assert np.array_equal(column.values, together[name].values, equal_nan=True)
    assert seen == [3] * 6


@pytest.mark.parametrize("kind", ["pickscore", "hpsv2"])
def test_a_preference_does_not_depend_on_the_company(kind, pickscore, hps, images):
    source = pickscore if kind == "pickscore" else hps[0] / "clip"
    group = alone(kind, source)
    together = group.score(np.concatenate([images] * 15), PROMPTS * 15)["own"].values
    single = group.score(images[1:2], PROMPTS[1:2])["own"].values
    assert single[0] == together[1] == together[40]


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["pickscore", "hpsv2"])
def test_lower_precision_scores_nearly_the_same_and_says_so(
    kind, precision, pickscore, hps, images
):
    source = pickscore if kind == "pickscore" else hps[0] / "clip"
    full, low = alone(kind, source), alone(kind, source, precision=precision)
    values = low.score(images, PROMPTS)["own"].values
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, full.score(images, PROMPTS)["own"].values, atol=0.03)
    assert low.fingerprints != full.fingerprints
