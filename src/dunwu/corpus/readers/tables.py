"""Rows with a text among their values: `.jsonl .json .csv .parquet`."""

import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dunwu.core.errors import MissingExtraError
from dunwu.core.records import Document
from dunwu.corpus.encoding import decode_blocks, detect_encoding
from dunwu.corpus.readers.files import BadFileError, SourceFile
from dunwu.corpus.readers.problems import Problem
from dunwu.corpus.readers.text import decoded, pieces

TEXT_KEYS = ("text", "content", "body", "article", "document", "markdown", "story", "passage", "paragraphs")
TEXT_KEYS += ("正文", "内容", "文本", "段落")
MAX_ROW_CHARS = 64 << 20
_ROWS_AT_ONCE = 256

Read = Iterator[Document | Problem]


def read_jsonl(file: SourceFile, text_key: str) -> Read:
    """One document a line. A bad line is a Problem that names its number; the lines after it are read."""
    for number, line in _numbered_lines(decoded(file)):
        where = f"{file.source}:{number}"
        if line is None:
            yield Problem(where, f"the line is longer than {MAX_ROW_CHARS:,} characters")
        elif line.strip():
            yield from _json_row(line, where, f"{file.source}#{number}", text_key)


def _json_row(line: str, where: str, source: str, text_key: str) -> Read:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
        yield Problem(where, f"not valid JSON: {error}")
        return
    yield from _row_document(row, where, source, text_key)


def _numbered_lines(texts: Iterable[str]) -> Iterator[tuple[int, str | None]]:
    """Lines with their numbers from 1, across blocks; None for a line too long to hold."""
    rest: list[str] = []
    held = 0
    number = 1
    for text in texts:
        *lines, tail = text.split("\n")
        for line in lines:
            yield number, "".join([*rest, line]) if held + len(line) <= MAX_ROW_CHARS else None
            number, rest, held = number + 1, [], 0
        held += len(tail)
        rest = [*rest, tail] if held <= MAX_ROW_CHARS else []
    if held:
        yield number, "".join(rest) if held <= MAX_ROW_CHARS else None


def _row_document(row: Any, where: str, source: str, text_key: str) -> Read:
    text = row if isinstance(row, str) else _text_of(row, text_key) if isinstance(row, Mapping) else None
    if text is None:
        key = f"no text under {text_key!r}" if text_key != "auto" else f"no text under any of {', '.join(TEXT_KEYS)}"
        yield Problem(where, f"{key}; set text_key to the key that holds it")
        return
    yield from pieces([text], source)


def _text_of(row: Mapping[str, Any], text_key: str) -> str | None:
    """The text of a row: under its key, or under the first usual key, or the only string that there is."""
    if text_key != "auto":
        return _joined(row.get(text_key))
    for key in TEXT_KEYS:
        if (text := _joined(row.get(key))) is not None:
            return text
    strings = [value for value in row.values() if isinstance(value, str)]
    return strings[0] if len(strings) == 1 else None


def _joined(value: Any) -> str | None:
    """A string, or a list of them (the lines of a poem, the paragraphs of an article) as one."""
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    return value if isinstance(value, str) else None


def read_json(file: SourceFile, text_key: str) -> Read:
    """A list of rows, an object that holds one, or a single row."""
    data = file.whole()
    encoding = detect_encoding(data, complete=True)
    if encoding is None:
        raise BadFileError("holds binary data, not JSON")
    try:
        value = json.loads("".join(decode_blocks([data], encoding)))
    except (ValueError, RecursionError) as error:
        raise BadFileError(f"is not valid JSON: {error}; if it has one object a line, name it .jsonl") from error
    rows = _rows_in(value, text_key)
    for number, row in enumerate(rows, 1):
        yield from _row_document(row, f"{file.source}:{number}", f"{file.source}#{number}", text_key)


def _rows_in(value: Any, text_key: str) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, Mapping) and _text_of(value, text_key) is None:
        lists = [inner for inner in value.values() if isinstance(inner, list)]
        if len(lists) == 1:
            return lists[0]
    return [value]


def read_csv(file: SourceFile, text_key: str) -> Read:
    """One document a row, from the column `text_key`; `auto` takes a usual name, else the column with the longest texts."""
    csv.field_size_limit(MAX_ROW_CHARS)
    lines = _lines(decoded(file))
    head = "".join(line for _, line in zip(range(20), lines, strict=False))
    if not head.strip():
        return
    delimiter = max(",;\t|", key=head.split("\n", 1)[0].count)
    rows = csv.reader(_chained(head, lines), delimiter=delimiter)
    try:
        header = next(rows)
        waiting = [(row, rows.line_num) for _, row in zip(range(20), rows, strict=False)]
        column = _text_column(header, [row for row, _ in waiting], text_key)
        numbered = ((row, rows.line_num) for row in rows)  # the line on which a row ends
        for row, line in itertools.chain(waiting, numbered):
            yield from _csv_row(row, column, header, f"{file.source}:{line}", f"{file.source}#{line}")
    except csv.Error as error:
        raise BadFileError(f"is not a readable table: {error}") from error


def _csv_row(row: list[str], column: int, header: list[str], where: str, source: str) -> Read:
    if not row:
        return
    if column >= len(row) or len(row) > len(header):
        yield Problem(where, f"has {len(row)} columns where the header has {len(header)}")
        return
    yield from pieces([row[column]], source)


def _lines(texts: Iterable[str]) -> Iterator[str]:
    rest = ""
    for text in texts:
        *lines, rest = (rest + text).split("\n")
        yield from (line + "\n" for line in lines)
        if len(rest) > MAX_ROW_CHARS:
            raise BadFileError(f"has a line longer than {MAX_ROW_CHARS:,} characters; split it, or name it .txt")
    if rest:
        yield rest


def _chained(head: str, lines: Iterator[str]) -> Iterator[str]:
    yield from io.StringIO(head, newline="")
    yield from lines


def _text_column(header: list[str], rows: list[list[str]], text_key: str) -> int:
    names = [name.strip().lstrip("\ufeff") for name in header]
    if text_key != "auto":
        if text_key not in names:
            raise BadFileError(f"has no column {text_key!r}; its columns are {', '.join(names)}")
        return names.index(text_key)
    lowered = [name.lower() for name in names]
    for key in TEXT_KEYS:
        if key in lowered:
            return lowered.index(key)
    lengths = [sum(len(row[index]) for row in rows if index < len(row)) for index in range(len(names))]
    return max(range(len(names)), key=lengths.__getitem__)


def read_parquet(file: SourceFile, text_key: str) -> Read:
    """One document a row, streamed through duckdb."""
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtraError("duckdb", "data", f"reading {file.source}") from error
    if file.compression:
        raise BadFileError("is a packed .parquet; unpack it first (parquet is compressed inside)")
    connection = duckdb.connect(config={"memory_limit": "512MB", "threads": "1", "preserve_insertion_order": "true"})
    try:
        relation = connection.read_parquet(str(file.path))
        columns = [
            name for name, kind in zip(relation.columns, relation.types, strict=True) if str(kind).upper() == "VARCHAR"
        ]
        column = _parquet_column(columns, list(relation.columns), text_key)
        result = connection.execute(f'SELECT "{_quoted(column)}" FROM read_parquet(?)', [str(file.path)])
        number = 0
        while rows := result.fetchmany(_ROWS_AT_ONCE):
            for (text,) in rows:
                number += 1
                if text is None:
                    yield Problem(f"{file.source}:{number}", f"no text in column {column!r}")
                else:
                    yield from pieces([text], f"{file.source}#{number}")
    except duckdb.Error as error:
        raise BadFileError(f"is not a readable parquet file: {str(error).splitlines()[0]}") from error
    finally:
        connection.close()


def _quoted(name: str) -> str:
    return name.replace('"', '""')


def _parquet_column(strings: list[str], columns: list[str], text_key: str) -> str:
    if text_key != "auto":
        if text_key not in columns:
            raise BadFileError(f"has no column {text_key!r}; its columns are {', '.join(columns)}")
        return text_key
    for key in TEXT_KEYS:
        for name in strings:
            if name.lower() == key:
                return name
    if len(strings) == 1:
        return strings[0]
    raise BadFileError(f"has no usual text column among {', '.join(columns)}; set text_key")
