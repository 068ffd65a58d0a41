"""Rows of a .csv or .tsv file, also .gz and .zst, as objects by the names of its header; a broken row comes as a `BadRow` value."""

import csv
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from dunwu.core.errors import DataError
from dunwu.corpus.json_rows import BROKEN_STREAM, ROW_CHARACTERS, BadRow, JsonRow, is_unicode, open_text


def is_table_file(path: Path) -> bool:
    """Whether the name ends in .csv or .tsv, perhaps followed by .gz or .zst."""
    return path.name.lower().removesuffix(".gz").removesuffix(".zst").endswith((".csv", ".tsv"))


def table_rows(path: Path, columns: Sequence[str] = ()) -> Iterator[JsonRow]:
    """The rows of a table, all values as text; the first line names the columns, and empty lines are no rows.

    `columns`: names, where the table has no such line; then commas part a .csv file's values.

    Raises DataError when the file is damaged or is no table.
    """
    csv.field_size_limit(ROW_CHARACTERS)
    number = 0
    try:
        with open_text(path) as file:
            first = file.readline(ROW_CHARACTERS)
            delimiter = _delimiter(path, first, headed=not columns)
            rows = csv.reader(chain([first], file), delimiter=delimiter, strict=True)
            header = list(columns) or [name.strip() for name in next(rows, [])]
            for values in rows:
                if not values:
                    continue
                number += 1
                yield JsonRow(_row(header, values), number, f"line {rows.line_num}")
    except csv.Error as error:
        raise DataError(f"{path} is no readable table after row {number}: {error}; mend the quotes") from error
    except BROKEN_STREAM as error:
        raise DataError(f"{path} is damaged or cut short after row {number} ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check its permissions") from error


def _delimiter(path: Path, first: str, *, headed: bool) -> str:
    tabs = path.name.lower().removesuffix(".gz").removesuffix(".zst").endswith(".tsv") and "\t" in first
    return "\t" if tabs else max(",;\t|", key=first.count) if headed else ","


def _row(header: list[str], values: list[str]) -> dict[str, str] | BadRow:
    if len(values) != len(header):
        named = f"{len(values)} where {len(header)} are named ({', '.join(header)})"
        return BadRow("has not the columns of the header", named)
    if not all(map(is_unicode, values)):
        return BadRow("is not UTF-8")
    return dict(zip(header, values, strict=True))
