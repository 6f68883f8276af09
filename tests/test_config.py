"""Recipes: merging, overrides, errors that name the key, and fingerprints."""

import pytest

from valign import config


def test_every_shipped_recipe_loads_and_survives_a_round_trip(tmp_path):
    assert "miniature" in config.recipes()
    for name in config.recipes():
        run = config.load(name)
        saved = tmp_path / f"{name}.yaml"
        saved.write_text(config.dump(run))
        assert config.load(str(saved)) == run


def test_a_base_is_looked_for_beside_its_recipe(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("base: miniature\nseed: 5\n")
    (tmp_path / "recipes" / "other.yaml").write_text("base: mine.yaml\ntrain: {steps: 7}\n")
    monkeypatch.chdir(tmp_path)
    run = config.load("recipes/other.yaml")
    assert (run.seed, run.train.steps) == (5, 7)


def test_a_job_with_a_mistyped_key_ends_with_one_line():
    with pytest.raises(SystemExit, match="(?s)^error: .*did you mean 'train.steps'"):
        config.from_command_line(["train.step=3"])


def test_a_recipe_is_its_base_and_the_lines_that_differ(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("base: miniature\nseed: 5\ntrain: {steps: 7}\n")
    run, base = config.load(str(recipe)), config.load("miniature")
    assert (run.seed, run.train.steps) == (5, 7)
    assert run.train.learning_rate == base.train.learning_rate
    assert run.score == base.score


def test_overrides_reach_nested_keys_and_are_yaml():
    run = config.load("miniature", ["train.steps=12", "generate.principles=[gender, bloody]"])
    assert run.train.steps == 12
    assert run.generate.principles == ("gender", "bloody")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=3", "did you mean 'train.steps'"),
        ("rot=x", r"did you mean 'root'\?"),
        ("bias_prompts=3", "did you mean 'generate.bias_prompts' or 'evaluate.bias_prompts'"),
        ("score.scorers=[{name: a, knd: clip}]", "did you mean 'score.scorers.0.kind'"),
        ("principles.age.atributes=[old]", "did you mean 'principles.age.attributes'"),
        ("evaluate.prompt_sets=[{source: a.txt, imgs: 4}]", "'evaluate.prompt_sets.0.images'"),
        ("resources.score={wrkers: 3}", "did you mean 'resources.score.workers'"),
        ("score.scorers=[{name: a, xyzzy: 1}]", r"unknown key 'score.scorers.0.xyzzy'$"),
        ("train.steps=0", "train.steps: .*greater than or equal to 1.*got 0"),
        ("train.steps=many", "train.steps: .*got 'many'"),
        ("generate.principles=[kindness]", "generate.principles.*kindness"),
        ("seed", "write key=value"),
        ("seed.x=1", "seed is a value"),
        ("train.global_batch=7", "multiple of resources.train_workers"),
        ("evaluate.group_size=3", "multiple of evaluate.group_size"),
        ("seed=[1", "is not YAML"),
    ],
)
def test_a_bad_override_is_named(override, message):
    with pytest.raises(ValueError, match=message):
        config.load("miniature", [override])


def test_an_unknown_recipe_suggests_the_nearest():
    with pytest.raises(LookupError, match="did you mean 'miniature'"):
        config.load("minature")


def test_recipes_in_a_circle_are_an_error(tmp_path):
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(f"base: {two}\n")
    two.write_text(f"base: {one}\n")
    with pytest.raises(ValueError, match="circle"):
        config.load(str(one))


def test_job_arguments_choose_the_recipe_and_override_it():
    run = config.from_arguments(["root=runs/x", "recipe=miniature_long", "seed=3"])
    assert (run.root, run.seed) == ("runs/x", 3)
    assert run.train.steps == config.load("miniature_long").train.steps


@pytest.mark.parametrize("own", ["prompts=mine.tsv", "imports.source=theirs"])
def test_a_roots_own_recipe_opens_that_root(own, tmp_path):
    run = config.load("miniature", [own, "root=runs/scored"])
    saved = tmp_path / "recipe.yaml"
    saved.write_text(config.dump(run))
    assert config.load(str(saved)) == run
    assert config.load(str(saved), ["seed=0"]) == run
    stem = own.partition("=")[2].removesuffix(".tsv")
    assert config.load("miniature", [own]).root == f"runs/{stem}"
    assert config.load(str(saved), [own]).root == f"runs/{stem}"


def test_a_submitted_job_refuses_a_root_that_ends_with_it(monkeypatch):
    assert config.from_arguments(["root=runs/x"]).root == "runs/x"
    monkeypatch.setenv(config.SUBMITTED, "{}")
    for fine in ("/shared/x", "s3://bucket/x"):
        assert config.from_arguments([f"root={fine}"]).root == fine
    with pytest.raises(ValueError, match="root=runs/x lies in the submitted job's own folder"):
        config.from_arguments(["root=runs/x"])


def test_what_later_stages_take_from_an_import_is_part_of_its_fingerprint():
    def print_of(*more):
        return config.load("miniature", ["imports.source=theirs", *more]).fingerprint(
            "generate", {}
        )

    assert print_of() == print_of("generate.bias_prompts=3")
    assert print_of() != print_of("generate.principles=[gender]")
    assert print_of() != print_of("sampling.size_px=64")


def test_a_fingerprint_follows_what_shapes_the_result_and_nothing_else():
    run = config.load("miniature")

    def changed(stage, *overrides, upstream=None):
        other = config.load("miniature", overrides)
        return other.fingerprint(stage, upstream or {}) != run.fingerprint(stage, {})

    assert changed("generate", "seed=1")
    assert changed("generate", "sampling.batch_size=8")
    assert changed("train", "train.steps=7")
    assert changed("train", upstream={"encode": "another"})
    assert not changed("generate", "train.steps=7")
    assert not changed("train", "sampling.steps=11")
    assert not changed("generate", "root=elsewhere")
    assert not changed("generate", "resources.workers=7")


def test_valid_keys_are_dotted_and_complete():
    keys = config.valid_keys()
    assert {"root", "train.steps", "evaluate.images_per_bias_prompt"} <= set(keys)


def test_a_stages_pool_is_the_shared_one_but_for_what_it_sets():
    run = config.load(
        "miniature",
        [
            "resources.workers=6",
            "resources.gpus_per_worker=1",
            "resources.score={workers: 3, workers_per_gpu: 3, custom: {fast_disk: 1}}",
            "resources.train.labels={zone: a}",
        ],
    )
    draw, score, train = (run.resources.pool(name) for name in ("generate", "score", "train"))
    assert (draw.workers, draw.cpus_per_worker, draw.gpus_per_worker) == (6, 1, 1)
    assert (score.workers, score.gpus_per_worker, score.custom) == (3, 0.3333, {"fast_disk": 1})
    assert (train.workers, train.gpus_per_worker, train.labels) == (2, 1, {"zone": "a"})
    assert run.fingerprint("score", {}) == config.load("miniature").fingerprint("score", {})
    with pytest.raises(LookupError, match="no pool of workers 'label'"):
        run.resources.pool("label")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("resources.score={gpus_per_worker: 1.5}", r"must be whole, or below 1"),
        ("resources.score={gpus_per_worker: 1, workers_per_gpu: 2}", "not both"),
        ("resources.gpus_per_worker=2.5", r"must be whole, or below 1"),
        ("resources.train.workers=4", "set resources.train_workers instead"),
    ],
)
def test_a_pool_that_ray_could_not_place_is_refused(override, message):
    with pytest.raises(ValueError, match=message):
        config.load("miniature", [override])
