"""The grade of the small world's exam as a score: 1 where the answer is right by its question's own rule."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from dunwu.core.errors import DataError
from dunwu.core.rewards import WorldReward
from dunwu.corpus.world import Grade
from dunwu.evaluate.exam import grade_answer
from dunwu.evaluate.scorers.base import Case, asked, column


class WorldScorer:
    """Reads the column `spec.grade`: a `Grade`, or the object that stands for one."""

    def __init__(self, spec: WorldReward, *, name: str = "world") -> None:
        self.spec, self.name = spec, name

    def __call__(self, cases: Sequence[Case]) -> list[float]:
        return [float(grade_answer(grade_of(case, self.spec.grade, self.name), case.completion.text)) for case in cases]


def grade_of(case: Case, key: str, name: str) -> Grade:
    """The grade in a column of a row, for the scorer `name`. Raises DataError where it holds none."""
    value = column(case, key, name)
    if isinstance(value, Grade):
        return value
    try:
        found = cast("Mapping[str, Any]", value)
        grade = Grade(rule=found["rule"], expected=tuple(found["expected"]), rivals=tuple(found.get("rivals") or ()))
    except (TypeError, KeyError, AttributeError):
        grade = None
    if grade is None or grade.rule not in ("names", "number", "exact", "json", "ending") or not grade.expected:
        raise DataError(
            f"the column {key!r} of {asked(case)} is no grade: {str(value)[:60]!r}; "
            'write {"rule": …, "expected": […], "rivals": […]} as the small world does'
        )
    return grade
