"""What a home keeps to: its model is always whole, its choices do not hang on the clock, and it says whose it was."""

import dataclasses
import os

import pytest

from dunwu.build import export, training
from dunwu.build.graph import Outlook, lay_out
from dunwu.build.home import Home
from dunwu.build.plan import other_documents
from dunwu.build.registry import STAGES
from dunwu.build.stages.sft import SFT
from dunwu.core.files import write_text
from dunwu.core.load import check_recipe, dump_recipe
from dunwu.model.config import DecoderConfig

CONFIG = DecoderConfig(
    vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, max_position_embeddings=64, qk_norm="head",
)  # fmt: skip


def recipe(path="docs", **more):
    data = {"corpus": {"sources": [{"kind": "folder", "path": str(path)}]}, **more}
    return check_recipe(data, [], origin="the test")


def outlook(spent_s, predicted_s, **pretrain):
    facts = {
        "corpus": {"train_bytes": 10**6, "heldout_bytes": 10**4},
        "tokenizer": {"bytes_per_token": 2.0},
        "pretrain": {
            "model": dataclasses.asdict(CONFIG), "context_length": 64, "micro_batch_rows": 8,
            "speed": {"token_s": 1e-3, "step_s": 0.0}, **pretrain,
        },
    }  # fmt: skip
    chosen = recipe(budget="5min", sft={"sources": [{"kind": "world", "size": 0.2}], "epochs": 50.0})
    return Outlook(recipe=chosen, facts=facts, spent_s=spent_s, predicted_s=predicted_s)


def test_fine_tunings_limit_follows_the_records_and_not_the_clock(monkeypatch):
    """A build killed in pre-training has another clock, and must end in the same weights."""
    monkeypatch.setattr(training, "exact_speed", None)  # nothing is measured anew either
    one, late = SFT.forecast(outlook(120.0, 100.0)), SFT.forecast(outlook(250.0, 100.0))
    assert one.resolved == late.resolved
    assert one.resolved["most_tokens"] > 10_000
    shorter = SFT.forecast(outlook(120.0, 200.0)).resolved["most_tokens"]
    assert shorter < one.resolved["most_tokens"]


def test_a_budget_written_otherwise_changes_no_stage(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("text")
    sft = {"sources": [{"kind": "world"}]}
    hashes = [
        [step.hash for step in lay_out(STAGES, recipe(tmp_path / "docs", budget=budget, sft=sft), Home(tmp_path / "h"))]
        for budget in ("60min", "1h", "3600s", "61min")
    ]
    assert hashes[0] == hashes[1] == hashes[2]
    assert hashes[0] != hashes[3]


def test_a_home_that_was_built_from_other_documents_says_so(tmp_path):
    home = Home(tmp_path / "home")
    assert other_documents(recipe("/a/docs"), home) == []
    write_text(home.recipe_file, dump_recipe(recipe("/a/docs")))
    assert other_documents(recipe("/a/docs"), home) == []
    (line,) = other_documents(recipe("/b/docs"), home)
    assert "/a/docs" in line
    assert "out=FOLDER" in line
    write_text(home.recipe_file, "not: a recipe")
    assert other_documents(recipe("/b/docs"), home) == []


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_model_is_swapped_such_that_a_whole_one_is_always_on_disk(tmp_path, monkeypatch, fails_at):
    place, fresh, old = (tmp_path / name for name in ("model", "fresh", "old"))
    for folder in (place, fresh):
        folder.mkdir()
        (folder / "weights").write_text(folder.name)
    true_replace, calls = os.replace, []

    def failing(source, target):
        calls.append(source)
        if len(calls) == fails_at:
            raise OSError("the power went")
        true_replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="power"):
        export._swap(fresh, place, old)
    assert {(folder / "weights").read_text() for folder in (place, fresh, old) if folder.exists()} == {"model", "fresh"}
    monkeypatch.setattr(os, "replace", true_replace)
    export._swap(fresh, place, old)
    assert (place / "weights").read_text() == "fresh"
    assert not old.exists()
    assert not fresh.exists()
