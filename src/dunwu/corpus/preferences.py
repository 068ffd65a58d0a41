"""Files of preferences, read for the answer that was preferred: chosen and rejected, judged pairs, labelled answers.

What is learned is the answer that was judged; earlier answers of the conversation are only read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from dunwu.core.records import Message
from dunwu.corpus.json_rows import BadRow
from dunwu.corpus.turns import Row, answers_before, messages_of, transcript

TURN_LISTS = ("messages", "conversations", "conversation", "turns", "对话")
QUESTIONS = ("prompt", "instruction", "question", "query", "input", "指令", "问题")
NEITHER, PREFERS_NEITHER = 1.5, "a verdict that prefers neither answer"
LABELS = ("label", "kto_tag")
SCORES = ("overall_score", "fine-grained_score", "score")


class NotWanted(Exception):  # noqa: N818  it is a finding about a row, not a failure of the program
    """The row holds only an answer that nobody wants: there is nothing in it to learn, and nothing wrong with it."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A conversation that ends with the preferred answer, and the places of the answers in it that are only read."""

    messages: tuple[Message, ...]
    only_read: frozenset[int] = frozenset()


def is_pair(row: Row) -> bool:
    """Chosen and rejected: TRL's forms, transcripts as in HH-RLHF, LLaMA-Factory's."""
    return "chosen" in row and "rejected" in row


def chosen_of_pair(row: Row) -> Chosen:
    """The conversation with the chosen answer."""
    chosen = side(row, row["chosen"])
    if _asked(row, row["chosen"]) is not None:
        return chosen
    try:
        rejected: Sequence[Message] = side(row, row["rejected"]).messages
    except BadRow:
        rejected = ()
    same = 0
    for ours, theirs in zip(chosen.messages, rejected, strict=False):
        if ours != theirs:
            break
        same += 1
    same = min(same, len(chosen.messages) - 1) if rejected else len(chosen.messages) - 1
    return Chosen(chosen.messages, frozenset(answers_before(chosen.messages, same)))


def is_judged(row: Row) -> bool:
    """Two outputs and a verdict, as AlpacaEval writes them."""
    return {"output_1", "output_2", "preference"} <= row.keys()


def chosen_of_judged(row: Row) -> Chosen:
    """The output that was preferred."""
    return side(row, row[preferred_key(row)])


def preferred_key(row: Row) -> str:
    """Where the output that was preferred stands; the verdict is from 1 (the first) to 2 (the second)."""
    verdict = row["preference"]
    if isinstance(verdict, bool) or not isinstance(verdict, int | float) or not 1 <= verdict <= 2:
        raise BadRow("has no verdict", f"`preference` is {verdict!r}, not a number from 1 to 2")
    if verdict == NEITHER:
        raise NotWanted(PREFERS_NEITHER)
    return "output_1" if verdict < 1.5 else "output_2"


def is_scored(row: Row) -> bool:
    """Several answers with scores, as UltraFeedback writes them."""
    answers = row.get("completions")
    return isinstance(answers, list) and all(isinstance(answer, dict) and "response" in answer for answer in answers)


def chosen_of_scored(row: Row) -> Chosen:
    """The answer with the highest score, the first of equals."""
    answers = cast("list[Row]", row["completions"])
    if not answers:
        raise BadRow("has no answers", "`completions` is empty")
    best = max(answers, key=score_of)
    return side(row, best["response"])


def is_labelled(row: Row) -> bool:
    """An answer with a label, good or bad, as KTO takes them."""
    labelled = any(isinstance(row.get(key), bool) for key in LABELS)
    return labelled and ("completion" in row or any(isinstance(row.get(key), list) for key in TURN_LISTS))


def chosen_of_labelled(row: Row) -> Chosen:
    """The conversation, where its answer is labelled good. Raises NotWanted otherwise."""
    if not is_wanted(row):
        raise NotWanted("an answer labelled as not wanted")
    return labelled(row)


def is_wanted(row: Row) -> bool:
    """The label of a labelled row."""
    return bool(next(row[key] for key in LABELS if isinstance(row.get(key), bool)))


def labelled(row: Row) -> Chosen:
    """The conversation of a labelled row, whatever its label."""
    if "completion" in row:
        return side(row, row["completion"])
    turns = next(row[key] for key in TURN_LISTS if isinstance(row.get(key), list))
    messages = tuple(messages_of(turns))
    return Chosen(messages, frozenset(answers_before(messages, len(messages) - 1)))


def side(row: Row, answer: Any) -> Chosen:
    """The conversation with that answer, which the row holds, in whatever form."""
    asked, answered = _asked(row, answer), _said(answer, "assistant")
    messages = (*(asked or ()), *answered)
    return Chosen(messages, frozenset(answers_before(messages, len(asked or ()))))


def _asked(row: Row, answer: Any) -> list[Message] | None:
    """What was asked, where it stands apart from the answer; None where the answer is the whole conversation."""
    if isinstance(answer, str) and (whole := transcript(answer)) is not None and whole[0].role == "user":
        return None
    if isinstance(answer, list) and answer and messages_of(answer[:1])[0].role != "assistant":
        return None
    for key in TURN_LISTS:
        if isinstance(row.get(key), list):
            return messages_of(row[key])
    key = next((key for key in QUESTIONS if key in row), None)
    if key is None:
        raise BadRow("has no question", f"none of {', '.join(QUESTIONS[:4])}; its keys are {sorted(map(str, row))[:8]}")
    asked = _said(row[key], "user")
    more = row.get("input")
    if key == "instruction" and isinstance(more, str) and more.strip():
        asked = [Message(role="user", content=f"{asked[0].content}\n\n{more}")]
    return asked


def _said(value: Any, role: str) -> list[Message]:
    match value:
        case str():
            whole = transcript(value)
            return [Message(role=cast(Any, role), content=value)] if whole is None else whole
        case [*turns]:
            return messages_of(turns)
        case Mapping():
            return messages_of([value])
        case _:
            raise BadRow("has something that is no text", f"it is a {type(value).__name__}")


def score_of(answer: Row) -> float:
    """What an answer was given; less than anything where it was given nothing."""
    score = next((answer[key] for key in SCORES if key in answer), None)
    try:
        return float(cast(Any, score))
    except (TypeError, ValueError):
        return float("-inf")
