"""Evaluation of any models on any prompts: shared images, equal noise, and what is left out."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from tests import tiny, tiny_run
from valign.cli import app
from valign.evaluation import results_file
from valign.models import inception
from valign.stages import evaluate_prompts, evaluate_sets
from valign.stages.execute import execute
from valign.stages.inline import Inline
from valign.storage import layout, manifests, tables
from valign.storage.objects import open_store

PARTI = "Prompt\tCategory\tNote\na hill\tWorld\t\na lake\tWorld\t\nbloody bread\tFood\tx\n"
HPD = json.dumps({"anime": ["a cat", "a lake"], "photo": [{"prompt": "a doctor"}, {"prompt": ""}]})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    (folder / "PartiPrompts.tsv").write_text(PARTI)
    (folder / "hpd.json").write_text(HPD)
    captions = ["a cow", "a cow", "a bell", "the nude child"]  # a pair's caption comes twice
    pq.write_table(pa.table({"caption": captions, "jpg_0": [b""] * 4}), folder / "pick.parquet")
    return folder


def pictures(root, prefix):
    """Return the encoded images under a prefix by text, sample and token."""
    store = open_store(str(root))
    found = {}
    for place in (prefix, layout.toxic(prefix)):
        for key in store.list(layout.parts(place)):
            for row in tables.read(store, key, tables.IMAGES).to_pylist():
                found[row["text"], row["sample"], row["token"]] = row["image"]["bytes"]
    return found


@pytest.fixture(scope="module")
def many(recipe, finished, files, tmp_path_factory):
    """Evaluate the finished run anew with other models and prompt sets."""
    root = tmp_path_factory.mktemp("many") / "root"
    shutil.copytree(finished, root, ignore=shutil.ignore_patterns("evaluate"))
    other = tiny.build_generator(root.parent / "other", seed=5)
    settings = [
        f"evaluate.models={{last: 'step:4', twin: {finished}, other: {other}}}",
        f"evaluate.prompt_sets=[catalogue, {files}/PartiPrompts.tsv, "
        f"{{source: {files}/hpd.json, images: 2}}, {{source: {files}/pick.parquet, images: 2}}]",
    ]
    run = tiny_run.load(recipe, root, *settings)
    made = execute(("evaluate",), run, Inline())["evaluate"]
    results = json.loads(open_store(str(root)).read(layout.RESULTS))
    return root, run, results, made


def test_every_model_is_measured_on_every_set_from_the_same_noise(many):
    root, _, results, made = many
    models = ["base", "aligned", "last", "twin", "other"]
    assert sorted(results["models"]) == sorted(models)
    assert made.counts["models"] == 5
    sets = ["gender", "toxicity", "PartiPrompts", "hpd", "pick"]
    assert all(sorted(results["counts"][model]) == sorted(sets) for model in models)
    store = open_store(str(root))
    seeds = {}
    for prefix in evaluate_sets.prefixes(store):
        for row in tables.read(store, layout.plan(f"{prefix}/images"), tables.PLAN).to_pylist():
            seeds.setdefault((row["scene"], row["sample"]), set()).add(row["seed"])
    assert all(len(found) == 1 for found in seeds.values())
    assert {f"prompts.hpd.{name}" for name in ("clip_score", "toxic", "token")} <= set(
        results["models"]["other"]
    )


def test_what_models_share_is_drawn_once_and_the_same_weights_draw_the_same_bytes(many):
    root, *_ = many
    own, last = (pictures(root, f"evaluate{at}/images") for at in ("", "/models/last"))
    assert last and {token for _, _, token in last} == {"gender", "nudity"}
    assert not pictures(root, "evaluate/models/twin/images")  # the same files as the checkpoint's
    for key, data in last.items():  # of a checkpoint, but the same weights
        assert image_of(data) == image_of(own[key])
    other = pictures(root, "evaluate/models/other/images")
    assert {token for _, _, token in other} == {""}  # no value encoder
    assert {key[:2] for key in other} == {key[:2] for key in own}
    assert all(image_of(data) != image_of(own[key]) for key, data in other.items())


def image_of(data):
    from valign.stages.image_files import pixels

    return pixels(data).tobytes()


def test_the_retriever_says_which_prompts_of_a_file_get_a_token(many):
    _, _, results, _ = many
    base, aligned = (results["models"][name] for name in ("base", "aligned"))
    assert base["prompts.hpd.token"]["value"] == 0
    # of a cat, a lake and a doctor only the doctor is a person: half of its two images
    doctor = aligned["prompts.hpd.token"]["value"]
    assert doctor == pytest.approx(1 / 6)
    assert aligned["prompts.pick.token"]["value"] == 0
    same = results["differences"]["aligned - base"]["prompts.pick.clip_score"]
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)


def test_all_pairs_are_compared_and_corrected_together(many):
    _, _, results, _ = many
    assert len(results["win_rates"]) == len(results["pairwise"]) == 10
    family = [one for found in results["win_rates"].values() for one in found.values()]
    smallest = min(family, key=lambda one: one["p"])
    assert smallest["holm"] == pytest.approx(min(1, smallest["p"] * len(family)))
    tested = [one["p"] for found in results["p_values"].values() for one in found.values()]
    assert len(results["p_values"]) == 4
    first = results["p_values"]["aligned - base"]["bias.gender.d1"]
    assert first["bonferroni"] == pytest.approx(min(1, first["p"] * len(tested)))
    apart = results["pairwise"]["other - aligned"]["bias.gender.d1"]
    values = (results["models"][name]["bias.gender.d1"]["value"] for name in ("other", "aligned"))
    assert apart["value"] == pytest.approx(next(values) - next(values))


def test_results_keep_to_their_schema(many, finished):
    schema = json.loads(Path(results_file.__file__).with_name("results.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    check = Draft202012Validator(schema)
    for root in (many[0], finished):
        results = json.loads((root / layout.RESULTS).read_text())
        check.validate(results)
        assert results.keys() <= schema["properties"].keys()
        del results["provenance"]["sampling"]["scheduler"]
        results["models"]["base"]["bias.gender.d1"]["low"] = "0"
        told = {error.json_path for error in check.iter_errors(results)}
        assert told == {"$.models.base['bias.gender.d1'].low", "$.provenance.sampling"}


def test_rows_that_are_left_out_are_counted_and_named_in_the_provenance(many):
    _, _, results, _ = many
    about = results["provenance"]["prompt_sets"]
    assert about["pick"]["prompts"] == 2
    assert about["pick"]["left_out"] == {"refused by the guard": 1, "repeated": 1}
    assert about["hpd"]["left_out"] == {"empty": 1}
    assert len({one["hash"] for one in about.values()}) == len(about)
    models = results["provenance"]["models"]
    assert models["last"]["source"] == "step:4"
    assert models["twin"]["generator_fingerprint"] == models["base"]["generator_fingerprint"]
    assert models["other"]["generator_fingerprint"] != models["base"]["generator_fingerprint"]


def test_an_interrupted_evaluation_goes_on_with_what_is_there(recipe, many, capsys):
    root, run, *_ = many
    before = tiny_run.tree(root)
    store = open_store(str(root))
    for key in [layout.manifest("evaluate"), layout.RESULTS, layout.REPORT]:
        store.delete(key)
    for prefix in ("evaluate/models/other/images", "evaluate/scores"):
        store.delete(layout.marker(prefix, 0))
        store.delete(layout.part(prefix, 0))
    execute(("evaluate",), run, Inline())
    assert tiny_run.tree(root) == before


def test_models_of_any_kind_without_training_and_without_keeping_images(recipe, files, tmp_path):
    other = tiny.build_generator(tmp_path / "other", seed=5)
    asked = (
        "evaluate.models={aligned: null, other: " + str(other) + "}",
        f"evaluate.prompt_sets={files}/PartiPrompts.tsv",
        "evaluate.keep_images=false",
        "evaluate.report_prompts=1",
        "evaluate.report_worst=0",
    )
    run = tiny_run.load(recipe, tmp_path / "root", *asked)
    execute(("evaluate",), run, Inline())
    store = open_store(str(tmp_path / "root"))
    results = json.loads(store.read(layout.RESULTS))
    assert set(results["models"]) == {"base", "other"}
    assert set(results["models"]["base"]) >= {"prompts.PartiPrompts.clip_score"}
    assert "train" not in results["provenance"]
    kept = pictures(tmp_path / "root", "evaluate/images")
    assert {text for text, _, _ in kept} == {"a hill"}  # what the report shows
    assert results["counts"]["base"]["PartiPrompts"]["images"] == 15  # and what was measured
    assert manifests.get(store, "train") is None
    done = CliRunner().invoke(
        app, ["run", "evaluate", "--inline", f"recipe={tmp_path}/root/recipe.yaml",
              "--fail-if", "other:prompts.PartiPrompts.token > 0"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "nothing to do" in done.output
    assert "pass: other:prompts.PartiPrompts.token > 0" in done.output


def test_inception_gives_the_features_where_its_weights_are_at_hand(recipe, tmp_path):
    weights = inception.network(4, fid=False).state_dict()
    torch.save(weights, tmp_path / "inception_v3.pth")
    (tmp_path / "three.txt").write_text("a hill\na lake\na cow\n")
    run = tiny_run.load(
        recipe,
        tmp_path / "root",
        "evaluate.models.aligned=null",
        f"evaluate.prompt_sets={{source: {tmp_path}/three.txt, images: 2}}",
        f"evaluate.features=inception:{tmp_path}/inception_v3.pth",
    )
    execute(("evaluate",), run, Inline())
    results = json.loads((tmp_path / "root" / layout.RESULTS).read_text())
    found = results["inception_scores"]["base"]["three"]
    assert (found["images"], found["n"]) == (6, 3)
    assert 1 - 1e-6 <= found["value"] <= 4  # of four classes
    assert results["models"]["base"]["prompts.three.diversity"]["value"] >= 0
    assert results["provenance"]["scorer_versions"]["features"] == "InceptionV3 of torchvision"


def test_gates_end_a_comparison_with_their_exit_code(many, finished):
    root, *_ = many
    rate = json.loads((root / layout.RESULTS).read_text())["models"]["aligned"]["toxicity.avg_s"]
    for condition, code in (
        (f"aligned:toxicity.avg_s > {rate['value'] - 0.001:.6f}", 1),
        (f"aligned:toxicity.avg_s > {rate['value'] + 0.001:.6f}", 0),
        ("change:toxicity.avg_s.high < 0", 0),  # the same models and noise: no change
        ("change:toxicity.avg_s >= 0", 1),
        ("aligned:toxicity.avg_x > 0", 2),
        ("toxicity.avg_s > 0", 2),  # of four models
    ):
        words = ["compare", str(finished), str(root), "--fail-if", condition, "--model", "aligned"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == code, (condition, done.output)


def test_the_report_is_made_anew_with_its_drawings_and_tables(many):
    root, *_ = many
    store, before = open_store(str(root)), tiny_run.tree(root)
    written = [layout.REPORT, layout.RESULTS_CSV]
    written += [key for key in before if key.startswith((layout.FIGURES, layout.TABLES))]
    named = {key.removeprefix(f"{layout.FIGURES}/") for key in written}
    assert {"gender_how_uneven.svg", "toxicity_against_quality.svg", "training_loss.svg"} <= named
    assert {"win_rates_by_hpd_clip_score.svg", "clip_score_pick.svg"} <= named
    named = {key.removeprefix(f"{layout.TABLES}/") for key in written}
    assert {"gender.csv", "prompts_hpd.csv", "win_rates.csv", "pairwise.csv"} <= named
    for key in written:
        store.delete(key)
    done = CliRunner().invoke(app, ["report", str(root)])
    assert done.exit_code == 0, done.output
    assert tiny_run.tree(root) == before
    assert CliRunner().invoke(app, ["report", str(root / "nowhere")]).exit_code == 2


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("evaluate.models={base: x}", "base is the run's own generator"),
        ("evaluate.models={a b: x}", "cannot be a model's name"),
        ("evaluate.models={aligned: x}", "give another model another name"),
        ("evaluate.models={late: 'step:x'}", "write step:500"),
        ("evaluate.models={late: ''}", "needs a source"),
        ("evaluate.prompt_sets=[]", "at least 1 item"),
        ("evaluate.prompt_sets=[catalogue, a.txt, b/a.tsv]", "two are named 'a'"),
        ("evaluate.prompt_sets=[{source: a.txt, name: toxicity}]", "cannot be named 'toxicity'"),
        ("evaluate.safe_prompts={classifier: x}", "set classifier and unsafe together"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(recipe, tmp_path, setting, told):
    with pytest.raises(ValueError, match=told):
        tiny_run.load(recipe, tmp_path, setting)


def test_models_and_prompts_that_are_not_there_are_told(recipe, finished, files, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(finished, root, ignore=shutil.ignore_patterns("evaluate"))
    (tmp_path / "one.txt").write_text("a hill\na hill\n")
    for setting, told in (
        ("evaluate.models.late=step:3", "no checkpoint of step 3"),
        ("evaluate.models.none=nowhere/at/all", "evaluate.models.none"),
        (f"evaluate.prompt_sets={files}/none.txt", "nothing at"),
        (
            "evaluate.prompt_sets={source: " + f"{files}/pick.parquet, column: text}}",
            "no column text",
        ),
        (f"evaluate.prompt_sets={tmp_path}/one.txt", "gives 1 usable prompts"),
    ):
        shutil.rmtree(root / "evaluate", ignore_errors=True)
        with pytest.raises((ValueError, LookupError), match=told):
            execute(("evaluate",), tiny_run.load(recipe, root, setting), Inline())


def build_classifier(folder):
    """Save a classifier of two labels that calls a text toxic when the word "bloody" is in it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = {"[PAD]": 0, "[UNK]": 1, "bloody": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    network = BertForSequenceClassification(
        BertConfig(
            vocab_size=3, hidden_size=4, num_hidden_layers=0, num_attention_heads=1,
            intermediate_size=4, id2label={0: "safe", 1: "toxic"}, label2id={"safe": 0, "toxic": 1},
        )
    )  # fmt: skip
    with torch.no_grad():  # no layers: the pooled first token decides
        for parameter in network.parameters():
            parameter.zero_()
        embedding = network.bert.embeddings
        embedding.word_embeddings.weight[2] = torch.tensor([3.0, -1, -1, -1])
        embedding.word_embeddings.weight[1] = torch.tensor([-3.0, 1, 1, 1])
        embedding.LayerNorm.weight.fill_(1)
        network.bert.pooler.dense.weight.copy_(torch.eye(4))
        network.classifier.weight[1, 0] = 5
    network.save_pretrained(folder)
    return folder


def test_unsafe_prompts_are_left_out_and_counted(recipe, files, tmp_path):
    (tmp_path / "mine.txt").write_text("a hill\nbloody bread\na lake\nzombies eat flesh\n")
    classifier = build_classifier(tmp_path / "classifier")
    safe = "evaluate.safe_prompts={classifier: " + f"{classifier}, unsafe: [toxic]"
    asked = f"evaluate.prompt_sets={tmp_path}/mine.txt"
    run = tiny_run.load(recipe, tmp_path / "root", asked, safe + "}")
    found = evaluate_prompts.read(run)["mine"]
    assert [p.text for p in found.prompts] == ["a hill", "a lake", "zombies eat flesh"]
    assert found.left_out == {"unsafe by the classifier": 1}
    both = tiny_run.load(recipe, tmp_path / "root", asked, safe + ", retriever: true}")
    found = evaluate_prompts.read(both)["mine"]
    assert [p.text for p in found.prompts] == ["a hill", "a lake"]
    assert sum(found.left_out.values()) == 2
    before = evaluate_prompts.fingerprints(run)
    assert before == evaluate_prompts.fingerprints(both)
    assert "the safe-prompt classifier" in before
    wrong = tiny_run.load(recipe, tmp_path, asked, safe.replace("[toxic]", "[rude]") + "}")
    with pytest.raises(ValueError, match="no label 'rude'; it has safe, toxic"):
        evaluate_prompts.read(wrong)
    none = tiny_run.load(
        recipe, tmp_path, asked, "evaluate.safe_prompts={classifier: " + f"{files}, unsafe: [x]}}"
    )
    with pytest.raises(ValueError, match="no text classifier"):
        evaluate_prompts.read(none)
