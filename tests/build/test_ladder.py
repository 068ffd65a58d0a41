"""A whole ladder in small: climbed, killed and gone on with, forecast, built, and scored."""

import json
import shutil

import pytest

from dunwu.build import ladder as climbing
from dunwu.build import training
from dunwu.build.home import Home
from dunwu.build.ladder import transferred_rates
from dunwu.cli import run
from dunwu.core.errors import RecipeError
from dunwu.core.recipe import Recipe
from dunwu.lab.ladder import plan
from tests.build.place import new_place
from tests.test_cli import write_documents

WORDS = [
    "tokenizer.vocab_size=300", "model.context_length=16", "evaluate.heldout_bytes=2000", "corpus.heldout_fraction=0.2",
    "evaluate.baselines=false", "evaluate.samples=0", "corpus.workers=1", "out=home",
]  # fmt: skip
TARGET = ["--target", "size=50k,tokens=30k", "--rung", "0.25", "--levels", "3"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with new_place(tmp_path_factory) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "LEAST_STEPS", 8)
        patch.setattr(plan, "LEAST_TOKENS_AN_ENTRY", 5)
        patch.setattr(training, "EXACT_PROBE_S", (0.01, 0.01))
        write_documents(folder / "docs", count=20)
        yield folder


@pytest.fixture(scope="module")
def forecast(place):
    """The first forecast, from a ladder whose third rung was killed before it ended."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(climbing, "_scored", _ended_at(3, climbing._scored))
        assert run(["predict", "docs", *WORDS, *TARGET]) == 130
    finished = {file.parent.name: file.stat().st_mtime_ns for file in (place / "home").glob("ladder/*/result.json")}
    assert len(finished) == 2
    assert run(["predict", "docs", *WORDS, *TARGET, "--price", "2", "--out", "page"]) == 0
    later = {file.parent.name: file.stat().st_mtime_ns for file in (place / "home").glob("ladder/*/result.json")}
    assert finished.items() <= later.items(), "a finished rung was trained again"
    return json.loads((place / "home" / "forecasts" / "0001.json").read_text("utf-8"))


def _ended_at(number, real):
    """The scoring of rungs, in the middle of which the process is told to end."""
    calls = []

    def scored(*arguments):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return real(*arguments)

    return scored


def test_the_forecast_says_all_that_is_asked(forecast):
    facts = forecast["facts"]
    assert facts["bits_per_byte"]["low"] <= facts["bits_per_byte"]["value"] <= facts["bits_per_byte"]["high"]
    assert facts["money"]["value"] == pytest.approx(facts["seconds"]["value"] / 3600 * 2)
    assert max(rung["flops"] for rung in facts["ladder"]["rungs"]) <= 0.25 * facts["target"]["flops"]
    assert facts["memory_bytes"] > 1e8
    assert forecast["of"]["heldout_bytes"] == 2000


def test_the_page_is_written(place, forecast):
    assert (place / "page" / "experiment.json").is_file()
    assert len((place / "page" / "rungs.csv").read_text("utf-8").splitlines()) == 1 + len(
        forecast["facts"]["ladder"]["rungs"]
    )


def test_the_build_after_it_reuses_the_corpus_and_is_scored(place, forecast, capsys):
    home = Home(place / "home")
    before = {record.hash for stage in ("corpus", "tokenizer") for record in home.done(stage)}
    shape = ["model.hidden_size=48", "model.num_hidden_layers=2", "pretrain.tokens=30000"]
    assert run(["build", "docs", *WORDS, *shape]) == 0
    assert {record.hash for stage in ("corpus", "tokenizer") for record in home.done(stage)} == before
    report = home.report.read_text("utf-8")
    assert "bits per byte foretold" in report
    assert (place / "home" / "forecasts" / "0001.score.json").is_file()
    capsys.readouterr()
    assert run(["predict", "home", "--score", "--json", "--out", "scores"]) == 0
    told = json.loads(capsys.readouterr().out)
    (row,) = told["rows"]
    bits = home.current()["evaluate"].facts["scores"]["pretrain bits_per_byte"]["value"]
    assert row["measured"] == bits
    assert row["error"] == pytest.approx(bits / row["foretold"] - 1)
    assert row["inside"] == (row["low"] <= bits <= row["high"])
    assert (place / "scores" / "calibration.csv").is_file()


def test_a_second_forecast_trains_nothing_and_stands_beside_the_first(place, forecast, monkeypatch):
    monkeypatch.setattr(climbing, "learn", None)
    assert run(["predict", "docs", *WORDS, *TARGET]) == 0
    assert (place / "home" / "forecasts" / "0002.json").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["docs", *WORDS, "--target", "budget=much"], "neither FLOPs nor a time above 0"),
        (["docs", *WORDS, "--target", "size=1M"], "give budget alone, size and tokens, or size and budget"),
        (["docs", *WORDS, "--target", "colour=red"], "is no part of a target"),
        (["docs", *WORDS, "--target", "size=-3,tokens=1M"], "size=-3 is no number of parameters"),
        (["docs", *WORDS, "--target", "size=50k,tokens=100"], "too few for a ladder"),
        (["docs", *WORDS, "--target", "size=50k,tokens=1G"], "add documents, or forecast a smaller target"),
        (["--score"], "there is no forecast in"),
    ],
)
def test_what_cannot_be_forecast_is_told(place, forecast, capsys, words, said):
    assert run(["predict", *words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told


def test_going_on_from_a_base_is_not_forecast(tmp_path):
    recipe = Recipe.model_validate(
        {"base": "some/model", "corpus": {"sources": [{"kind": "folder", "path": str(tmp_path)}]}}
    )
    with pytest.raises(RecipeError, match="base=some/model: a ladder is grown from random weights"):
        climbing.climb(recipe, Home(tmp_path / "home"), climbing.Wish(flops=1e12), None, largest=0.25, levels=3)


def test_rates_of_the_recipe_move_with_width_as_the_houses_do():
    """AdamW's falls with the root of width; Muon's stays."""
    recipe = Recipe.model_validate({"pretrain": {"lr_muon": 0.02, "lr_adamw": 0.004}})
    family = climbing.family_of(recipe.model, 300, 16)
    narrow, wide = (
        climbing._config(recipe.model, shape, 300, 16) for shape in family.shapes if shape.hidden_size in (32, 128)
    )
    assert transferred_rates(recipe, wide, wide) == pytest.approx((0.02, 0.004))
    assert transferred_rates(recipe, narrow, wide) == pytest.approx((0.02, 0.008))


def test_a_damaged_record_is_told_by_the_report_and_stops_no_build(place, forecast):
    copy = place / "copy"
    shutil.copytree(place / "home", copy)
    file = copy / "forecasts" / "0001.json"
    file.write_text(file.read_text("utf-8").replace('"name"', '"nome"'), "utf-8")
    assert run(["predict", str(copy), "--score"]) == 2
