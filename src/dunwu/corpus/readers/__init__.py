"""Readers: one for each format, each from a file to a stream of documents and problems."""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dunwu.core.errors import DataError, MissingExtraError
from dunwu.core.records import Document
from dunwu.corpus.readers.documents import read_docx, read_epub, read_notebook, read_pdf
from dunwu.corpus.readers.files import SourceFile, list_files
from dunwu.corpus.readers.html import read_html
from dunwu.corpus.readers.problems import Problem
from dunwu.corpus.readers.tables import read_csv, read_json, read_jsonl, read_parquet
from dunwu.corpus.readers.text import PIECE_CHARS, read_plain, read_python

__all__ = ["PIECE_CHARS", "READERS", "Problem", "Reader", "SourceFile", "list_files", "read_file", "require_packages"]

Read = Callable[[SourceFile, str], Iterator[Document | Problem]]


def _keyless(read: Callable[[SourceFile], Iterator[Document | Problem]]) -> Read:
    return lambda file, text_key: read(file)


@dataclass(frozen=True, slots=True)
class Reader:
    """How a format is read. `packages`: (import name, package) of the extra `data`; `cost`: work relative to plain text."""

    read: Read
    packages: tuple[tuple[str, str], ...] = ()
    streams: bool = False
    cost: float = 1.0


_HTML = (("lxml", "lxml"), ("trafilatura", "trafilatura"))
_PLAIN = Reader(_keyless(read_plain), streams=True)
_WEB = Reader(_keyless(read_html), _HTML, cost=20)

READERS: dict[str, Reader] = {
    ".txt": _PLAIN,
    ".md": _PLAIN,
    ".rst": _PLAIN,
    ".py": Reader(_keyless(read_python), streams=True),
    ".html": _WEB,
    ".htm": _WEB,
    ".pdf": Reader(_keyless(read_pdf), (("pypdfium2", "pypdfium2"),), cost=10),
    ".docx": Reader(_keyless(read_docx), (("docx", "python-docx"),), cost=10),
    ".epub": Reader(_keyless(read_epub), (("lxml", "lxml"),), cost=5),
    ".ipynb": Reader(_keyless(read_notebook)),
    ".json": Reader(read_json),
    ".jsonl": Reader(read_jsonl, streams=True),
    ".csv": Reader(read_csv, streams=True),
    ".parquet": Reader(read_parquet, (("duckdb", "duckdb"),), streams=True, cost=3),
}


def read_file(file: SourceFile, text_key: str = "auto") -> Iterator[Document | Problem]:
    """The documents of one file; what cannot be read comes as a Problem in its place, and reading goes on behind it."""
    try:
        yield from READERS[file.extension].read(file, text_key)
    except MissingExtraError:
        raise
    except (DataError, OSError) as error:
        yield Problem(file.source, str(error))


def require_packages(files: list[SourceFile]) -> None:
    """Raise MissingExtraError, before any work, when a format among the files needs a package that is not there."""
    for extension in sorted({file.extension for file in files}):
        for module, package in READERS[extension].packages:
            if importlib.util.find_spec(module) is None:
                raise MissingExtraError(package, "data", f"reading {extension} files")
