"""A model tuned as it is, without a corpus: from the recipe's words to the finished home, with and without a delta."""

import json

import pytest
import torch

from dunwu.build.held_out import held_out
from dunwu.build.home import Home
from dunwu.build.stages import sft
from dunwu.cli import run
from dunwu.core.deltas import LoraSpec
from dunwu.core.errors import RecipeError
from dunwu.core.files import sha256_file
from dunwu.core.load import check_recipe, load_recipe
from dunwu.core.recipe import Recipe
from dunwu.delta.quantise import quantise_base
from dunwu.delta.storing import load_delta
from dunwu.model.hub import load_model
from tests.build.place import new_place
from tests.build.test_base import STOPPED, write_chat_model
from tests.cut import Cut

WORDS = ["talks.jsonl", "budget=60s", "sft.tokens=8000", "sft.batch_tokens=512", "model.context_length=64"]
LESS = ["evaluate.samples=1", "sft.lr_adamw=0.01"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A chat model of others, and conversations."""
    with new_place(tmp_path_factory) as folder:
        write_chat_model(folder / "open", STOPPED)
        talks = [{"prompt": f"What is {i} + 1?", "completion": f"It is {i + 1}."} for i in range(120)]
        (folder / "talks.jsonl").write_text("\n".join(map(json.dumps, talks)))
        yield folder


def stage_folder(home):
    return Home(home).folder_of(Home(home).current()["sft"])


def test_a_model_and_a_file_are_enough(place, capsys):
    before = sha256_file(place / "open" / "model.safetensors")
    assert run(["tune", "open", *WORDS, *LESS, "--plan"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "lora: 8.19k numbers learn on" in shown
    assert "corpus" not in shown
    assert run(["tune", "open", *WORDS, *LESS]) == 0
    said = capsys.readouterr().out
    assert "answers that it did not learn:" in said
    assert "(lora, 8.19k numbers; merged into the model)" in said
    home = Home(place / "builds" / "open-tuned")
    assert list(home.current()) == ["base", "sft", "evaluate", "report"]
    facts = json.loads((home.model / "dunwu.json").read_text())
    assert facts["answers"]["value"] < -0.5
    assert facts["answers"]["high"] < 0
    assert facts["delta"]["method"] == "lora"
    assert facts["lineage"]["sft"]["sha256"] == sha256_file(home.model / "model.safetensors")
    assert sha256_file(place / "open" / "model.safetensors") == before
    sft_facts = home.current()["sft"].facts
    assert (sft_facts["conversations"], sft_facts["held_out_conversations"]) == (114, 6)
    # the base with the adapter says what the finished model says
    base = load_model(place / "open", dtype=torch.float32)
    load_delta(home.model / "adapter", base)
    ids = torch.arange(20)[None]
    assert torch.allclose(base(ids), load_model(home.model)(ids), atol=1e-5)
    assert run(["status", str(home.folder)]) == 0
    assert "sft        done" in capsys.readouterr().out
    page = home.report.read_text("utf-8")
    assert "Answers that it did not learn" in page
    assert "没有学过的回答" in page


def test_the_recipe_that_it_writes_builds_the_same(place, capsys):
    written = place / "builds" / "open-tuned" / "recipe.yaml"
    recipe = load_recipe(written)
    assert recipe.sft.delta == LoraSpec()
    assert recipe.only_tunes
    assert run(["build", str(written), "name=again"]) == 0
    files = [place / "builds" / name / "model" / "model.safetensors" for name in ("open-tuned", "again")]
    assert sha256_file(files[0]) == sha256_file(files[1])


def test_an_interrupted_one_goes_on_to_the_same_weights(place, capsys, monkeypatch):
    true_learn = sft.learn

    def cut(work, model, stream, section, **more):
        return true_learn(work, model, Cut(stream, 61), section, **more)

    monkeypatch.setattr(sft, "learn", cut)
    words = ["tune", "open", *WORDS, *LESS, "--out", "builds/cut", "sft.checkpoint_every_s=0.001"]
    assert run(words) == 143
    monkeypatch.setattr(sft, "learn", true_learn)
    assert run(words) == 0
    assert "interrupted and goes on" in capsys.readouterr().err
    files = [place / "builds" / name / "model" / "model.safetensors" for name in ("open-tuned", "cut")]
    assert sha256_file(files[0]) == sha256_file(files[1])


def test_base_and_delta_apart(place, capsys):
    assert run(["tune", "open", *WORDS, *LESS, "name=apart", "sft.delta_merged=false", "sft.delta.r=2"]) == 0
    assert "the model has the base's weights" in capsys.readouterr().out
    home = Home(place / "builds" / "apart")
    ids = torch.arange(20)[None]
    base, model = (load_model(folder, dtype=torch.float32) for folder in (place / "open", home.model))
    assert torch.equal(base(ids), model(ids))
    load_delta(home.model / "adapter", model)
    assert torch.allclose(model(ids), load_model(stage_folder(home.folder))(ids), atol=1e-5)


def test_a_delta_learns_on_a_base_of_four_bits(place):
    assert run(["tune", "open", *WORDS, *LESS, "--method", "qlora", "name=few"]) == 0
    home = Home(place / "builds" / "few")
    assert home.current()["sft"].facts["merge_error"] == 0.0
    model = quantise_base(load_model(place / "open", dtype=torch.float32), "nf4")
    load_delta(home.model / "adapter", model, any_base=True)
    ids = torch.arange(20)[None]
    assert torch.allclose(model(ids), load_model(home.model)(ids), atol=1e-4)


def test_all_weights_may_learn_as_well(place):
    assert run(["tune", "open", *WORDS, "evaluate.samples=0", "--method", "full", "name=full"]) == 0
    home = Home(place / "builds" / "full")
    assert not (home.model / "adapter").exists()
    assert "delta" not in json.loads((home.model / "dunwu.json").read_text())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sft.delta.rank=4"], "unknown key sft.delta.rank: did you mean sft.delta.r"),
        (["--method", "lorra"], "must be an entry whose method is one of 'lora'"),
        (["sft.delta.targets=[q_porj]"], "'q_porj', which fits nothing in this model; nearest: q_proj"),
        (["sft.delta.r=999"], "r=999 is more than model.layers.0.self_attn.q_proj"),
        (["sft.freeze=[model.norm.weight]"], "with sft.delta all of the model is frozen already"),
        (["tokenizer.extend_by=40"], "new tokens are learned from a corpus"),
        (["pretrain.tokens=1000"], "without a corpus there is no pre-training"),
        (["--method", "full", "sft.base_weights=nf4"], "weights of few bits learn nothing"),
        (["memory=1MB"], "memory=1MB is less than the program itself takes"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_done(place, capsys, words, told):
    assert run(["tune", "open", *WORDS, "name=refused", *words]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_a_command_without_conversations(place, capsys):
    assert run(["tune", "open"]) == 2
    assert "nothing to tune on" in capsys.readouterr().err
    for data, told in (
        ({"base": str(place / "open")}, "neither text nor conversations"),
        ({}, "corpus.sources is empty"),
        ({"corpus": {"sources": [{"path": "x"}]}, "sft": {"delta": {"method": "lora"}}}, "nothing to tune on"),
    ):
        with pytest.raises(RecipeError, match=told):
            check_recipe(data, [], origin="test")


def test_conversations_are_held_out_by_what_they_say(tmp_path):
    def held(numbers, **more):
        rows = [{"prompt": f"{number}?", "completion": str(number)} for number in numbers]
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
        data = {"base": "/x", "sft": {"sources": [{"kind": "file", "path": str(tmp_path / "a.jsonl")}]}, **more}
        return {int(one.messages[1].content) for one in held_out(Recipe.model_validate(data)).values()}

    numbers = [*range(100), *range(50, 100)]
    assert len(held(numbers)) == 5
    assert held(reversed(numbers)) == held(numbers) == held(range(100))
    assert held(range(39)) == held(numbers, corpus={"sources": [{"kind": "world"}]}) == set()
    assert len(held(range(10_000))) == 200


def test_a_method_that_cannot_be_merged_lies_beside_the_weights(place, capsys):
    assert (
        run(["tune", "open", *WORDS, *LESS, "--method", "pfeiffer", "out=builds/beside", "sft.delta.bottleneck=8"]) == 0
    )
    assert "the model has the base's weights" in capsys.readouterr().out
    home = Home(place / "builds" / "beside")
    facts = json.loads((home.model / "dunwu.json").read_text())
    assert facts["answers"]["high"] < 0  # the adapter was there when the answers were scored
    assert facts["delta"]["merged"] is False
    said, base = load_model(home.model, dtype=torch.float32), load_model(place / "open", dtype=torch.float32)
    ids = torch.arange(20)[None]
    assert torch.equal(base(ids), said(ids))
    assert load_delta(home.model / "adapter", said).count == facts["delta"]["tuned"]
    assert not torch.equal(base(ids), said(ids))
