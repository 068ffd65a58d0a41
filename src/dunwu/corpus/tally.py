"""What became of the rows of a source: those that were kept, and why others were not."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from dunwu.core.errors import DataError
from dunwu.corpus.json_rows import BadRow

PROBLEMS_KEPT = 20


class RowTally:
    """`kept`: rows that gave something. `formats`: the format found, by file. `dropped`: rows by reason. `not_wanted`: sound rows
    that say nothing here, by what they hold. `problems`: the first few bad rows as "file, line 7: why"."""

    def __init__(self, *, bad_rows: Literal["drop", "refuse"]) -> None:
        self._bad_rows = bad_rows
        self.forget()

    def forget(self) -> None:
        """Nothing was read yet."""
        self.kept = 0
        self.formats: dict[str, str] = {}
        self.dropped: Counter[str] = Counter()
        self.not_wanted: Counter[str] = Counter()
        self.problems: list[str] = []

    def drop(self, bad: BadRow, place: str) -> None:
        """Count a row that cannot be used, or raise DataError where the source refuses such rows."""
        problem = f"{place}: {bad}"
        if self._bad_rows == "refuse":
            raise DataError(f"{problem}; mend the row, or set bad_rows=drop to go on without it")
        self.dropped[bad.reason] += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(problem)


def tally_facts(readers: Sequence[RowTally]) -> dict[str, Any]:
    """Of several sources, as plain values: `bad_rows` by reason, and the `first_bad_rows`."""
    return {
        "bad_rows": dict(sum((reader.dropped for reader in readers), Counter[str]())),
        "first_bad_rows": [problem for reader in readers for problem in reader.problems][:PROBLEMS_KEPT],
    }
