"""docs/serving.md says what is so: its client runs, its configs load, its settings exist."""

from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from valign import config
from valign.serve_settings import Serve
from valign.serving.tables import Limits, images_fields

GUIDE = (Path(__file__).parents[2] / "docs/serving.md").read_text()


def blocks(kind: str) -> list[str]:
    return [block.partition("```")[0] for block in GUIDE.split(f"```{kind}\n")[1:]]


@pytest.mark.slow
def test_the_guides_client_draws_images(site, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_BASE_URL", f"{site.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", site.key)
    (program,) = blocks("python")
    exec(compile(program, "docs/serving.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all("'reason'" in line and "'fingerprint'" in line for line in lines)


def test_the_guides_serve_config_is_one_and_names_our_settings():
    (text,) = blocks("yaml serve.yaml")
    deployed = ServeDeploySchema.model_validate(yaml.safe_load(text))
    (application,) = deployed.applications
    assert application.import_path == "valign.on_ray.server:application"
    run = config.load("miniature", application.args["settings"])
    assert run.serve.host == deployed.http_options.host == "0.0.0.0"
    assert deployed.http_options.request_timeout_s > run.serve.deadline_s


def test_the_guides_recipe_loads(tmp_path):
    (text,) = blocks("yaml")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("base: miniature\n" + text)
    serve = config.load(str(recipe)).serve
    assert (serve.generator.max_replicas, serve.evaluator.gpus, serve.queue) == (8, 0.5, 128)


def test_the_guide_names_settings_and_fields_that_exist():
    named = {word.split("=")[0].split("`")[0] for word in GUIDE.split("`serve.")[1:]}
    assert {name.partition(".")[0] for name in named} - {"yaml"} <= set(Serve.model_fields)
    for field in ("seed", "principles", "value_strength", "num_inference_steps"):
        assert field in images_fields(Limits())
        assert f"`{field}`" in GUIDE
