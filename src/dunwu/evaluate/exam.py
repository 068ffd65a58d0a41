"""The exam of the small world: ask, grade by exact rules, and count with intervals.

Only what an answer states in the end is graded, so a model may reason before it; whoever rambles on after the answer is
graded by where it stopped.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dunwu.core.progress import Progress
from dunwu.core.records import Completion, Message, Score
from dunwu.corpus.world import Grade, Question
from dunwu.evaluate.stats import wilson

MAX_ANSWER_TOKENS = 120  # the longest model answer, a count down by nine, takes about 80
BATCH = 64
_SENTENCE_END = re.compile(r"[.!?。！？\n]+")
_HAS_CHINESE = re.compile(r"[\u4e00-\u9fff]")


class Answering(Protocol):
    """What can sit the exam: every `Chat` can."""

    def reply_batch(
        self, conversations: Sequence[Sequence[Message]], *, max_tokens: int, temperature: float, seed: int
    ) -> list[Completion]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamRow:
    """One question as it was answered. `ended`: the model ended its turn by itself."""

    kind: str
    language: str
    question: str
    expected: str
    answer: str
    right: bool
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamResult:
    """Shares of right answers by kind, by "kind language", and of turns ended; and every question, in the order asked."""

    by_kind: Mapping[str, Score]
    by_kind_and_language: Mapping[str, Score]
    ended: Score
    rows: tuple[ExamRow, ...]


def run_exam(chat: Answering, questions: Sequence[Question], *, progress: Progress) -> ExamResult:
    """Ask all questions, greedily, through the chat template, and grade the answers. An empty exam gives empty scores."""
    completions: list[Completion] = []
    for first in range(0, len(questions), BATCH):
        batch = [question.messages for question in questions[first : first + BATCH]]
        completions += chat.reply_batch(batch, max_tokens=MAX_ANSWER_TOKENS, temperature=0.0, seed=0)
        progress.update(len(completions), len(questions))
    rows = tuple(_row(question, answer) for question, answer in zip(questions, completions, strict=True))
    ended = sum(row.ended for row in rows)
    return ExamResult(
        by_kind=_scores(questions, rows, lambda question: question.kind),
        by_kind_and_language=_scores(questions, rows, lambda question: f"{question.kind} {question.language}"),
        ended=_score("turns ended", ended, len(rows), None),
        rows=rows,
    )


def grade_answer(grade: Grade, answer: str) -> bool:
    """Whether an answer is right by the rule of its question."""
    answer = answer.strip()
    match grade.rule:
        case "names":
            return _names(final_sentence(answer), grade.expected, grade.rivals)
        case "number":
            final = final_sentence(answer)
            numbers = re.findall(r"\d+", final)
            return sorted(numbers) == sorted(grade.expected) and not any(mentions(final, r) for r in grade.rivals)
        case "exact":
            return _plain(answer) == _plain(grade.expected[0])
        case "json":
            return _same_json(answer, grade.expected[0])
        case "ending":
            ending, *content = grade.expected
            body = _plain(answer)
            if not body.lower().endswith(ending.lower()):
                return False
            return _names(body[: -len(ending)], content, grade.rivals)


def final_sentence(answer: str) -> str:
    """The last sentence, or line, that says anything."""
    sentences = [sentence.strip() for sentence in _SENTENCE_END.split(answer)]
    return next((sentence for sentence in reversed(sentences) if sentence), "")


def _plain(answer: str) -> str:
    """The answer without differences that nobody would mind: trailing blanks, a full stop at the end."""
    lines = [" ".join(line.split()) for line in answer.strip().splitlines()]
    return "\n".join(lines).rstrip(".。 ")


def _same_json(answer: str, expected: str) -> bool:
    try:
        return json.loads(answer) == json.loads(expected)
    except (json.JSONDecodeError, RecursionError):
        return False


def _names(text: str, expected: Sequence[str], rivals: Sequence[str]) -> bool:
    return all(mentions(text, name) for name in expected) and not any(mentions(text, name) for name in rivals)


def mentions(text: str, name: str) -> bool:
    """Whether the name stands in the text: Chinese anywhere, everything else as whole words, in any case."""
    if _HAS_CHINESE.search(name):
        return name in text
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE | re.ASCII) is not None


def _row(question: Question, completion: Completion) -> ExamRow:
    return ExamRow(
        kind=question.kind,
        language=question.language,
        question=question.messages[-1].content,
        expected=question.answer,
        answer=completion.text,
        right=grade_answer(question.grade, completion.text),
        ended=completion.finish_reason == "stop",
    )


def _scores(questions: Sequence[Question], rows: Sequence[ExamRow], key: Callable[[Question], str]) -> dict[str, Score]:
    groups: dict[str, list[tuple[Question, ExamRow]]] = {}
    for question, row in zip(questions, rows, strict=True):
        groups.setdefault(key(question), []).append((question, row))
    return {
        name: _score(
            name, sum(row.right for _, row in members), len(members), sum(q.chance for q, _ in members) / len(members)
        )
        for name, members in groups.items()
    }


def _score(name: str, right: int, n: int, chance: float | None) -> Score:
    low, high = wilson(right, n)
    return Score(name=name, value=right / n if n else 0.0, low=low, high=high, n=n, unit="share", chance=chance)
