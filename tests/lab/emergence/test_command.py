"""The command on tables, and on published ones where they are at hand."""

import gzip
import json
from pathlib import Path

import pytest

from dunwu.cli import run
from dunwu.core.files import read_json
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import new_decoder
from dunwu.model.hub import save_model
from tests.infer.tiny import tiny_tokenizer

SHARED = Path(__file__).parents[4] / "shared" / "data"
PYTHIA = SHARED / "emergence_pythia" / "pythia_zero_shot.csv.gz"
OBSERVATIONAL = SHARED / "emergence_obsscaling" / "emergent_capability_A.csv"
ROWS = [(70, 0.02, 0.50), (160, 0.02, 0.51), (410, 0.03, 0.52), (1000, 0.02, 0.50), (2800, 0.78, 0.93), (6900, 0.82, 0.95), (12000, 0.81, 0.95), (30000, 0.82, 0.95)]  # fmt: skip


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "scores.csv"
    rows = [f"{size}M,{whole},{part}" for size, whole, part in ROWS]
    path.write_text("\n".join(["size,sums_exact_match,sums_edit_similarity", *rows]), "utf-8")
    return path


def told(capsys, *words):
    assert run(["lab", "emergence", *map(str, words)]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_jump_that_survives_partial_credit(table, tmp_path, capsys):
    facts = told(capsys, table, "--json")
    whole, graded = facts["curves"]
    assert (whole["verdict"], graded["verdict"]) == ("jump", "jump")
    assert 1e9 <= whole["at_low"] <= whole["at_high"] <= 2.8e9
    assert [one["survives"] for one in facts["pairs"]] == ["yes"]


def test_the_page_and_its_numbers_are_written(table, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "page"
    assert run(["lab", "emergence", str(table), "--out", str(out), "--forecast", "10B"]) == 0
    said = capsys.readouterr().out
    assert "sums: jump of exact_match survives edit_similarity: yes" in said
    assert f"page: {out / 'index.html'}" in said
    assert "sums, exact_match" in (out / "index.html").read_text("utf-8")
    facts = read_json(out / "experiment.json")
    assert facts["facts"]["forecasts"][0]["fitted"] == 6
    assert (out / "curves.csv").read_text("utf-8").startswith("task,metric,series,points")
    assert (out / "curve-1.svg").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "name a table of scores"),
        (("none.csv",), "none.csv is no file"),
        (("TABLE", "tokens=x"), "'tokens=x' names no column; write size=COLUMN"),
        (("TABLE", "--by", "step"), "has no column for step"),
        (("TABLE", "--forecast", "much"), "--forecast much: must be a number above 0"),
        (("TABLE", "--forecast", "100M"), "1 models lie below 1e+08"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(table, words, said, capsys):
    assert run(["lab", "emergence", *(str(table) if word == "TABLE" else word for word in words)]) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["1B,0.1", "1B,0.2", "1B,0.3"], "all scores are of one size (sums: 1e+09); give scores at 3"),
        (["1B,0.1", "2B,0.2"], "no curve has more than 2 (sums: 1e+09, 2e+09); give scores at 3"),
    ],
)
def test_too_few_sizes_are_one_clear_error(tmp_path, rows, said, capsys):
    path = tmp_path / "few.csv"
    path.write_text("\n".join(["size,sums_acc", *rows]), "utf-8")
    assert run(["lab", "emergence", str(path)]) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")


def test_folders_without_a_size_or_a_task_say_what_to_add(tmp_path, capsys):
    (tmp_path / "evaluated").mkdir()
    (tmp_path / "evaluated" / "results.json").write_text("{}", "utf-8")
    (tmp_path / "home").mkdir()
    for folder, said in (
        ("evaluated", "evaluated=1.3M, with its parameters"),
        ("home", "say by --tasks what to ask it"),
    ):
        assert run(["lab", "emergence", str(tmp_path / folder)]) == 2
        assert said in capsys.readouterr().err.replace("\n", " ")


TASK = """
input: "{{q}}"
target: "{{a}}"
subject: "{{kind}}"
max_tokens: 4
source: {files: {test: test.jsonl}}
metrics: [{name: right, score: {kind: exact, answer: target}}]
"""


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    """Three models of random weights, and a task."""
    folder = tmp_path_factory.mktemp("ladder")
    for width in (16, 32, 48):
        home = folder / f"w{width}"
        home.mkdir()
        tokenizer = tiny_tokenizer(home)
        config = DecoderConfig(
            architecture="qwen3", qk_norm="head", vocab_size=tokenizer.vocab_size, hidden_size=width, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, head_dim=8, max_position_embeddings=96,
        )  # fmt: skip
        save_model(new_decoder(config, seed=width), home)
        (home / "dunwu.json").write_text(json.dumps({"instruction_tuned": True}), "utf-8")
    (folder / "task.yaml").write_text(TASK, "utf-8")
    rows = [{"q": f"a cat sat {at}?", "a": "Hello", "kind": "x" if at % 2 else "y"} for at in range(6)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return folder


def test_models_are_evaluated_and_studied_kind_by_kind(homes, monkeypatch, capsys):
    monkeypatch.setattr("dunwu.evaluate.identity.user_cache_folder", lambda: homes / "cache")
    monkeypatch.chdir(homes)
    names = ["w16", "w32", "w48"]
    facts = told(capsys, *names, "--tasks", "task.yaml", "--solver", "chat", "--samples", 4, "--json")
    curves = {(one["task"], one["metric"]): one for one in facts["curves"]}
    assert set(curves) == {
        (f"task: {kind}", name) for kind in "xy" for name in ("right", "exact_match", "edit_similarity")
    }
    sizes = [
        json.loads((homes / "emergence" / "runs" / f"{name}-chat" / "results.json").read_text("utf-8"))
        for name in names
    ]
    assert len(sizes) == 3
    similar = curves["task: x", "edit_similarity"]
    assert similar["models"] == names
    assert similar["x"] == sorted(similar["x"])
    assert {one["verdict"] for one in facts["curves"]} == {"too few points to search"}
    assert [(one["model"], one["draws"], one["questions"]) for one in facts["rare"]] == [
        (name, 4, 3) for name in names for _ in "xy"
    ]
    words = [f"emergence/runs/{name}-chat={size:.0f}" for name, size in zip(names, similar["x"], strict=True)]
    again = told(capsys, *words, "--json")
    assert [one["y"] for one in again["curves"]] == [one["y"] for one in facts["curves"]]


def test_homes_that_make_no_ladder_are_refused(homes, monkeypatch, capsys):
    monkeypatch.chdir(homes)
    for words, said in (
        (["w16"], "w16: with --tasks, give the homes of two or more models"),
        (["w16", "none"], "none: with --tasks"),
    ):
        assert run(["lab", "emergence", *words, "--tasks", "task.yaml"]) == 2
        assert said in capsys.readouterr().err.replace("\n", " ")


def test_published_scores_by_size(capsys):
    if not PYTHIA.is_file():
        pytest.skip("the published scores are not at hand (../shared)")
    facts = told(capsys, PYTHIA, "--json", "--draws", "199")
    curves = {(one["task"], one["metric"]): one for one in facts["curves"]}
    assert len(curves) == 172
    cloze = curves["lambada_openai", "acc"]
    assert (cloze["points"], cloze["questions"]) == (8, 5153)
    assert cloze["linearity_share"] == pytest.approx(0.78, abs=0.005)
    assert cloze["breakthroughness"] == pytest.approx(11.36, abs=0.005)
    assert not [one for one in facts["curves"] if one["verdict"] == "jump"]


def test_published_scores_by_compute_jump_in_sums_of_three_digits(capsys):
    if not OBSERVATIONAL.is_file():
        pytest.skip("the published scores are not at hand (../shared)")
    facts = told(capsys, OBSERVATIONAL, "--by", "flops", "--forecast", "1e22", "--json")
    jumps = {one["task"] for one in facts["curves"] if one["verdict"] == "jump"}
    assert jumps == {"arithmetic_3da_2", "arithmetic_3ds_2"}
    assert len(facts["forecasts"]) == 8
    assert sum(one["covered"] for one in facts["forecasts"]) > 0.85 * sum(one["forecast"] for one in facts["forecasts"])


def test_parameters_of_the_published_models_follow_from_their_architecture():
    """Two layer norms, attention and MLP with biases of each layer; embeddings and head apart; a vocabulary of 50,277 that is padded
    to 128 for each part of the model in parallel."""
    if not PYTHIA.is_file():
        pytest.skip("the published scores are not at hand (../shared)")
    shapes = {"70m": (512, 6, 1), "160m": (768, 12, 1), "410m": (1024, 24, 1), "1b": (2048, 16, 1), "1.4b": (2048, 24, 1), "2.8b": (2560, 32, 1), "6.9b": (4096, 32, 2), "12b": (5120, 36, 4)}  # fmt: skip
    told = dict(line.split(",")[:2] for line in gzip.decompress(PYTHIA.read_bytes()).decode().splitlines()[1:])
    for name, (width, layers, parts) in shapes.items():
        vocabulary = -(-50277 // (128 * parts)) * 128 * parts
        layer = 12 * width**2 + 13 * width
        assert int(told[name]) == layers * layer + 2 * width + 2 * vocabulary * width
