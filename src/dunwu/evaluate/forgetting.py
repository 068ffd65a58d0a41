"""Gain and forgetting: what going on from a base did to text of the domain, to general text and to the exam.

Every figure is taken before (the base) and after, on the same documents and questions, and compared pair by pair. Bits are
per byte of text, so that a vocabulary that grew changes nothing about what is compared.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dunwu.core.errors import DataError
from dunwu.core.files import read_json, write_json
from dunwu.core.nulls import with_nans, with_nulls
from dunwu.core.records import Score
from dunwu.evaluate.likelihood import BitsResult
from dunwu.evaluate.results import ExamAnswers, exam_scores
from dunwu.evaluate.stats import PairedDifference, holm, paired_proportions, paired_ratio_difference

BASE = "base"
DOMAIN, GENERAL, EXAM = "domain", "general", "exam."
ALPHA = 0.05

Direction = Literal["better", "worse", "same"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorecardRow:
    """One figure of one stage beside the base's: "domain" and "general" in bits/byte, "exam.KIND" in shares.

    `change` is after minus before over the same documents or questions; p-values of the exam's kinds are adjusted (Holm).
    """

    figure: str
    stage: str
    before: Score
    after: Score
    change: PairedDifference

    @property
    def direction(self) -> Direction:
        """Better or worse, where the interval of the change leaves no doubt (for an exam's kind its p-value)."""
        change = self.change
        clear = change.p_value < ALPHA if self.figure.startswith(EXAM) else not change.low <= 0.0 <= change.high
        if not clear or not math.isfinite(change.low):
            return "same"
        more_is_better = self.figure.startswith(EXAM)
        return "better" if (change.value > 0) == more_is_better else "worse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """All rows, stage by stage, of a build that went on from `base`."""

    base: str
    rows: tuple[ScorecardRow, ...]


def make_scorecard(
    base: str,
    domain: Mapping[str, BitsResult],
    general: Mapping[str, BitsResult],
    exams: Mapping[str, ExamAnswers],
) -> Scorecard:
    """Compare every later stage with "base". Each mapping is by stage; what the base has not got is left out."""
    rows: list[ScorecardRow] = []
    for stage in dict.fromkeys([*domain, *general, *exams]):
        if stage == BASE:
            continue
        for figure, bits in ((DOMAIN, domain), (GENERAL, general)):
            if BASE in bits and stage in bits:
                rows.append(_bits_row(figure, stage, bits[BASE], bits[stage]))
        if BASE in exams and stage in exams:
            rows += _exam_rows(stage, exams[BASE], exams[stage])
    return Scorecard(base=base, rows=tuple(rows))


def _bits_row(figure: str, stage: str, before: BitsResult, after: BitsResult) -> ScorecardRow:
    if [row.source for row in before.documents] != [row.source for row in after.documents]:
        raise DataError(f"{figure}: {BASE} and {stage} were measured on different documents; measure both again")
    change = paired_ratio_difference(
        [row.bits for row in before.documents],
        [row.bits for row in after.documents],
        [row.bytes for row in before.documents],
    )
    return ScorecardRow(figure=figure, stage=stage, before=before.score, after=after.score, change=change)


def _exam_rows(stage: str, before: ExamAnswers, after: ExamAnswers) -> list[ScorecardRow]:
    if [row.question for row in before.rows] != [row.question for row in after.rows]:
        raise DataError(f"the exams of {BASE} and {stage} ask different questions; run both with the same seed")
    scores = [{row.kind: row.score for row in exam_scores(exam)} for exam in (before, after)]
    right = [{kind: [r.right for r in exam.rows if r.kind == kind] for kind in exam.kinds} for exam in (before, after)]
    changes = {kind: paired_proportions(right[0][kind], right[1][kind]) for kind in before.kinds}
    adjusted = holm([change.p_value for change in changes.values()])
    return [
        ScorecardRow(
            figure=EXAM + kind,
            stage=stage,
            before=scores[0][kind],
            after=scores[1][kind],
            change=change._replace(p_value=p_value),
        )
        for (kind, change), p_value in zip(changes.items(), adjusted, strict=True)
    ]


def scorecard_facts(scorecard: Scorecard) -> list[dict[str, Any]]:
    """The rows as plain values, for `dunwu.json`."""
    return [
        {
            "figure": row.figure,
            "stage": row.stage,
            "unit": row.after.unit,
            "before": row.before.value,
            "after": row.after.value,
            "change": row.change.value,
            "low": with_nulls(row.change.low),
            "high": with_nulls(row.change.high),
            "p_value": with_nulls(row.change.p_value),
            "n": row.change.n,
            "direction": row.direction,
        }
        for row in scorecard.rows
    ]


def scorecard_lines(scorecard: Scorecard) -> list[str]:
    """The scorecard for a terminal, a line a figure."""
    lines = [f"gain and forgetting, against {scorecard.base} (change with its 95% interval):"]
    names = {DOMAIN: "domain, bits/byte", GENERAL: "general, bits/byte"}
    for row in scorecard.rows:
        name = names.get(row.figure, row.figure.replace(EXAM, "exam, ") + ", share")
        change = row.change
        limits = f" [{change.low:+.3f}, {change.high:+.3f}]" if math.isfinite(change.low) else ""
        verdict = {"better": "better", "worse": "worse", "same": "no clear change"}[row.direction]
        lines.append(
            f"  {row.stage:<9} {name:<20} {row.before.value:.3f} → {row.after.value:.3f}  "
            f"{change.value:+.3f}{limits}  n={change.n}  {verdict}"
        )
    return lines


def write_scorecard(path: Path, scorecard: Scorecard) -> None:
    """Write `scorecard.json`, atomically."""
    rows = [{**asdict(row), "change": row.change._asdict()} for row in scorecard.rows]
    write_json(path, {"base": scorecard.base, "rows": with_nulls(rows)})


def read_scorecard(path: Path) -> Scorecard:
    """Read what `write_scorecard` wrote. Raises DataError when it is missing or damaged."""
    data = read_json(path)
    try:
        return Scorecard(base=data["base"], rows=tuple(_row(row) for row in data["rows"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} does not hold a scorecard ({error}); remove it and run the build again") from error


def _row(data: Mapping[str, Any]) -> ScorecardRow:
    before, after = (Score(**with_nans(data[side], "value", "low", "high")) for side in ("before", "after"))
    change = PairedDifference(**with_nans(data["change"], "value", "low", "high", "p_value"))
    return ScorecardRow(figure=data["figure"], stage=data["stage"], before=before, after=after, change=change)
