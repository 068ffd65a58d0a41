"""Rows of questions with answers that are to be scored, in whatever of the usual forms: an answer to a prompt, a conversation
that ends with one, a chosen and a rejected answer, several answers to one prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from dunwu.core.records import Message
from dunwu.corpus import preferences
from dunwu.corpus.instruction_formats import with_system
from dunwu.corpus.instructions import check_conversation
from dunwu.corpus.json_rows import BadRow
from dunwu.corpus.turns import Row, messages_of

ANSWERS = ("completion", "response", "answer", "output", "chosen")
"""Keys that hold one answer, in the order in which they are looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A prompt and an answer to it. `key`: where the score of this answer belongs in the row."""

    key: str
    prompt: tuple[Message, ...]
    answer: Message


def answers_in(row: Row) -> list[Answered]:
    """The answers that a row holds. Raises BadRow where there is none.

    Their scores belong under `score`, of pairs under `chosen_score` and `rejected_score`, of several answers under `scores`.
    """
    if preferences.is_pair(row):
        return [_of("chosen_score", row, row["chosen"]), _of("rejected_score", row, row["rejected"])]
    several = row.get("completions", row.get("responses"))
    if isinstance(several, list) and several:
        said = [
            one["response"] if isinstance(one, Mapping) and "response" in one else one
            for one in cast(list[Any], several)
        ]
        return [_of("scores", row, one) for one in said]
    key = next((key for key in ANSWERS if key in row), None)
    if key is not None:
        return [_of("score", row, row[key])]
    turns = next((row[name] for name in preferences.TURN_LISTS if isinstance(row.get(name), list)), None)
    if turns is None:
        raise BadRow(
            "has no answer", f"none of {', '.join(ANSWERS[:4])}, messages; its keys are {sorted(map(str, row))[:8]}"
        )
    return [_parted("score", messages_of(turns))]


def _of(key: str, row: Row, answer: Any) -> Answered:
    return _parted(key, with_system(row, preferences.side(row, answer)).messages)


def _parted(key: str, messages: Sequence[Message]) -> Answered:
    """What was asked, and the last answer, which may be empty."""
    if not messages or messages[-1].role != "assistant":
        raise BadRow("does not end with an answer", "its last message is not the assistant's")
    last = messages[-1]
    stand_in = last if last.content.strip() or last.tool_calls else Message(role="assistant", content="-")
    check_conversation((*messages[:-1], stand_in))
    return Answered(key=key, prompt=tuple(messages[:-1]), answer=last)
