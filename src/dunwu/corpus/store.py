"""The corpus on disk: rows of JSON in zstandard, written and read as streams."""

import json
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, cast

import zstandard

from dunwu.core.errors import DataError
from dunwu.core.files import atomic_write
from dunwu.core.records import Document
from dunwu.corpus.unzstd import unzstd_blocks

Split = Literal["train", "heldout"]
_LEVEL = 1


def row_bytes(text: str, source: str, language: str) -> bytes:
    """One row of the store, with its line end."""
    row = {"text": text, "source": source, "language": language}
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


@contextmanager
def row_writer(path: Path) -> Generator[IO[bytes]]:
    """A stream whose bytes appear, compressed, at `path` when the block ends well."""
    packer = zstandard.ZstdCompressor(level=_LEVEL)
    with atomic_write(path) as file, packer.stream_writer(file, closefd=False) as stream:
        yield cast(IO[bytes], stream)


def read_rows(path: Path) -> Iterator[bytes]:
    """The rows of one file, without their line ends, streamed. Raises EOFError or zstandard.ZstdError for damage."""
    rest = b""
    with path.open("rb") as file:
        for block in unzstd_blocks(file, step_bytes=1 << 16):
            *rows, rest = (rest + block).split(b"\n")
            yield from rows
    if rest:
        yield rest


def parse_row(line: bytes) -> Document:
    """A row as a Document."""
    row = json.loads(line)
    return Document(text=row["text"], source=row["source"], language=row["language"])


def split_files(folder: Path, split: Split) -> list[Path]:
    """The files of one split below a corpus folder, in order. Raises DataError when there are none."""
    files = sorted(folder.glob(f"{split}*.jsonl.zst"))
    if not files:
        raise DataError(
            f"{folder} holds no {split}*.jsonl.zst; it is not a finished corpus: run the corpus stage again"
        )
    return files


def read_documents(where: Path | Iterable[Path], split: Split) -> Iterator[Document]:
    """Stream the documents of a split, from a corpus folder (or several), or from files named directly."""
    for path in [where] if isinstance(where, Path) else where:
        for file in split_files(path, split) if path.is_dir() else [path]:
            try:
                yield from map(parse_row, read_rows(file))
            except (zstandard.ZstdError, EOFError, json.JSONDecodeError, KeyError) as error:
                raise DataError(
                    f"{file} is damaged ({error}); remove its folder and run the corpus stage again"
                ) from error
