"""What of an instruction file cannot be used, or not whole, is on record, not silently gone."""

import json
from pathlib import Path
from typing import Any

import pytest

from dunwu.build.conversations import Conversations, load_conversations
from dunwu.build.costs import sft_bytes
from dunwu.build.inputs import sft_inputs
from dunwu.core.errors import DataError, RecipeError
from dunwu.core.progress import RecordedProgress
from dunwu.core.recipe import Recipe
from dunwu.tokenizer.bpe import train_tokenizer
from dunwu.tokenizer.load import load_tokenizer
from dunwu.train.signals import Interrupted, StopSignal
from tests.tokenizer import foreign
from tests.train import tiny
from tests.train.test_neftune import Noisy

ROW = {"instruction": "Add 1 and 2.", "output": "3"}
WORDS = "Say it all. " * 30


def recipe(*sources: dict[str, Any], **sft: Any) -> Recipe:
    return Recipe.model_validate(
        {"name": "rows", "corpus": {"sources": [{"kind": "world"}]}, "sft": {"sources": list(sources), **sft}}
    )


def file(folder: Path, *rows: Any, name: str = "a.jsonl") -> dict[str, Any]:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder / name).write_text("\n".join(lines), "utf-8")
    return {"kind": "file", "path": str(folder / name)}


def load(folder: Path, made: Recipe, context: int = 128) -> tuple[Conversations, list[str]]:
    tokenizer = train_tokenizer([], vocab_size=259, out=folder / "bytes")
    progress = RecordedProgress()
    return load_conversations(made, tokenizer, context, progress), progress.notes


def test_a_bad_line_7_is_in_the_facts_and_said_aloud(tmp_path: Path) -> None:
    source = file(tmp_path, *[ROW] * 6, json.dumps(ROW)[:-5], *[ROW] * 3)
    found, notes = load(tmp_path, recipe({**source, "weight": 2}))
    assert found.facts["conversations"] == 9
    assert found.sources[0].per_pass == 18
    assert found.facts["bad_rows"] == {"is not valid JSON": 1}
    assert "a.jsonl, line 7: is not valid JSON" in found.facts["first_bad_rows"][0]
    assert "rows left out: 1 (is not valid JSON: 1)" in notes[0]
    assert notes[-1].endswith(f"{found.facts['filled']:.1%} full")
    assert 0.5 < found.facts["filled"] <= 1


def test_what_is_cut_is_counted_by_what_is_lost_and_said_aloud(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Add."}, {"from": "gpt", "value": "3"}] * 6
    rows = [
        {"conversations": turns},
        {"conversations": [{"from": "human", "value": "Go."}, {"from": "gpt", "value": WORDS}]},
        {"conversations": [{"from": "human", "value": WORDS[:160]}, {"from": "gpt", "value": "No."}]},
        {"conversations": [{"from": "human", "value": WORDS * 9}, {"from": "gpt", "value": "No."}]},
        {"conversations": turns[:2]},
    ]
    source = file(tmp_path, *rows)
    found, notes = load(tmp_path, recipe(source))
    assert found.facts["cut"] == {"turns": 1, "answer": 1, "question": 1}
    assert (found.facts["cut_conversations"], found.facts["left_out"], found.facts["conversations"]) == (3, 1, 4)
    said = "\n".join(notes)
    assert "1 of 5 conversations are longer than the context of 128 tokens and lose their oldest turns" in said
    assert "lose the end of their answer" in said
    assert "lose the middle of a question or result" in said
    assert "1 of 5 conversations are left out: they do not fit the context of 128 tokens" in said
    found, _ = load(tmp_path, recipe(source, too_long="drop"))
    assert (found.facts["cut"], found.facts["left_out"], found.facts["conversations"]) == ({}, 4, 1)


def test_sources_are_mixed_as_the_recipe_says(tmp_path: Path) -> None:
    many, few = file(tmp_path, *[ROW] * 90, name="many.jsonl"), file(tmp_path, *[ROW] * 10, name="few.jsonl")
    found, notes = load(tmp_path, recipe({**many, "cap": 40}, few, temperature=2))
    assert [source.per_pass for source in found.sources] == [33, 17]  # 50 as √40 : √10
    assert "conversations in a pass: many.jsonl 33 of 90, few.jsonl 17 of 10" in "\n".join(notes)
    text = len("Add 1 and 2.3")
    assert sft_bytes(recipe({**many, "cap": 40}, few, temperature=2)) == 50 * text


def test_the_recipes_system_prompt_stands_before_conversations_without_one(tmp_path: Path) -> None:
    own = {**ROW, "system": "Mine."}
    found, _ = load(tmp_path, recipe(file(tmp_path, ROW, own), system_prompt="Yours."))
    batch = found.stream.batch(0, found.stream.rows_per_epoch)
    tokenizer = load_tokenizer(tmp_path / "bytes")
    text = "".join(tokenizer.decode(row, skip_special=True) for row in batch.ids_BT.tolist())
    assert text.count("Yours.") == text.count("Mine.") == 1


DROPS = (
    "{% for m in messages %}{% if m.role != 'system' %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + DROPS


@pytest.mark.parametrize(("template", "why"), [(DROPS, "drops the system prompt"), (REFUSES, "takes no system prompt")])
def test_a_template_that_loses_the_system_prompt_is_no_place_for_one(tmp_path: Path, template: str, why: str) -> None:
    tokenizer = load_tokenizer(foreign.qwen(tmp_path / "open", chat_template=template))
    source = file(tmp_path, ROW, {**ROW, "system": "Be kind."})
    with pytest.raises(
        RecipeError, match=f"sft.system_prompt is set, but the chat template {why}.*; remove it, or mend"
    ):
        load_conversations(recipe(source, system_prompt="Be kind."), tokenizer, 128, RecordedProgress())
    found = load_conversations(recipe(source), tokenizer, 128, RecordedProgress())
    assert found.facts["bad_rows"] == {"has a system prompt that is lost": 1}
    assert found.facts["first_bad_rows"][0].startswith(f"{tmp_path / 'a.jsonl#2'}: has a system prompt that is lost: ")
    with pytest.raises(
        DataError, match=r"a.jsonl#2: has a system prompt that is lost.*mend the row, or set bad_rows=drop"
    ):
        load_conversations(recipe({**source, "bad_rows": "refuse"}), tokenizer, 128, RecordedProgress())


def test_a_source_without_anything_to_learn_is_named(tmp_path: Path) -> None:
    long = file(tmp_path, {"instruction": WORDS * 9, "output": "3"}, name="long.jsonl")
    with pytest.raises(
        DataError, match=r"none of the 1 conversations of long.jsonl has a token to learn .*1 are too long"
    ):
        load(tmp_path, recipe(file(tmp_path, ROW), long))


def test_phrasings_that_are_files_name_the_stage_by_what_they_hold(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("{answer: '{{ output }}', phrasings: ['Do: {{ instruction }}']}")
    made = recipe(
        {
            **file(tmp_path, ROW),
            "phrasings": [str(own), "title-en"],
            "columns": {"text": "instruction", "title": "output"},
        }
    )
    before = sft_inputs(made)
    assert set(before) == {"sft.sources.0", "sft.sources.0.phrasings.0"}
    own.write_text("{answer: '{{ output }}', phrasings: ['Please do: {{ instruction }}']}")
    assert sft_inputs(made) != before


def test_mixed_sources_with_noise_resume_exactly(tmp_path: Path) -> None:
    """Passes that differ, cut conversations, calls of tools and NEFTune: stopped in the third pass and resumed, bit for bit."""
    call = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {}}]}
    tools = [
        {"role": "user", "content": "go"},
        call,
        {"role": "tool", "content": "7"},
        {"role": "assistant", "content": "7."},
    ]
    rows = [{"instruction": f"add {number}", "output": "so it is. " * (number % 24 + 1)} for number in range(1, 30)]
    few, many = file(tmp_path, {"messages": tools}, name="few.jsonl"), file(tmp_path, *rows, name="many.jsonl")
    made = recipe({**few, "weight": 3}, {**many, "cap": 8})
    found, _ = load(tmp_path, made, context=256)
    assert found.facts["cut"]["answer"]
    updates = found.stream.rows_per_epoch * 3 // 4
    steps = updates * found.stream.context_length // tiny.CONTEXT  # in rows of `tiny`
    settings: dict[str, Any] = {"progress": RecordedProgress(), "steps": steps, "batch_rows": 4}
    tiny.run(tmp_path / "whole", objective=Noisy(), rows=found.stream, **settings)
    stop = StopSignal()
    with pytest.raises(Interrupted):
        tiny.run(tmp_path / "parts", objective=Noisy(stop, updates - 2), stop=stop, rows=found.stream, **settings)
    fresh, _ = load(tmp_path, made, context=256)
    assert tiny.run(tmp_path / "parts", objective=Noisy(), rows=fresh.stream, **settings).resumed_from == updates - 2
    assert tiny.weights(tmp_path / "parts") == tiny.weights(tmp_path / "whole")
