"""`dunwu reward score`: rows with the scores that a reward model gives their answers."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, cast

from dunwu.align.reward.scorer import RewardModelScorer
from dunwu.core.devices import pick_device, prepare_cpu
from dunwu.core.errors import DataError
from dunwu.core.files import atomic_write
from dunwu.core.records import Completion
from dunwu.core.screen import harmless
from dunwu.corpus.answered import Answered, answers_in
from dunwu.corpus.instructions import row_files
from dunwu.corpus.json_rows import BadRow, JsonRow, json_rows
from dunwu.evaluate.scorers.base import Case
from dunwu.evaluate.stats import wilson

ROWS_AT_ONCE = 64
Row = dict[str, Any]


def score(models: Sequence[Path], file: Path, *, out: Path | None) -> None:
    """Write each row of a file with its scores, and say how it went. Raises DataError where no row could be scored."""
    prepare_cpu()
    scorer = RewardModelScorer.load(tuple(models), device=pick_device())
    rows = (row for path in row_files(file, "FILE") for row in json_rows(path))
    counted = _Counted()
    with atomic_write(out) if out is not None else nullcontext(sys.stdout.buffer) as to:
        while batch := list(islice(rows, ROWS_AT_ONCE)):
            for scored in _scored(scorer, batch, counted):
                to.write((json.dumps(scored, ensure_ascii=False) + "\n").encode("utf-8", errors="replace"))
            to.flush()
        if not counted.scored:
            raise DataError(
                f"{file}: none of the rows could be scored; first: {counted.first or 'the file has no rows'}"
            )
    print(harmless(counted.said(out)), file=sys.stderr)


class _Counted:
    """What became of the rows."""

    def __init__(self) -> None:
        self.scored = self.left = self.pairs = self.right = 0
        self.first = ""

    def leave(self, place: str, why: str) -> None:
        """Count a row that has no score."""
        self.left += 1
        self.first = self.first or f"{place}: {why}"

    def add(self, row: Row) -> None:
        """Count a row with its scores."""
        self.scored += 1
        if "chosen_score" in row and not row.get("tie"):
            self.pairs += 1
            self.right += row["chosen_score"] > row["rejected_score"]

    def said(self, out: Path | None) -> str:
        """In a few words."""
        parts = [f"{self.scored:,} rows scored{'' if out is None else f', in {out}'}"]
        if self.left:
            parts.append(f"{self.left:,} left without a score (score: null); first: {self.first}")
        if self.pairs:
            low, high = wilson(self.right, self.pairs)
            parts.append(
                f"the chosen answer has the higher score in {self.right / self.pairs:.1%} [{low:.1%}, {high:.1%}] of "
                f"{self.pairs:,} pairs"
            )
        return "; ".join(parts)


def _scored(scorer: RewardModelScorer, rows: Sequence[JsonRow], counted: _Counted) -> Iterator[Row]:
    """The rows in their order, each with its scores."""
    found = [_answers(row, counted) for row in rows]
    cases = [_case(one) for answers in found for one in answers]
    scores = iter(_each(scorer, cases))
    for row, answers in zip(rows, found, strict=True):
        values = cast(Row, row.value) if isinstance(row.value, dict) else {"row": None}
        given = [(one.key, next(scores)) for one in answers]
        bad = next((value for _, value in given if isinstance(value, str)), None)
        if bad is not None:
            counted.leave(row.place, bad)
        if bad is not None or not given:
            yield {**values, "score": None}
            continue
        several = {key: [value for other, value in given if other == key] for key, _ in given}
        done = {**values, **{key: many if key == "scores" else many[0] for key, many in several.items()}}
        counted.add(done)
        yield done


def _each(scorer: RewardModelScorer, cases: Sequence[Case]) -> list[float | str]:
    """A score each, or why there is none: a case that cannot be read costs the others nothing."""
    try:
        return list(scorer(cases))
    except DataError as error:
        if len(cases) == 1:
            return [str(error)]
        return [value for case in cases for value in _each(scorer, [case])]


def _answers(row: JsonRow, counted: _Counted) -> list[Answered]:
    try:
        if isinstance(row.value, BadRow):
            raise row.value
        if not isinstance(row.value, dict):
            raise BadRow("is no object", f"it is a {type(row.value).__name__}")
        return answers_in(cast(Row, row.value))
    except BadRow as bad:
        counted.leave(row.place, str(bad))
        return []


def _case(one: Answered) -> Case:
    answer = Completion(text=one.answer.content, ids=(), finish_reason="stop", tool_calls=one.answer.tool_calls)
    return Case(prompt=one.prompt, completion=answer, columns={})
