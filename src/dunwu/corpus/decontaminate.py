"""Text of the evaluation sets is not learned: runs of words that they share with a document are found and cut.

Thirteen words as in GPT-3 (arXiv:2005.14165, appendix C); for Chinese sixteen characters, as a character says less than
a word. Questions shorter than that are too common to be looked for, and are counted.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dunwu.core.errors import DataError
from dunwu.corpus.measure import Hashes, Lexemes, lexemes, shingles

WORDS = 13
CHARACTERS = 16
WHOLE_CHARS = 4_000  # a shorter document goes as a whole, of a longer one the paragraphs
_FILTER_BITS = 1 << 20


@dataclass(frozen=True, slots=True)
class ExamIndex:
    """Hashes of the runs of words and of characters in the evaluation sets, sorted; and a small filter before each."""

    words: Hashes
    characters: Hashes
    filters: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]
    texts: int
    too_short: int


def build_index(texts: Iterable[str]) -> ExamIndex:
    """Index the runs of these texts."""
    words: list[Hashes] = []
    characters: list[Hashes] = []
    count = too_short = 0
    for text in texts:
        found = lexemes(text)
        mostly_single = bool(len(found)) and found.single.mean() > 0.5
        length = CHARACTERS if mostly_single else WORDS
        count += 1
        if len(found) < length:
            too_short += 1
        else:
            (characters if mostly_single else words).append(shingles(found.hashes, length))
    tables = [np.unique(np.concatenate(part)) if part else np.empty(0, np.uint64) for part in (words, characters)]
    filters = (_filter(tables[0]), _filter(tables[1]))
    return ExamIndex(tables[0], tables[1], filters, count, too_short)


def _filter(hashes: Hashes) -> npt.NDArray[np.bool_]:
    bits = np.zeros(_FILTER_BITS, np.bool_)
    bits[(hashes & np.uint64(_FILTER_BITS - 1)).astype(np.int64)] = True
    return bits


def contaminated_spans(found: Lexemes, index: ExamIndex) -> list[tuple[int, int]]:
    """Where, in characters, a text with these lexemes has a run in common with the evaluation sets."""
    spans: list[tuple[int, int]] = []
    for table, bits, length in (
        (index.words, index.filters[0], WORDS),
        (index.characters, index.filters[1], CHARACTERS),
    ):
        if not len(table) or len(found) < length:
            continue
        grams = shingles(found.hashes, length)
        likely = np.flatnonzero(bits.take((grams & np.uint64(_FILTER_BITS - 1)).view(np.int64)))
        places = np.minimum(np.searchsorted(table, grams[likely]), len(table) - 1)
        for hit in likely[table[places] == grams[likely]]:
            spans.append((int(found.starts[hit]), int(found.ends[hit + length - 1])))
    return sorted(spans)


def without_paragraphs(text: str, spans: list[tuple[int, int]]) -> str:
    """The text without the paragraphs that these spans touch."""
    kept: list[str] = []
    start = 0
    for left, right in spans:
        if right <= start:
            continue
        begin = max(start, text.rfind("\n\n", start, left) + 2 if text.rfind("\n\n", start, left) >= 0 else start)
        end = text.find("\n\n", right)
        kept.append(text[start:begin])
        start = len(text) if end < 0 else end + 2
    kept.append(text[start:])
    return "".join(kept)


def read_exam_texts(paths: Iterable[str]) -> Iterator[str]:
    """All strings of evaluation files: `.jsonl` and `.json` (a row's strings are one text), `.csv` (a row), `.txt` (a
    line), each also `.gz`. Raises DataError for a file that is missing or of another kind."""
    for name in paths:
        path = Path(name)
        if not path.is_file():
            raise DataError(f"decontaminate_files: {path} does not exist; give files of evaluation sets")
        inner = Path(path.stem) if path.suffix == ".gz" else path
        reader = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".txt": str.splitlines}.get(inner.suffix.lower())
        if reader is None:
            raise DataError(f"decontaminate_files: {path} is not .jsonl, .json, .csv or .txt (or one of these .gz)")
        try:
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            yield from reader(data.decode("utf-8-sig", "replace"))
        except (OSError, EOFError, zlib.error, ValueError, RecursionError, csv.Error) as error:
            raise DataError(f"decontaminate_files: {path} cannot be read: {error}") from error


def _jsonl(text: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}: {error.msg} at column {error.colno}") from error
            yield " ".join(_strings(row))


def _json(text: str) -> Iterator[str]:
    value = json.loads(text)
    for row in value if isinstance(value, list) else [value]:
        yield " ".join(_strings(row))


def _csv(text: str) -> Iterator[str]:
    for row in csv.reader(text.splitlines()):
        yield " ".join(row)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
