"""`evaluation.json`: what was measured, on what, with its intervals; written by the evaluate stage, read by the report.

A figure without an interval (one compressed stream, a single document) has null bounds in the file and nan in memory.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dunwu.core.errors import DataError
from dunwu.core.files import read_json, write_json
from dunwu.core.nulls import with_nans, with_nulls
from dunwu.core.records import Score
from dunwu.corpus.world import Question
from dunwu.evaluate.baselines import Baseline
from dunwu.evaluate.exam import ExamResult, ExamRow
from dunwu.evaluate.heldout import ChosenText
from dunwu.evaluate.likelihood import BitsResult, DocumentBits
from dunwu.evaluate.samples import Sample
from dunwu.evaluate.stats import above_chance, holm, paired_proportions, paired_ratio_difference, wilson

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldoutFacts:
    """How much held-out text there is, and how much of it was scored."""

    documents: int
    documents_total: int
    bytes: int
    bytes_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamAnswers:
    """One model's exam, question by question, with the chance of guessing each."""

    rows: tuple[ExamRow, ...]
    chances: tuple[float, ...]

    @classmethod
    def of(cls, questions: Sequence[Question], result: ExamResult) -> "ExamAnswers":
        """The answers in `result` to `questions`."""
        return cls(rows=result.rows, chances=tuple(question.chance for question in questions))

    @property
    def kinds(self) -> list[str]:
        """The kinds of question, in the order in which they first occur."""
        return list(dict.fromkeys(row.kind for row in self.rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class KindScore:
    """Share of one kind of question answered right; `p_above_chance` is adjusted for the number of kinds (Holm)."""

    kind: str
    score: Score
    p_above_chance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelScores:
    """What one stage's model reached. Any part may be absent."""

    stage: str
    bits_per_byte: Score | None = None
    by_language: tuple[Score, ...] = ()
    documents: tuple[DocumentBits, ...] = ()
    exam: tuple[KindScore, ...] = ()
    exam_by_language: tuple[Score, ...] = ()
    examples: tuple[ExamRow, ...] = ()
    ended_turns: Score | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineScore:
    """A baseline on the same held-out text, and how much of the training text it was given."""

    key: str
    score: Score
    train_bytes: int
    train_bytes_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`after` minus `before` on the same cases: documents for "bits_per_byte", questions for "exam.KIND".

    p-values are two-sided; those of one exam are adjusted for the number of kinds (Holm).
    """

    figure: str
    before: str
    after: str
    value: float
    low: float
    high: float
    n: int
    p_value: float
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The contents of `evaluation.json`."""

    heldout: HeldoutFacts | None = None
    models: tuple[ModelScores, ...] = ()
    baselines: tuple[BaselineScore, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    samples: tuple[Sample, ...] = ()


def gather(
    *,
    text: ChosenText | None,
    bits: Mapping[str, BitsResult],
    exams: Mapping[str, ExamAnswers],
    baselines: Sequence[Baseline] = (),
    samples: Sequence[Sample] = (),
) -> Evaluation:
    """Put all measurements together and compare what can be compared.

    `bits` and `exams` are by stage, in the order of the build; all are on the same text and the same questions. Compared are
    each stage with the one before it, and each stage's bits with each baseline that has documents.
    """
    stages = list(dict.fromkeys([*bits, *exams]))
    return Evaluation(
        heldout=None if text is None else _heldout_facts(text),
        models=tuple(_model_scores(stage, bits.get(stage), exams.get(stage)) for stage in stages),
        baselines=tuple(
            BaselineScore(key=b.key, score=b.score, train_bytes=b.train_bytes, train_bytes_total=b.train_bytes_total)
            for b in baselines
        ),
        comparisons=(*_bits_comparisons(bits, baselines), *_exam_comparisons(exams)),
        samples=tuple(samples),
    )


def _heldout_facts(text: ChosenText) -> HeldoutFacts:
    return HeldoutFacts(
        documents=text.documents,
        documents_total=text.documents_total,
        bytes=text.bytes,
        bytes_total=text.bytes_total,
    )


def _model_scores(stage: str, bits: BitsResult | None, exam: ExamAnswers | None) -> ModelScores:
    return ModelScores(
        stage=stage,
        bits_per_byte=None if bits is None else bits.score,
        by_language=() if bits is None else bits.by_language,
        documents=() if bits is None else bits.documents,
        exam=() if exam is None else exam_scores(exam),
        exam_by_language=() if exam is None else _exam_by_language(exam),
        examples=() if exam is None else _examples(exam),
        ended_turns=None if exam is None else _share("ended_turns", [row.ended for row in exam.rows]),
    )


def exam_scores(exam: ExamAnswers) -> tuple[KindScore, ...]:
    """Each kind's share right with Wilson's interval, its mean chance, and the exact p-value of more than guessing."""
    groups = _grouped(exam, lambda row: row.kind)
    tails = [
        above_chance(sum(right for right, _ in group), [chance for _, chance in group]) for group in groups.values()
    ]
    return tuple(
        KindScore(kind=kind, score=_answered(f"exam.{kind}", group), p_above_chance=p_value)
        for (kind, group), p_value in zip(groups.items(), holm(tails), strict=True)
    )


def _exam_by_language(exam: ExamAnswers) -> tuple[Score, ...]:
    groups = _grouped(exam, lambda row: f"exam.{row.kind}.{row.language}")
    return tuple(_answered(name, group) for name, group in groups.items())


def _grouped(exam: ExamAnswers, key: Callable[[ExamRow], str]) -> dict[str, list[tuple[bool, float]]]:
    groups: dict[str, list[tuple[bool, float]]] = {}
    for row, chance in zip(exam.rows, exam.chances, strict=True):
        groups.setdefault(key(row), []).append((row.right, chance))
    return groups


def _answered(name: str, group: Sequence[tuple[bool, float]]) -> Score:
    chance = sum(chance for _, chance in group) / len(group)
    return _share(name, [right for right, _ in group], chance=chance)


def _examples(exam: ExamAnswers) -> tuple[ExamRow, ...]:
    """Of each kind the first answer that is right and the first that is wrong, where there are such."""
    firsts: dict[tuple[str, bool], ExamRow] = {}
    for row in exam.rows:
        firsts.setdefault((row.kind, row.right), row)
    return tuple(firsts[key] for key in sorted(firsts, key=lambda key: (exam.kinds.index(key[0]), not key[1])))


def _share(name: str, outcomes: Sequence[bool], *, chance: float | None = None) -> Score:
    n, k = len(outcomes), sum(outcomes)
    low, high = wilson(k, n)
    return Score(name=name, value=k / n if n else math.nan, low=low, high=high, n=n, unit="share", chance=chance)


def _bits_comparisons(bits: Mapping[str, BitsResult], baselines: Sequence[Baseline]) -> list[Comparison]:
    rivals = {baseline.key: list(baseline.document_bits) for baseline in baselines if baseline.document_bits}
    found: list[Comparison] = []
    for stage, result in bits.items():
        own = [row.bits for row in result.documents]
        sizes = [row.bytes for row in result.documents]
        for rival, theirs in rivals.items():
            change = paired_ratio_difference(theirs, own, sizes)
            found.append(
                Comparison(figure="bits_per_byte", before=rival, after=stage, unit="bits/byte", **change._asdict())
            )
        rivals = {**rivals, stage: own}
    return found


def _exam_comparisons(exams: Mapping[str, ExamAnswers]) -> list[Comparison]:
    found: list[Comparison] = []
    stages = list(exams)
    for before, after in itertools.pairwise(stages):
        first, second = exams[before].rows, exams[after].rows
        if [row.question for row in first] != [row.question for row in second]:
            raise DataError(f"the exams of {before} and {after} ask different questions; run both with the same seed")
        changes = {
            kind: paired_proportions(
                [row.right for row in first if row.kind == kind], [row.right for row in second if row.kind == kind]
            )
            for kind in exams[before].kinds
        }
        adjusted = holm([change.p_value for change in changes.values()])
        for (kind, change), p_value in zip(changes.items(), adjusted, strict=True):
            values = {**change._asdict(), "p_value": p_value}
            found.append(Comparison(figure=f"exam.{kind}", before=before, after=after, unit="share", **values))
    return found


# ----------------------------------------------------------------------------------------------------- file


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write `evaluation.json`, atomically."""
    write_json(path, {"format": FORMAT, **with_nulls(asdict(evaluation))})


def read_evaluation(path: Path) -> Evaluation:
    """Read what `write_evaluation` wrote. Raises DataError when the file is missing, damaged or of another format."""
    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise DataError(f"{path} is not an evaluation of format {FORMAT}; remove it and run the build again")
    try:
        return Evaluation(
            heldout=None if data["heldout"] is None else HeldoutFacts(**data["heldout"]),
            models=tuple(_model(model) for model in data["models"]),
            baselines=tuple(BaselineScore(**{**row, "score": _score(row["score"])}) for row in data["baselines"]),
            comparisons=tuple(
                Comparison(**with_nans(row, "value", "low", "high", "p_value")) for row in data["comparisons"]
            ),
            samples=tuple(Sample(**row) for row in data["samples"]),
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} does not hold an evaluation ({error}); remove it and run the build again") from error


def _model(data: Mapping[str, Any]) -> ModelScores:
    return ModelScores(
        stage=data["stage"],
        bits_per_byte=_optional_score(data["bits_per_byte"]),
        by_language=tuple(_score(row) for row in data["by_language"]),
        documents=tuple(DocumentBits(**row) for row in data["documents"]),
        exam=tuple(KindScore(**{**row, "score": _score(row["score"])}) for row in data["exam"]),
        exam_by_language=tuple(_score(row) for row in data["exam_by_language"]),
        examples=tuple(ExamRow(**row) for row in data["examples"]),
        ended_turns=_optional_score(data["ended_turns"]),
    )


def _optional_score(data: Mapping[str, Any] | None) -> Score | None:
    return None if data is None else _score(data)


def _score(data: Mapping[str, Any]) -> Score:
    return Score(**with_nans(data, "value", "low", "high"))
