"""Files of tasks or instructions that others are made from, in any instruction format."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dunwu.core.errors import DataError
from dunwu.core.recipe import SftFileSource
from dunwu.core.records import Example
from dunwu.corpus.instruction_formats import INPUTS, INSTRUCTIONS
from dunwu.corpus.instructions import InstructionReader
from dunwu.corpus.json_rows import json_rows
from dunwu.corpus.language import UNKNOWN, identify

CONSTRAINTS = ("constraints", "constraint", "约束", "限制")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """A task. `instruction` alone, where the file tells it from its `input` and `constraints`; `source`: file and row."""

    instruction: str
    source: str
    input: str = ""
    constraints: str = ""

    @property
    def whole(self) -> str:
        """Instruction and input, as a user would say them."""
        return "\n\n".join(part for part in (self.instruction, self.input) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeds:
    """What a file holds. `passed_over`: rows that cannot be used, in the words of the reader."""

    seeds: tuple[Seed, ...]
    language: str
    passed_over: int
    problems: tuple[str, ...]


def read_seeds(path: Path, *, at_least: int, language: str = "auto") -> Seeds:
    """The tasks of an instruction file, or of a folder of them: the first question of each conversation.

    Raises DataError for a file that is missing, in no known format, or holds fewer than `at_least` tasks that differ.
    """
    if not path.exists():
        raise DataError(
            f"{path} does not exist; give a .json or .jsonl file of tasks, each with an instruction and its answer"
        )
    reader = InstructionReader(SftFileSource(path=str(path)))
    fields = _fields(path)
    seeds: dict[str, Seed] = {}
    for example in reader:
        seed = _seed(example, fields)
        if seed is not None:
            seeds.setdefault(seed.whole, seed)
    if len(seeds) < at_least:
        raise DataError(f"{path} holds {len(seeds)} tasks that differ; give at least {at_least}, better some tens")
    found = tuple(seeds.values())
    return Seeds(
        seeds=found,
        language=main_language([seed.whole for seed in found]) if language == "auto" else language,
        passed_over=sum(reader.dropped.values()),
        problems=tuple(reader.problems),
    )


def main_language(texts: Sequence[str]) -> str:
    """The language of most of these texts; English where none can be told."""
    joined = "\n".join(texts[:200])
    found = identify(joined)
    return "en" if found == UNKNOWN else found


def _seed(example: Example, fields: dict[str, tuple[str, str, str]]) -> Seed | None:
    question = next((message.content.strip() for message in example.messages if message.role == "user"), "")
    if not question:
        return None
    instruction, given, constraints = fields.get(example.source, (question, "", ""))
    return Seed(instruction=instruction, input=given, constraints=constraints, source=example.source)


def _fields(path: Path) -> dict[str, tuple[str, str, str]]:
    """By row, the instruction, input and constraints of those that have them apart."""
    found: dict[str, tuple[str, str, str]] = {}
    if not path.is_file():
        return found
    for row in json_rows(path):
        if not isinstance(row.value, dict):
            continue
        value = cast("dict[str, Any]", row.value)
        instances = value.get("instances")
        inner = instances[0] if isinstance(instances, list) and instances and isinstance(instances[0], dict) else {}
        texts = [_first({**value, **inner}, keys) for keys in (INSTRUCTIONS, INPUTS, CONSTRAINTS)]
        if texts[0]:
            found[f"{path.name}#{row.number}"] = (texts[0], texts[1], texts[2])
    return found


def _first(row: dict[str, Any], keys: Sequence[str]) -> str:
    value = next((row[key] for key in keys if key in row), "")
    text = value.strip() if isinstance(value, str) else ""
    return "" if text.lower() in ("<noinput>", "none", "none.", "<无输入>", "无") else text
