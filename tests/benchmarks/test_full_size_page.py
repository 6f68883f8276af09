"""What the full-size page computes: growth, pace, pairs beside the paper's, a shorter log."""

import math
import sys
from pathlib import Path

import pytest

FOLDER = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(scope="module")
def page():
    sys.path.insert(0, FOLDER)
    try:
        from shared import full_size_page

        yield full_size_page
    finally:
        sys.path.remove(FOLDER)


@pytest.fixture(scope="module")
def sample(page):
    def make(time_s, done, driver_mib, stage="generate", session=1):
        return page.Sample(session, time_s, stage, done, driver_mib, 900.0, 400.0, 2)

    return make


def test_growth_counts_from_ten_thousand_images_to_the_end(page, sample):
    samples = [
        sample(0, 0, 500),
        sample(10, 9_999, 560),
        sample(20, 10_050, 600),
        sample(30, 100_000, 680),
        sample(40, 160_000, 650),
        sample(50, 160_000, 400, stage="score"),
    ]
    assert page.growth_mib(samples) == {"generate": 80}


def test_growth_is_within_one_process_and_the_greatest_of_all(page, sample):
    samples = [
        sample(0, 20_000, 600),
        sample(1, 90_000, 620),
        sample(0, 90_500, 300, session=2),
        sample(1, 170_000, 370, session=2),
    ]
    assert page.growth_mib(samples) == {"generate": 70}


def test_a_small_run_is_watched_from_a_sixteenth_on(page, sample):
    samples = [sample(0, 100, 500), sample(1, 200, 510), sample(2, 3_200, 530)]
    assert page.window_start(samples, "generate") == 200
    assert page.growth_mib(samples) == {"generate": 20}


def test_duration_adds_sessions_and_the_pace_leaves_the_start_out(page, sample):
    samples = [
        sample(0, 0, 500),
        sample(30, 200, 500),
        sample(40, 400, 500),
        sample(60, 1_200, 500),
        sample(500, 0, 500, session=2),
        sample(501, 1_200, 500, session=2),  # what was done before
        sample(530, 1_400, 500, session=2),
        sample(540, 1_800, 500, session=2),
    ]
    took = page.durations(samples)
    assert took["generate"] == (60 + 40, pytest.approx((800 + 400) / (20 + 10)))
    assert took["score"][0] == 0
    assert math.isnan(took["score"][1])


def test_pairs_stand_beside_the_papers(page):
    career = {"category": "career", "prompts": 284, "images": 56_100, "neutral": 14_200}
    mine = {"category": "mine", "prompts": 1, "images": 20, "neutral": 0, "pairs": 7}
    table = [career | {"pairs": 31_000, "paper": [284, 56_100, 32_310]}, mine | {"paper": None}]
    assert page.data_rows(table) == [
        "| career | 14,200 | 284 (284) | 56,100 (56,100) | 31,000 (32,310) |",
        "| mine | 0 | 1 | 20 | 7 |",
    ]


def test_the_shown_log_keeps_every_line_but_most_of_the_progress(page):
    progress = [f"generate: {n},000 of 185,440 images · 40.0 images/s" for n in range(1, 101)]
    lines = ["generate: 1 prompts · 185,440 images", *progress, "generate: images 185,440", "{}"]
    shown = page.shown_log("\n".join(lines))
    assert (shown[0], shown[-2:]) == (lines[0], lines[-2:])
    assert {progress[0], progress[-1]} <= set(shown)
    assert len(shown) <= 3 + page.LOG_LINES + 1


def test_objects_are_counted_by_stage_and_kind(page, tmp_path):
    for name, size in (
        ("recipe.yaml", 5),
        ("generate/part-00000.parquet", 7),
        ("generate/toxic/part-00001.parquet", 9),
        ("generate/done/00000.json", 2),
        ("generate/.part.tmp", 100),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    assert page.objects(tmp_path) == {
        "generate, markers": [2],
        "generate, parts": [7, 9],
        "root, others": [5],
    }
