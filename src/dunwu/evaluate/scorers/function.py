"""A Python function of the user's as a scorer: `def NAME(prompts, completions, **columns) -> list[float | None]`, as TRL has them.

It runs in a process of its own, so that one that hangs can be left, and what it does to its process is no harm to ours. It is
the user's own code and may do whatever the user may: this is no sandbox.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dunwu.core.errors import DataError
from dunwu.core.rewards import FunctionReward
from dunwu.evaluate.scorers import function_worker
from dunwu.evaluate.scorers.base import NOT_APPLICABLE, Case, asked
from dunwu.evaluate.worker import Worker, WorkerEnded

RESERVED = ("prompts", "completions")


class FunctionScorer:
    """Calls the function once for all cases that come together.

    `prompts` and `completions` are texts (what was asked last, what was answered), or lists of messages where the
    specification says so; a column of the data comes by its name as a list, None where a row lacks it, and so do
    `completion_ids` and `finish_reason`. None in what it returns: it does not apply to that case.
    """

    def __init__(self, spec: FunctionReward, *, name: str = "function") -> None:
        """Raises DataError where the file cannot be loaded or has no such function."""
        self.spec, self.name = spec, name
        file, _, self.function = spec.path.rpartition(":")
        self.file = Path(file).expanduser().absolute()
        if not self.file.is_file():
            raise DataError(f"{self.file} does not exist; give FILE.py:NAME, such as rewards.py:brevity")
        self._worker = Worker(Path(function_worker.__file__), str(self.file), self.function)
        self._ask({"load": True}, "it is loaded")

    def __call__(self, cases: Sequence[Case]) -> list[float]:
        if not cases:
            return []
        found = self._ask(
            self._question(cases), f"the rows 1 to {len(cases)}, the first of which asks {asked(cases[0])}"
        )
        if "error" in found:
            raise self._failed(found["error"], cases, found.get("row"))
        scores = found["scores"]
        if len(scores) != len(cases):
            raise DataError(
                f"{self._said} gave {len(scores)} scores for {len(cases)} answers; return a list with one for each, and None "
                "where it does not apply"
            )
        return [self._score(score, cases, row) for row, score in enumerate(scores)]

    def close(self) -> None:
        """End the function's process."""
        self._worker.close()

    @property
    def _said(self) -> str:
        return f"the reward function {self.function!r} of {self.file.name}"

    def _question(self, cases: Sequence[Case]) -> dict[str, Any]:
        names = dict.fromkeys(name for case in cases for name in case.columns if name not in RESERVED)
        columns: dict[str, list[Any]] = {name: [case.columns.get(name) for case in cases] for name in names}
        columns["completion_ids"] = [list(case.completion.ids) for case in cases]
        columns["finish_reason"] = [case.completion.finish_reason for case in cases]
        if self.spec.messages:
            prompts: list[Any] = [[{"role": m.role, "content": m.content} for m in case.prompt] for case in cases]
            answers: list[Any] = [[{"role": "assistant", "content": case.completion.text}] for case in cases]
        else:
            prompts = [case.prompt[-1].content if case.prompt else "" for case in cases]
            answers = [case.completion.text for case in cases]
        return {"prompts": prompts, "completions": answers, "columns": columns}

    def _ask(self, question: dict[str, Any], what: str) -> dict[str, Any]:
        try:
            found = self._worker.ask(question, timeout_s=self.spec.timeout_s)
        except TimeoutError:
            raise DataError(
                f"{self._said} took longer than {self.spec.timeout_s:g} s on {what}, and was left; make it quicker, or give it "
                "more time with timeout_s"
            ) from None
        except WorkerEnded as ended:
            raise DataError(
                f"{self._said} ended its process with status {ended.status} on {what}; it must return its scores, and neither "
                "exit nor crash (a status below 0 is a signal: -9 is often a lack of memory)"
            ) from None
        except (TypeError, ValueError) as error:
            raise DataError(
                f"a column cannot be given to {self._said}: {error}; leave out what JSON has no word for"
            ) from error
        if "error" in found and "load" in question:
            raise DataError(f"{self._said} cannot be loaded: {found['error']}; mend {self.file}")
        return found

    def _failed(self, error: str, cases: Sequence[Case], row: int | None) -> DataError:
        if row is None:
            return DataError(f"{self._said} failed: {error}; mend it in {self.file}")
        return DataError(
            f"{self._said} failed on row {row + 1} of {len(cases)}, {asked(cases[row])}, answered "
            f"{cases[row].completion.text[:60]!r}: {error}; mend it in {self.file}, or return None where it does not apply"
        )

    def _score(self, score: Any, cases: Sequence[Case], row: int) -> float:
        if score is None:
            return NOT_APPLICABLE
        if isinstance(score, float) and math.isfinite(score):
            return score
        said = score["not"] if isinstance(score, dict) else repr(score)
        raise DataError(
            f"{self._said} gave {said} for row {row + 1} of {len(cases)}, {asked(cases[row])}; "
            "return a finite number, or None where it does not apply"
        )
