"""What a model learned from is followed through its bases, and what cannot be read is named."""

import json
from pathlib import Path

import pytest
import yaml

from dunwu.build.learned_from import learned_from
from dunwu.corpus.store import row_bytes, row_writer


def home(folder, recipe, *, stages, texts=()):
    """A build's home as its files say it, without weights."""
    (folder / "model").mkdir(parents=True)
    (folder / "model/config.json").write_text("{}")
    (folder / "stages").mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": folder.name, **recipe}), "utf-8")
    (folder / "build.json").write_text(json.dumps({"stages": {stage: f"{stage}-0" for stage in stages}}))
    if texts:
        place = folder / "stages/corpus-0"
        place.mkdir()
        with row_writer(place / "train.jsonl.zst") as file:
            for text in texts:
                file.write(row_bytes(text, "a.txt", "en"))
        (place / "card.json").write_text(json.dumps({"facts": {"train_bytes": 20}}))
    return folder / "model"


@pytest.fixture
def first(tmp_path):
    recipe = {"corpus": {"sources": [{"kind": "folder", "path": str(tmp_path)}]}}
    return home(tmp_path / "first", recipe, stages=("corpus", "pretrain"), texts=("the first text",))


def texts_of(found):
    return {source.name: [document.text for document in source.documents()] for source in found.sources}


def test_conversations_preferences_and_the_text_of_bases_are_read(tmp_path, first):
    (tmp_path / "said.jsonl").write_text(json.dumps({"instruction": "Who?", "output": "Ann."}) + "\n")
    (tmp_path / "asked.jsonl").write_text(json.dumps({"question": "What is 2 + 3?", "answer": "5"}) + "\n")
    pair = {"prompt": "Which?", "chosen": "This.", "rejected": "That."}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    tuned = home(
        tmp_path / "tuned",
        {"base": str(first.parent), "sft": {"sources": [{"kind": "file", "path": "../said.jsonl"}]}},
        stages=("base", "sft"),
    )
    aligned = home(
        tmp_path / "aligned",
        {
            "base": str(tuned),
            "prefer": {"sources": [{"path": "../pairs.jsonl"}]},
            "rl": {"sources": [{"path": "../asked.jsonl"}], "rewards": [{"kind": "math"}]},
        },
        stages=("base", "prefer", "rl"),
    )
    found = learned_from("mine", aligned)
    assert texts_of(found) == {
        "mine: preferences of pairs.jsonl": ["Which?\nThis.", "Which?\nThat."],
        "mine: prompts of asked.jsonl": ["What is 2 + 3?\n5"],
        "tuned: conversations of said.jsonl": ["Who?\nAnn."],
        "first: corpus": ["the first text"],
    }
    assert (found.sources[-1].bytes, found.missing) == (20, ())


def test_what_was_not_built_is_not_read(tmp_path, first):
    recipe = {"base": str(first.parent), "sft": {"sources": [{"kind": "file", "path": "../gone.jsonl"}]}}
    found = learned_from("mine", home(tmp_path / "mine", recipe, stages=("base",)))
    assert (list(texts_of(found)), found.missing) == (["first: corpus"], ())


def test_what_cannot_be_read_is_named(tmp_path, first):
    recipe = {"base": str(first.parent), "sft": {"sources": [{"kind": "file", "path": "../gone.jsonl"}]}}
    mine = home(tmp_path / "mine", recipe, stages=("base", "sft"))
    (first.parent / "stages/corpus-0/train.jsonl.zst").unlink()
    found = learned_from("mine", mine)
    assert found.sources == ()
    gone, corpus = found.missing
    assert gone.startswith("mine: conversations of gone.jsonl: ")
    assert gone.endswith("gone.jsonl is no longer there")
    assert corpus.startswith("first: its corpus is no longer there")

    of_hub = home(tmp_path / "of_hub", {**recipe, "base": "someone/model"}, stages=("base",))
    assert learned_from("mine", of_hub).missing == (
        "mine goes on from someone/model, whose training text is not on this machine",
    )
    moved = home(tmp_path / "moved", {**recipe, "base": str(tmp_path / "nowhere")}, stages=("base",))
    (why,) = learned_from("mine", moved).missing
    assert "mine goes on from nowhere, which is no longer there" in why
    plain = tmp_path / "plain"
    plain.mkdir()
    assert learned_from("plain", plain).missing == ("plain was not built here: nothing says what it learned from",)


def test_homes_that_name_each_other_end(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        recipe = {"base": str(tmp_path / other), "sft": {"sources": [{"kind": "world"}]}}
        home(tmp_path / name, recipe, stages=("base",))
    assert learned_from("a", Path(tmp_path / "a/model")).sources == ()
