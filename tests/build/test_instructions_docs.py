"""The examples of docs/instructions.md, run as they stand."""

import re
import shlex
from pathlib import Path

import pytest

from dunwu.cli import run
from dunwu.core.load import load_recipe
from dunwu.core.recipe import SftFileSource
from dunwu.corpus.instruction_formats import FORMATS
from dunwu.corpus.instructions import InstructionReader
from dunwu.corpus.phrasings import shipped_sets

PAGE = (Path(__file__).parents[2] / "docs" / "instructions.md").read_text("utf-8")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's files, each under the name that the line before it gives."""
    for name, content in re.findall(r"`([\w-]+\.(?:yaml|jsonl))`[^`]*?:\n\n```\w+\n(.*?)^```", PAGE, re.M | re.S):
        (tmp_path / name).write_text(content, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_files_are_read_whole_and_the_answers_that_are_learned_are_those_that_the_page_says(place):
    assert {path.name for path in place.iterdir()} == {
        "tuned.yaml", "talks.jsonl", "preferences.jsonl", "pairs.jsonl", "archaic.yaml"
    }  # fmt: skip
    learned: dict[str, list[str]] = {}
    for source in load_recipe(place / "tuned.yaml").sft.sources:
        assert isinstance(source, SftFileSource)
        for example in InstructionReader(source.model_copy(update={"bad_rows": "refuse"})):
            said = [m for i, m in enumerate(example.messages) if m.role == "assistant" and i not in example.only_read]
            calls = [call.name for message in said for call in message.tool_calls]
            learned.setdefault(Path(source.path).name, []).extend(
                [*calls, *(message.content for message in said if message.content)]
            )
    assert learned["talks.jsonl"] == ["weather", "21 degrees.", "weather", "9 度。", "No: four."]
    assert learned["preferences.jsonl"] == ["Blue.", "Red."]
    assert len(learned["pairs.jsonl"]) == 2


def test_the_commands_print_what_is_learned(place, capsys):
    commands = [line for line in PAGE.splitlines() if line.startswith("dunwu ")]
    assert len(commands) == 2
    for command in commands:
        assert run(shlex.split(command)[1:]) == 0, capsys.readouterr().err
        said = capsys.readouterr()
        assert "<|im_end|>⟧" in said.out
        assert ("Answer briefly." in said.out) == ("system_prompt" not in command)
        assert "% full" in said.err


def test_the_page_names_every_format_and_every_shipped_set():
    for row_format in FORMATS:
        assert all(f"| {name} |" in PAGE or f"| {name}, " in PAGE for name in row_format.name.split(" or ")[:1])
    for name in shipped_sets():
        assert f"`{name.removesuffix('-zh').removesuffix('-en')}-en`" in PAGE
