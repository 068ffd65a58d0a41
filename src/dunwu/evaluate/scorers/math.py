"""1 where the final answer of a text equals that of the row as a value, 0 otherwise.

By our own exact fractions; with `compare: math_verify` also whatever that library, which understands algebra, holds equal. It
runs in a process of its own: an expression that would take it for ever is left, and counts as wrong.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from dunwu.core.errors import DataError, MissingExtraError
from dunwu.core.final_answer import final_answer, same_answer
from dunwu.core.rewards import MathReward
from dunwu.evaluate.scorers import math_worker
from dunwu.evaluate.scorers.base import Case, asked, column
from dunwu.evaluate.worker import Worker, WorkerEnded

COMPARE_S = 10.0  # for one pair of expressions, the start of the process included


class MathScorer:
    """Reads the column `spec.answer`: a number, or text whose own final answer is taken."""

    def __init__(self, spec: MathReward, *, name: str = "math") -> None:
        """Raises MissingExtraError where a library is asked for and not installed."""
        self.spec, self.name = spec, name
        self._worker: Worker | None = None
        if spec.compare == "math_verify":
            if importlib.util.find_spec("math_verify") is None:
                raise MissingExtraError("math-verify", "rewards", "a math reward with compare=math_verify")
            self._worker = Worker(Path(math_worker.__file__))

    def __call__(self, cases: Sequence[Case]) -> list[float]:
        return [float(self._is_right(case)) for case in cases]

    def _is_right(self, case: Case) -> bool:
        gold = self._gold(case)
        said = final_answer(case.completion.text, last_number=self.spec.last_number)
        if said is None:
            return False
        return same_answer(said, gold) or self._same_by_library(said, gold)

    def _gold(self, case: Case) -> str:
        value = column(case, self.spec.answer, self.name)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DataError(
                f"the column {self.spec.answer!r} of {asked(case)} is a {type(value).__name__}, {str(value)[:60]!r}; the "
                "reward math needs a number, or text with one"
            )
        text = str(value).strip()
        return final_answer(text, last_number=False) or text

    def _same_by_library(self, said: str, gold: str) -> bool:
        if self._worker is None:
            return False
        try:
            return bool(self._worker.ask({"gold": gold, "said": said}, timeout_s=COMPARE_S)["same"])
        except (TimeoutError, WorkerEnded):
            return False
