"""A model learns preferences: from the recipe's words to the finished home, alone and after fine-tuning."""

import json

import pytest
import torch

from dunwu.align.card.record import read_card
from dunwu.build.home import Home
from dunwu.build.stages import prefer
from dunwu.cli import run
from dunwu.core.errors import RecipeError
from dunwu.core.files import sha256_file
from dunwu.core.load import check_recipe
from dunwu.delta.storing import load_delta
from dunwu.model.hub import load_model
from tests.build.place import new_place
from tests.build.test_base import STOPPED, write_chat_model
from tests.cut import Cut

WORDS = ["pairs.jsonl", "budget=60s", "prefer.batch_tokens=512", "model.context_length=64"]
LESS = ["evaluate.samples=0", "prefer.epochs=2", "prefer.lr_adamw=0.01"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A chat model of others, and preferences: polite answers rather than rude ones."""
    with new_place(tmp_path_factory) as folder:
        write_chat_model(folder / "open", STOPPED)
        numbers = range(150)
        pairs = [
            {"prompt": f"{i} + 1?", "chosen": f"It is {i + 1}, please.", "rejected": f"Go away {i % 7}!"}
            for i in numbers
        ]
        pairs += [
            {"prompt": "a?", "chosen": "b", "rejected": "b"},
            {"prompt": "what? " * 60, "chosen": "b", "rejected": "c"},
        ]
        labelled = [
            {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
            for pair in pairs[:60]
            for side in ("chosen", "rejected")
        ]
        talks = [{"prompt": f"{i} + 1?", "completion": f"It is {i + 1}."} for i in range(60)]
        for name, rows in (("pairs", pairs), ("labelled", labelled), ("talks", talks)):
            (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        yield folder


def home_of(place, name):
    return Home(place / "builds" / name)


def weights(place, name):
    return sha256_file(home_of(place, name).model / "model.safetensors")


def test_a_model_and_a_file_of_pairs_are_enough(place, capsys):
    before = sha256_file(place / "open" / "model.safetensors")
    assert run(["align", "open", *WORDS, *LESS, "--plan"]) == 0
    assert "preferences: dpo" in capsys.readouterr().out
    assert run(["align", "open", *WORDS, *LESS]) == 0
    captured = capsys.readouterr()
    assert "pairs that it did not learn: the better answer gained more in 100.0%" in captured.out
    assert "2 rows left out (1 has two equal answers, 1 has a prompt that is too long)" in captured.err
    home = home_of(place, "open-aligned")
    assert list(home.current()) == ["base", "prefer", "evaluate", "report"]
    facts = home.current()["prefer"].facts
    assert (facts["preferences"], facts["held_out_pairs"]) == (135, 15)
    assert facts["preference"]["scores"]["reward_accuracy"]["n"] == 15
    assert facts["preference"]["scores"]["likelier_after"]["value"] == 1.0
    assert facts["objective"] == {"method": "dpo", "beta": 0.1, "label_smoothing": 0.0}
    rows = [json.loads(line) for line in (home.folder_of(home.current()["prefer"]) / "metrics.jsonl").open()]
    assert rows[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # nothing is preferred yet
    assert rows[0]["kl_estimate"] == pytest.approx(0, abs=1e-4)
    assert rows[-1]["loss"] < 0.4
    assert rows[-1]["reward_accuracy"] == 1.0
    assert rows[-1]["reward_margin"] > 1
    told = json.loads((home.model / "dunwu.json").read_text())
    assert told["preferences"]["preferences"] == 135
    assert told["lineage"]["prefer"]["sha256"] == weights(place, "open-aligned")
    assert "135 preferences by dpo" in (home.model / "README.md").read_text()
    assert "the better answer gained more" in home.report.read_text("utf-8")
    card = read_card(home.folder_of(home.current()["evaluate"]) / "alignment.json")
    assert (card.stages, card.against, card.prompts) == (["base", "prefer"], "base", 15)
    assert card.row("diversity.distinct_2", "prefer").change is not None
    assert told["alignment"]["rows"][0]["figure"] == card.rows[0].figure
    assert "# Alignment card of open-aligned" in (home.folder / "alignment_card.md").read_text()
    assert "answers that sound like a refusal" in (home.model / "README.md").read_text()
    assert sha256_file(place / "open" / "model.safetensors") == before
    # the base with the adapter says what the finished model says
    base = load_model(place / "open", dtype=torch.float32)
    load_delta(home.model / "adapter", base)
    ids = torch.arange(20)[None]
    assert torch.allclose(base(ids), load_model(home.model)(ids), atol=1e-5)
    assert run(["status", str(home.folder)]) == 0
    assert "prefer     done" in capsys.readouterr().out


def test_an_interrupted_one_goes_on_to_the_same_weights(place, capsys, monkeypatch):
    true_learn = prefer.learn

    def cut(work, model, stream, section, **more):
        return true_learn(work, model, Cut(stream, 41), section, **more)

    monkeypatch.setattr(prefer, "learn", cut)
    words = ["align", "open", *WORDS, *LESS, "--out", "builds/cut", "prefer.checkpoint_every_s=0.001"]
    assert run(words) == 143
    monkeypatch.setattr(prefer, "learn", true_learn)
    assert run(words) == 0
    said = capsys.readouterr().err
    assert "interrupted and goes on" in said
    assert "resumed at step" in said
    assert weights(place, "open-aligned") == weights(place, "cut")


def test_after_fine_tuning_and_another_beta_finds_the_reference(place, capsys, monkeypatch):
    words = [
        "build", "base=open", "sft.sources.0.path=talks.jsonl", "prefer.sources.0.path=pairs.jsonl", "name=both",
        "sft.tokens=2048", "sft.batch_tokens=512", "sft.lr_adamw=0.003", *WORDS[1:], *LESS,
    ]  # fmt: skip
    assert run(words) == 0
    home = home_of(place, "both")
    assert list(home.current()) == ["base", "sft", "prefer", "evaluate", "report"]
    assert home.current()["prefer"].identity["needs"]["sft"] == home.current()["sft"].hash
    facts = json.loads((home.model / "dunwu.json").read_text())
    assert set(facts["scores"]) == {"base answers", "sft answers", "prefer answers"}
    kept = {file: file.stat().st_mtime_ns for file in home.reference.iterdir()}
    assert len(kept) == 2  # what is learned, and what is kept out
    assert run([*words, "prefer.objective.beta=0.5"]) == 0
    assert "sft        done before" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in home.reference.iterdir()} == kept


def test_kto_takes_labelled_answers_and_pairs_and_all_weights_may_learn(place, capsys):
    words = ["labelled.jsonl", *WORDS, *LESS[:2], "--method", "kto", "--delta", "full", "name=kto"]
    words += ["prefer.lr_adamw=0.002"]
    assert run(["align", "open", *words]) == 0
    home = home_of(place, "kto")
    facts = home.current()["prefer"].facts
    assert facts["formats"] == {"labelled.jsonl": "labelled answers", "pairs.jsonl": "chosen and rejected"}
    assert facts["preference"]["scores"]["reward_accuracy"]["value"] > 0.9
    assert not (home.model / "adapter").exists()
    rows = [json.loads(line) for line in (home.folder_of(home.current()["prefer"]) / "metrics.jsonl").open()]
    assert rows[0]["loss"] == pytest.approx(0.5, abs=1e-3)
    assert rows[-1]["loss"] < 0.45
    assert rows[-1]["kl_from_unrelated"] >= 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["prefer.objective.betta=4"], "unknown key prefer.objective.betta: did you mean prefer.objective.beta"),
        (["--method", "dpoo"], "must be an entry whose method is one of 'dpo'"),
        (["prefer.freeze=[model.norm.weight]"], "with prefer.delta all of the model is frozen already"),
        (["prefer.sources.0.bad_rows=refuse"], "pairs.jsonl, line 151: has two equal answers"),
        (["none.jsonl"], "none.jsonl does not exist"),
        (["talks.jsonl"], "talks.jsonl holds no preferences: its keys are"),
    ],
)
def test_bad_input_is_one_clear_error(place, capsys, words, told):
    assert run(["align", "open", *WORDS, "name=refused", *words]) == 2
    said = capsys.readouterr().err
    assert told in " ".join(said.split())
    assert "Traceback" not in said


def test_labelled_answers_alone_are_no_pairs(place, capsys):
    assert run(["align", "open", "labelled.jsonl", *WORDS[1:], "name=refused"]) == 2
    assert "learn from them with prefer.objective.method=kto" in " ".join(capsys.readouterr().err.split())


def test_a_delta_that_stays_apart_is_no_ground_for_preferences():
    words = ["base=/tmp", "sft.sources.0.path=a.jsonl", "prefer.sources.0.path=b.jsonl"]
    check_recipe({}, [*words, "sft.delta.method=lora"], origin="test")
    for more in (["sft.delta.method=lora", "sft.delta_merged=false"], ["sft.delta.method=pfeiffer"]):
        with pytest.raises(RecipeError, match=r"sft\.delta would not be in them"):
            check_recipe({}, [*words, *more], origin="test")
