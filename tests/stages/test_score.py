"""The score stage: every scorer over every image, whatever its size, and no image stops it."""

import io
import json
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests import tiny, tiny_run, tiny_scorers
from valign.models.scorers import ScorerRef, load_scorers
from valign.records import Prompt
from valign.settings import Scorer
from valign.stages import images, score
from valign.stages.work import Shard
from valign.storage import layout, tables
from valign.storage.objects import open_store

SIZES = (64, 48, 64, None, 48, 64, 64)  # None: a file that is no image


@pytest.fixture(scope="module")
def scorers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scorer, ...]:
    folder = tmp_path_factory.mktemp("scorers")
    tiny_scorers.build_hps(folder)
    tiny_scorers.build_laion(folder / "laion.pth")
    clip = str(folder / "clip")
    hps = {"version": "v2.0", "architecture": tiny_scorers.ARCHITECTURE}
    file = (folder / "HPS_v2_compressed.pt").as_uri()
    return (
        Scorer(name="clip_l14", kind="clip", source=clip),
        Scorer(name="hpsv2", kind="hpsv2", source=file, options=hps),
        Scorer(name="clip_h", kind="clip", source=f"{tiny_scorers.ARCHITECTURE}:{file}"),
        Scorer(
            name="pickscore",
            kind="pickscore",
            source=str(tiny_scorers.build_pickscore(folder / "pickscore")),
        ),
        Scorer(
            name="aesthetic",
            kind="aesthetic",
            source=str(folder / "laion.pth"),
            clip=Path(clip).as_uri(),
        ),
        Scorer(name="llava", kind="llava", source=str(tiny_scorers.build_llava(folder / "llava"))),
    )


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [
        None if size is None else rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        for size in SIZES
    ]


def png(image_HWC) -> bytes:
    if image_HWC is None:
        return b"\x89PNG\r\n\x1a\nnothing more"
    stream = io.BytesIO()
    Image.fromarray(image_HWC).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def done(recipe, scorers, pictures, tmp_path_factory):
    """A root whose only shard was scored in batches of three, and its run."""
    root = str(tmp_path_factory.mktemp("root"))
    run = tiny_run.load(recipe, root)
    run = run.model_copy(update={"score": run.score.model_copy(update={"scorers": scorers})})
    run = run.model_copy(update={"score": run.score.model_copy(update={"batch_size": 3})})
    store = open_store(root)
    rows = [
        images.PlannedImage(
            prompt=Prompt(text=text, scene=text), sample=0, seed=n, image_id=f"i{n}"
        )
        for n, text in enumerate(f"a photo of {n} doctors" for n in range(len(SIZES)))
    ]
    table = {
        **images.columns(rows),
        "generator": ["none"] * len(rows),
        "image": [{"bytes": png(picture), "path": None} for picture in pictures],
    }
    tables.write(store, layout.part("generate", 0), table, tables.IMAGES)
    args = (run, root, "generate", "score", score.about(run))
    report = score.Worker(*args)(Shard(0, 0, len(rows)))
    return store, run, report, rows


def test_images_of_any_size_are_scored_in_their_order(done, pictures):
    store, run, _, rows = done
    part = tables.read_scores(store, layout.part("score", 0)).to_pydict()
    assert part["image_id"] == [row.image_id for row in rows]
    group = score.load(run.score.scorers)
    assert set(group.columns) == {
        *("clip_l14_score", "clip_l14_score_cleaned", "clip_h_score", "clip_h_score_cleaned"),
        *("hpsv2", "pickscore", "aesthetic", "nudity", "bloody", "horror"),
    }
    for place, picture in enumerate(pictures):
        if picture is None:
            continue
        alone = group.score(picture[None], [rows[place].prompt])
        for name, column in alone.items():
            expected = column.values.reshape(-1)
            assert np.array_equal(part[name][place], expected, equal_nan=True), (name, place)


def test_a_broken_image_has_no_score_and_says_why(done):
    store, _, report, _ = done
    part = tables.read_scores(store, layout.part("score", 0)).to_pydict()
    assert (report.rows, report.quarantined) == (len(SIZES) - 1, 1)
    names = [name for name in part if name.endswith(".error")]
    assert len(names) == 10
    for name in names:
        assert [bool(reason) for reason in part[name]] == [size is None for size in SIZES]
        assert part[name][3].startswith("the image cannot be decoded")
        assert np.isnan(part[name.removesuffix(".error")][3]).all()


def test_a_part_says_what_gave_its_scores(done):
    store, run, _, _ = done
    path = store.local(layout.part("score", 0))
    about = json.loads(pq.read_schema(path).metadata[b"scorers"])
    assert list(about) == sorted(scorer.name for scorer in run.score.scorers)
    assert about["hpsv2"]["kind"] == "hpsv2" and about["hpsv2"]["version"] == "v2.0"
    assert len(about["hpsv2"]["weights"]) == 64
    higher = about["aesthetic"]["columns"]["aesthetic"]
    assert higher["low"] < higher["high"] and "beautiful" in higher["higher_means"]
    assert score.inputs(run)["the weights of scorer hpsv2"] == about["hpsv2"]["fingerprint"]


def test_a_recipes_kinds_of_content_are_asked_about_by_their_words(scorers):
    llava = scorers[-1]
    asked = {"nudity": "nudity", "bloody": "bloody", "horror": "zombie"}
    ref = ScorerRef(name="l", kind="llava", source=llava.source, options={"classes": asked})
    assert load_scorers([ref]).fingerprints["l"] == score.describe((llava,))["llava"].fingerprint
    odd = llava.model_copy(update={"classes": ("horror", "spiders")})
    assert list(score.describe((odd,))["llava"].columns) == ["horror", "spiders"]


def test_clip_l14_is_the_metric_if_there_is_one():
    columns = {"clip_h_score": 1, "clip_l14_score": 2, "clip_l14_score_cleaned": 3}
    found = score.with_clip_metric(columns)
    assert (found["clip_score"], found["clip_score_cleaned"]) == (2, 3)
    assert score.with_clip_metric({"clip_score": 1}) == {"clip_score": 1}


def test_work_is_made_one_ahead_and_in_order():
    made: list[int] = []
    used: list[tuple[int, int]] = []

    def make(item: int) -> int:
        made.append(item)
        assert threading.current_thread() is not threading.main_thread()
        return item * item

    for result in score.ahead(make, range(6)):
        used.append((result, len(made)))
    assert [result for result, _ in used] == [0, 1, 4, 9, 16, 25]
    assert all(n_made <= place + 2 for place, (_, n_made) in enumerate(used))
    assert list(score.ahead(make, [])) == []


def test_an_error_ahead_comes_out_where_it_belongs():
    results = score.ahead(lambda item: 6 // item, [3, 2, 0])
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_head_far_from_its_clip_asks_for_it(tmp_path):
    tiny.build_toxicity_head(tmp_path / "toxicity")
    alone = Scorer(name="t", kind="toxicity_head", source=str(tmp_path / "toxicity"))
    with pytest.raises(ValueError, match=r"reads the CLIP at \.\./clip, which is not beside"):
        score.describe((alone,))
    clip = str(tiny.build_clip(tmp_path / "elsewhere"))
    near = score.describe((alone.model_copy(update={"clip": clip}),))
    assert list(near["t"].columns) == ["nudity", "bloody", "horror"]


def test_the_scorer_of_the_guide_runs_as_written(tmp_path, monkeypatch):
    guide = (Path(__file__).parents[2] / "docs/scorers.md").read_text()
    code = guide.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "my_scorers.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    listed = yaml.safe_load(guide.rpartition("```yaml\n")[2].partition("```")[0])
    own = Scorer.model_validate(listed["score"]["scorers"][0])
    red = np.zeros((1, 8, 8, 3), np.uint8) + np.array([100, 50, 40], np.uint8)
    assert score.load((own,)).score(red, ["a hill"])["warmth"].values == [120]
    listed = yaml.safe_load(guide.partition("```yaml\n")[2].partition("```")[0])
    assert len([Scorer.model_validate(one) for one in listed["score"]["scorers"]]) == 4
