"""Files of answers in steps, each judged good, bad or not at all, in TRL's stepwise form: prompt, completions, labels.

Rows of PRM800K and Math-Shepherd become this form by a line of code. A label is true or false, 1 or -1, "+" or "-", and null
where nobody judged the step; 0 is refused, which is bad for some and neutral for others.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from dunwu.core.errors import DataError
from dunwu.core.recipe import PreferenceWorldSource
from dunwu.core.records import Message, StepwiseAnswer
from dunwu.corpus.instructions import check_conversation, require_object
from dunwu.corpus.json_rows import BadRow, JsonRow
from dunwu.corpus.pairs import EMPTY, JudgementReader
from dunwu.corpus.turns import Row, messages_of

NAME = "judged steps"
_ASKED = ("prompt", "question", "problem", "instruction")
_LABELS: dict[Any, bool | None] = {"+": True, "-": False, None: None}


class StepReader(JudgementReader[StepwiseAnswer]):
    """Answers in steps."""

    def _look_at(self, rows: Sequence[Any], path: Path) -> str:
        objects = [cast(Row, row) for row in rows if isinstance(row, dict)]
        if not 2 * sum(map(is_stepwise, objects)) > len(objects) > 0:
            keys = sorted({str(key) for row in objects for key in row})[:12]
            raise DataError(
                f"{path} holds no judged steps: its keys are {keys}; rows need a prompt, completions (the steps) and labels"
            )
        return NAME

    def _understood(self, row: JsonRow, path: Path) -> StepwiseAnswer:
        value = require_object(row.value, NAME, is_stepwise)
        steps, labels = value["completions"], value["labels"]
        if len(steps) != len(labels):
            raise BadRow("has labels of another number than steps", f"{len(steps)} steps and {len(labels)} labels")
        if not steps or not all(isinstance(step, str) and step.strip() for step in steps):
            raise BadRow(EMPTY, f"a step of {len(steps)} says nothing" if steps else "there are no steps")
        return StepwiseAnswer(
            prompt=_prompt(value, steps),
            steps=tuple(steps),
            labels=tuple(map(_label, labels)),
            source=f"{path.name}#{row.number}",
        )

    def _made_up(self, source: PreferenceWorldSource) -> Iterator[StepwiseAnswer]:
        raise DataError(
            "the small world has pairs of answers and no judged steps; give a file, or reward.objective.method=pairs"
        )


def is_stepwise(row: Row) -> bool:
    """Steps with labels."""
    steps = row.get("completions")
    return (
        isinstance(row.get("labels"), list) and isinstance(steps, list) and not any(isinstance(s, dict) for s in steps)
    )


def _prompt(row: Row, steps: Sequence[str]) -> tuple[Message, ...]:
    key = next((key for key in _ASKED if key in row), None)
    if key is None:
        raise BadRow("has no question", f"none of {', '.join(_ASKED)}; its keys are {sorted(map(str, row))[:8]}")
    asked = row[key]
    prompt = tuple(messages_of(asked)) if isinstance(asked, list) else (Message(role="user", content=str(asked)),)
    check_conversation((*prompt, Message(role="assistant", content="\n".join(steps))))
    return prompt


def _label(label: Any) -> bool | None:
    if isinstance(label, bool):
        return label
    if isinstance(label, int | float) and label in (1, -1):
        return label == 1
    if (label is None or isinstance(label, str)) and label in _LABELS:
        return _LABELS[label]
    raise BadRow("has a label that is none", f"{label!r}; write true, false, or null where nobody judged the step")
