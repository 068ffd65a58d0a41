"""Rows of a .json list or a .jsonl file, also .gz and .zst, one at a time; what cannot be parsed comes as a `BadRow` value."""

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from dunwu.core.errors import DataError
from dunwu.corpus.unzstd import UnzstdStream

ROW_CHARACTERS = 64_000_000  # a longer row is refused: it would be held in memory whole
CHUNK_CHARACTERS = 1 << 20
_SPACE = " \t\n\r"
# What reading a damaged or cut file raises.
BROKEN_STREAM = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError, UnicodeError)


class BadRow(Exception):  # noqa: N818  it is a finding about a row, not a failure of the program
    """Why a row cannot be used: a `reason` to count by, and a detail to find it by."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class JsonRow:
    """One row: its parsed value (or a `BadRow`), its number from 1 and its place, "line 7" or "row 7"."""

    value: Any
    number: int
    place: str


def is_json_file(path: Path) -> bool:
    """Whether the name ends in .json or .jsonl (.ndjson), perhaps followed by .gz or .zst."""
    name = path.name.lower()
    return name.removesuffix(".gz").removesuffix(".zst").endswith((".json", ".jsonl", ".ndjson"))


def json_rows(path: Path) -> Iterator[JsonRow]:
    """The rows of `path`: of a list where the file begins with `[`, otherwise of its lines. Blank lines are no rows.

    Raises DataError, naming the place, when the file is cut short, is damaged, or is a list that is not valid JSON.
    """
    number = 0
    try:
        with open_text(path) as file:
            first, skipped = _first_character(file)
            rows = _list_rows(file, path) if first == "[" else _line_rows(file, first, skipped)
            for row in rows:
                number = row.number
                yield row
    except BROKEN_STREAM as error:
        raise DataError(f"{path} is damaged or cut short after row {number} ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check its permissions") from error


def open_text(path: Path) -> io.TextIOWrapper:
    """The text of a file, unpacked where its name ends in .gz or .zst; UTF-16 where it says so, else UTF-8."""
    opened = path.open("rb")
    raw: Any = opened
    if path.suffix.lower() == ".gz":
        raw = gzip.GzipFile(fileobj=opened)
    elif path.suffix.lower() == ".zst":
        raw = UnzstdStream(opened)
    buffered = io.BufferedReader(raw)
    start = buffered.peek(4)[:4]
    encoding = "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    return io.TextIOWrapper(buffered, encoding=encoding, errors="surrogateescape", newline="\n")


def _first_character(file: io.TextIOWrapper) -> tuple[str, int]:
    """The first character that is no space, and how many lines were skipped to reach it."""
    lines = 0
    while (character := file.read(1)) and character in _SPACE:
        lines += character == "\n"
    return character, lines


def _line_rows(file: io.TextIOWrapper, first: str, number: int) -> Iterator[JsonRow]:
    while line := first + file.readline(ROW_CHARACTERS):
        first = ""
        number += 1
        if len(line) >= ROW_CHARACTERS and not line.endswith("\n"):
            while (rest := file.readline(ROW_CHARACTERS)) and not rest.endswith("\n"):
                pass
            value: Any = BadRow("is too long", f"more than {ROW_CHARACTERS} characters")
        elif line.strip():
            value = _parse(line)
        else:
            continue
        yield JsonRow(value, number, f"line {number}")


def _parse(line: str) -> Any:
    if not is_unicode(line):
        return BadRow("is not UTF-8")
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        return BadRow("is not valid JSON", f"{error.msg} at column {error.colno}")
    except RecursionError:
        return BadRow("is not valid JSON", "nested too deeply")
    except ValueError as error:  # a number of thousands of digits
        return BadRow("is not valid JSON", str(error))


def _list_rows(file: io.TextIOWrapper, path: Path) -> Iterator[JsonRow]:
    """Rows of a list whose `[` was read, parsed from a window that is read on while a row does not fit."""
    decode = json.JSONDecoder().raw_decode
    window, at, number, complete = "", 0, 0, False
    while True:
        at = _skip_space(window, at)
        if window.startswith("]", at):
            return
        try:
            value, end = decode(window, at)
            if end == len(window) and not complete:  # a number may go on in the next chunk
                raise json.JSONDecodeError("cut", window, end)
        except RecursionError as error:
            raise _broken_list(path, number + 1, "nested too deeply") from error
        except json.JSONDecodeError as error:
            if complete or len(window) - at > ROW_CHARACTERS:
                raise _broken_list(path, number + 1, error.msg) from error
            chunk = file.read(max(CHUNK_CHARACTERS, len(window) - at))
            window, at, complete = window[at:] + chunk, 0, not chunk
            continue
        except ValueError as error:  # a number of thousands of digits
            raise _broken_list(path, number + 1, str(error)) from error
        number += 1
        yield JsonRow(value if is_unicode(window[at:end]) else BadRow("is not UTF-8"), number, f"row {number}")
        at = _skip_space(window, end)
        if window.startswith(",", at):
            at += 1


def _skip_space(window: str, at: int) -> int:
    while at < len(window) and window[at] in _SPACE:
        at += 1
    return at


def _broken_list(path: Path, number: int, why: str) -> DataError:
    return DataError(
        f"{path}, row {number}: is not valid JSON: {why}; the rows after it cannot be found: "
        "mend the file, or write one object a line (.jsonl)"
    )


def is_unicode(text: str) -> bool:
    """Whether `text` holds no lone surrogate: neither half a pair nor a byte that was no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
