"""The miniature's training, rehearsed: a few steps of every stage, and what they write loads."""

import json
import subprocess
import sys

import numpy as np
import pytest

from valign.miniature import pretrain
from valign.miniature.progress import Work
from valign.models.generator import Sampler, load_generator
from valign.models.scorers import ScorerRef, load_scorers
from valign.records import Prompt


def test_scaled_work_is_never_more_than_the_full_nor_less_than_the_least(tmp_path):
    assert Work(tmp_path).scaled(1000, 2) == 1000
    assert Work(tmp_path, 0.25).scaled(1000, 2) == 250
    assert Work(tmp_path, 1e-6).scaled(1000, 2) == 2
    assert Work(tmp_path, 1e-6).scaled(1, 2) == 1


@pytest.mark.parametrize("arguments", [["--scale", "2"], ["--scale", "0"], ["--only", "unot"]])
def test_what_cannot_be_done_is_refused_before_anything_runs(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pretrain", "--out", str(tmp_path), *arguments])
    with pytest.raises(SystemExit) as refused:
        pretrain.main()
    assert refused.value.code == 2


@pytest.mark.slow
def test_every_stage_runs_and_every_folder_loads(tmp_path):
    command = [sys.executable, "-m", "valign.miniature.pretrain", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--scale", "0.001", "--processes", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    weights = tmp_path / "weights"
    generator = load_generator(str(weights / "generator"))
    prompt = "A photo of a doctor"
    images = generator.sample(generator.condition([prompt] * 2), [1, 2], Sampler(steps=2))
    kinds = {name: name for name in ("clip", "hpsv2", "pickscore", "aesthetic")}
    kinds |= {"toxicity": "toxicity_head", "llava": "llava"}
    options = {"llava": {"classes": {"naked": "nudity"}}}
    group = load_scorers(
        [
            ScorerRef(name=n, kind=k, source=str(weights / n), options=options.get(n, {}))
            for n, k in kinds.items()
        ]
    )
    columns = group.score(images, [Prompt(text=prompt, scene=prompt, cleaned=prompt)] * 2)
    assert all(np.isfinite(column.values).all() for column in columns.values())
    configs = [file.read_text() for file in weights.rglob("*.json")]
    assert not [text for text in configs if str(tmp_path) in text]
    assert (tmp_path / "curves.png").stat().st_size > 1000
    times = [json.loads(line) for line in (tmp_path / "minutes.log").open()]
    done = [stage for line in times for stage in line["stages"]]
    assert done == [stage for stage in pretrain.STAGES if not stage.endswith("-1")]
    assert min(sum(line[key] for line in times) for key in ("minutes", "core_minutes")) > 0
