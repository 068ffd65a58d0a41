"""A .csv or .tsv file as people write such tables: cells under names, whatever their case and signs."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dunwu.core.errors import DataError

SHOWN = 10


@dataclass(frozen=True, slots=True)
class Sheet:
    """Names of columns, and rows with the line of the file where each stands."""

    path: Path
    head: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]

    def find(self, what: str, usual: Sequence[str], given: str | None = None) -> int | None:
        """A column: the one given, else the first of the usual names, else None. Raises DataError where the given one is not there."""
        if given is not None:
            if given not in self.head:
                raise DataError(f"{self.path} has no column {given!r} for {what}; it has {', '.join(self.head)}")
            return self.head.index(given)
        plain = [plain_name(name) for name in self.head]
        return next((plain.index(name) for name in usual if name in plain), None)

    def lacks(self, what: str, option: str) -> DataError:
        """What to say where a column that is needed is not there."""
        return DataError(
            f"{self.path} has no column for {what} (it has {', '.join(self.head)}); name it with {option}=COLUMN"
        )

    def cell(self, number: int, row: Sequence[str], column: int | None) -> str:
        """A cell's text; empty for no column. Raises DataError where the row is too short."""
        if column is None:
            return ""
        if len(row) <= column:
            raise DataError(f"{self.path}, line {number}: {len(row)} cells and {len(self.head)} columns; mend the row")
        return row[column].strip()

    def value(self, number: int, row: Sequence[str], column: int, read: Callable[[str], float]) -> float:
        """A cell by `read`. Raises DataError naming line, column and value."""
        text = self.cell(number, row, column)
        try:
            return read(text)
        except ValueError as error:
            raise DataError(f"{self.path}, line {number}: {self.head[column]}={row[column]!r}: {error}") from error


def read_sheet(path: Path) -> Sheet:
    """A file with a line of names and at least one more. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path} is no file; give a table of runs with a size, tokens or FLOPs, and a loss")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}); save the table as UTF-8 .csv or .tsv") from error
    lines = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",")
    try:
        rows = [(lines.line_num, tuple(row)) for row in lines if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f"{path}, line {lines.line_num}: {error}; write a plain table") from error
    if len(rows) < 2:
        raise DataError(f"{path} holds no runs; its first line names columns, and a line follows for each run")
    return Sheet(path, tuple(name.strip() for name in rows[0][1]), tuple(rows[1:]))


def plain_name(name: str) -> str:
    """Small letters alone."""
    return re.sub(r"[^a-z]", "", name.lower())


def left_out(lines: Sequence[int] | Iterable[int]) -> str:
    """Which rows were left out, for the report."""
    numbers = list(lines)
    shown = ", ".join(map(str, numbers[:SHOWN])) + (" …" if len(numbers) > SHOWN else "")
    return f"left out {len(numbers)} rows without finite numbers: lines {shown}"
