"""Rows of a task's files (.json .jsonl .csv .tsv .parquet, also .gz), each with the place that errors name.

A .txt file holds solved problems as papers print them: paragraphs that begin with "Q:" and have an "A:", of fields `input` and
`target`; what stands before the first is no row.
"""

import contextlib
import gzip
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dunwu.core.errors import DataError, MissingExtraError
from dunwu.corpus.json_rows import BROKEN_STREAM, ROW_CHARACTERS, BadRow, JsonRow, json_rows, open_text
from dunwu.corpus.table_rows import table_rows

ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt")


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One row. `place`: "test.jsonl, line 7". `file`: its name without endings, which may name the subject."""

    values: Mapping[str, Any]
    place: str
    file: Path


def ending_of(path: Path) -> str:
    """The ending that says the format, lower case, before .gz or .zst."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    return next((ending for ending in ENDINGS if name.endswith(ending)), "")


def read_rows(path: Path, *, rows: str = "", columns: Sequence[str] = ()) -> Iterator[TaskRow]:
    """The rows of a file. `rows`: the key under which a .json object holds them; `columns`: names, where a table has no header.

    Raises DataError naming the file and the row.
    """
    ending = ending_of(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist; give the file that holds the questions")
    if ending == ".parquet":
        read = _parquet(path)
    elif ending in (".csv", ".tsv"):
        read = table_rows(path, columns)
    elif ending == ".txt":
        read = _solved(path)
    elif ending:
        read = _object_rows(path, rows) if rows and ending == ".json" else json_rows(path)
    else:
        raise DataError(f"{path} is none of {' '.join(ENDINGS)} (also with .gz); give a file of one of these formats")
    empty = True
    for row in read:
        if isinstance(row.value, BadRow):
            raise DataError(f"{path}, {row.place}: {row.value}; mend the row, or take it out")
        if not isinstance(row.value, dict):
            raise DataError(f"{path}, {row.place}: is {str(row.value)[:40]!r}, not an object of named fields")
        empty = False
        yield TaskRow(cast("dict[str, Any]", row.value), f"{path}, {row.place}", path)
    if empty:
        raise DataError(f"{path} has no rows; give a file that holds questions")


def _object_rows(path: Path, key: str) -> Iterator[JsonRow]:
    try:
        with open_text(path) as file:
            value: Any = json.load(file)
    except BROKEN_STREAM as error:
        raise DataError(f"{path} is damaged or cut short ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); mend it") from error
    if isinstance(value, dict):
        if not isinstance(value.get(key), list):
            known = ", ".join(map(str, value)) or "none"
            raise DataError(f"{path} has no list under {key!r}; its keys are {known}; set source.rows to the right one")
        value = value[key]
    for number, row in enumerate(cast("list[Any]", value), 1):
        yield JsonRow(row, number, f"row {number}")


def _solved(path: Path) -> Iterator[JsonRow]:
    try:
        with open_text(path) as file:
            text = file.read(ROW_CHARACTERS).replace("\r\n", "\n")
    except BROKEN_STREAM as error:
        raise DataError(f"{path} is damaged or cut short ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check its permissions") from error
    _, *blocks = re.split(r"(?m)^Q: ?", text)
    for number, block in enumerate(blocks, 1):
        asked, mark, answer = block.partition("\nA:")
        if not mark:
            yield JsonRow(BadRow("has no answer", 'no line begins with "A:"'), number, f"problem {number}")
        else:
            yield JsonRow({"input": asked.strip(), "target": answer.strip()}, number, f"problem {number}")


def _parquet(path: Path) -> Iterator[JsonRow]:
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtraError("duckdb", "data", f"reading {path.name}") from error
    try:
        with _unpacked(path) as plain, duckdb.connect() as connection:
            cursor = connection.execute("SELECT * FROM read_parquet(?)", [str(plain)])
            names = [column[0] for column in cursor.description or ()]
            number = 0
            while batch := cursor.fetchmany(1024):
                for values in batch:
                    number += 1
                    yield JsonRow(dict(zip(names, values, strict=True)), number, f"row {number}")
    except (duckdb.Error, *BROKEN_STREAM) as error:
        raise DataError(f"{path} is no readable Parquet file ({error}); fetch it again") from error


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The file itself; of one that ends in .gz a copy without, which is gone afterwards."""
    if path.suffix.lower() != ".gz":
        yield path
        return
    with gzip.open(path) as packed, tempfile.NamedTemporaryFile(suffix=".parquet") as plain:
        shutil.copyfileobj(packed, plain)
        plain.flush()
        yield Path(plain.name)
