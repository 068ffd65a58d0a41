"""What is kept of what a model made: the rules, likeness to what was kept before, the evaluation files; and a count of each reason."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dunwu.corpus.decontaminate import ExamIndex, contaminated_spans
from dunwu.corpus.dedup import text_hash
from dunwu.corpus.measure import lexemes
from dunwu.prompt.making.rules import Candidate, Method, broken_rule
from dunwu.prompt.making.similar import Questions, Sketches

SIMILAR_QUESTION: Mapping[Method, float] = {"self-instruct": 0.7, "unnatural": 0.7, "evolve": 0.7, "qa": 0.9}
"""ROUGE-L. "What does the lamp cost?" and "What does the bag cost?" are two questions on documents: 0.8."""
SIMILAR_ROW = 0.8
SAMPLES = 3  # of each reason
_SHOWN_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Sample:
    """One row that was dropped, for whoever wants to know what a rule does."""

    question: str
    answer: str
    source: str


class Sieve:
    """Judges candidates in the order in which they come; what is kept is compared with what comes later.

    `dropped` counts reasons, `samples` has the first few of each, `kept` counts what became a row.
    """

    def __init__(self, method: Method, *, similar: float | None = None, exam: ExamIndex | None = None) -> None:
        self.method: Method = method
        self.dropped: Counter[str] = Counter()
        self.samples: dict[str, list[Sample]] = {}
        self.kept = 0
        self._questions = Questions(
            SIMILAR_QUESTION[method] if similar is None else similar, numbers_tell=method == "qa"
        )
        self._rows = Sketches(SIMILAR_ROW)
        self._hashes: set[bytes] = set()
        self._exam = exam

    def know(self, questions: Sequence[tuple[str, str | None]]) -> None:
        """Questions that were there before (text, family): what is like them is no news."""
        for question, family in questions:
            self._questions.add(question, family)

    def takes_question(self, candidate: Candidate) -> bool:
        """Whether the question alone will do, so that it is worth asking for its answer. Nothing is remembered of it."""
        return self._passes(candidate, self._question_fault(candidate))

    def takes_new_question(self, candidate: Candidate) -> bool:
        """The same, and from now on it is known: others like it are dropped, whatever becomes of its answer."""
        taken = self.takes_question(candidate)
        if taken:
            self._questions.add(candidate.question, candidate.family)
        return taken

    def takes(self, candidate: Candidate, *, question_is_known: bool = False) -> bool:
        """Whether this becomes a row; it is then known. `question_is_known`: `takes_new_question` took it before."""
        fault = None if question_is_known else self._question_fault(candidate)
        fault = fault or broken_rule(candidate, self.method, "answer") or self._row_fault(candidate)
        taken = self._passes(candidate, fault)
        if taken:
            self.kept += 1
            self._hashes.add(text_hash(_row_text(candidate)))
            self._rows.add(_row_text(candidate), candidate.family)
            if not question_is_known:
                self._questions.add(candidate.question, candidate.family)
        return taken

    def answer_fault(self, candidate: Candidate) -> str | None:
        """What is wrong with the answer, by the rules alone."""
        return broken_rule(candidate, self.method, "answer")

    def drop(self, reason: str, candidate: Candidate) -> None:
        """Count a candidate that is dropped for a reason which only the caller can see."""
        self.count(reason, candidate.question, candidate.answer, str(candidate.provenance.get("request", "")))

    def count(self, reason: str, question: str = "", answer: str = "", source: str = "") -> None:
        """Count what did not even become a candidate."""
        self.dropped[reason] += 1
        kept = self.samples.setdefault(reason, [])
        if len(kept) < SAMPLES:
            kept.append(Sample(question[:_SHOWN_CHARACTERS], answer[:_SHOWN_CHARACTERS], source))

    def _passes(self, candidate: Candidate, fault: str | None) -> bool:
        if fault is not None:
            self.drop(fault, candidate)
        return fault is None

    def _question_fault(self, candidate: Candidate) -> str | None:
        if (fault := broken_rule(candidate, self.method, "question")) is not None:
            return fault
        if self._questions.like(candidate.question, candidate.family):
            return "near_duplicate_question"
        return "decontaminated" if self._is_in_exam(candidate.question) else None

    def _row_fault(self, candidate: Candidate) -> str | None:
        text = _row_text(candidate)
        if text_hash(text) in self._hashes or self._rows.like(text, candidate.family):
            return "near_duplicate_row"
        return (
            "decontaminated"
            if self._is_in_exam(f"{candidate.shown or candidate.question}\n{candidate.answer}")
            else None
        )

    def _is_in_exam(self, text: str) -> bool:
        return self._exam is not None and bool(contaminated_spans(lexemes(text), self._exam))


def _row_text(candidate: Candidate) -> str:
    return f"{candidate.question}\n{candidate.answer}"


def as_json(samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """For the summary."""
    return {
        reason: [{"question": one.question, "answer": one.answer, "from": one.source} for one in some]
        for reason, some in samples.items()
    }
