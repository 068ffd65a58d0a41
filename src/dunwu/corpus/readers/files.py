"""Files below a folder, opened with bounds: what a reader is given, whatever the compression."""

import fnmatch
import gzip
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import zstandard

from dunwu.core.errors import DataError
from dunwu.corpus.unzstd import unzstd_blocks

BLOCK_BYTES = 1 << 20
MAX_WHOLE_BYTES = 256 << 20  # of a file that its reader must hold whole, unpacked
MAX_RATIO = 250  # unpacked to packed bytes; text gives 3 to 20, tables and logs up to 100
RATIO_FROM_BYTES = 32 << 20  # below this, no ratio can do harm
COMPRESSIONS = (".gz", ".zst")


class BadFileError(DataError):
    """A file (or a part of it) cannot be read; the message does not name the file, the caller does."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to read. `source` is its name in the corpus: the path relative to the folder read."""

    path: Path
    source: str

    @property
    def compression(self) -> str:
        """`.gz`, `.zst` or nothing."""
        suffix = self.path.suffix.lower()
        return suffix if suffix in COMPRESSIONS else ""

    @property
    def extension(self) -> str:
        """The extension that says what is inside, in lower case: `.txt` for `notes.TXT.gz`."""
        name = self.path.name[: -len(self.compression)] if self.compression else self.path.name
        return Path(name).suffix.lower()

    @property
    def packed_bytes(self) -> int:
        """The size on disk; 0 where there is nothing to be read (a broken link)."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def blocks(self) -> Iterator[bytes]:
        """The content in blocks of about a megabyte. Raises BadFileError for damage, and for a bomb."""
        if self.path.exists() and not self.path.is_file():
            raise BadFileError("is not a regular file")
        try:
            raw = self.path.open("rb")
        except OSError as error:
            raise BadFileError(f"cannot be opened: {error.strerror or error}") from error
        packed, total = max(1, self.packed_bytes), 0
        with raw:
            unpack = {".gz": _gunzip, ".zst": unzstd_blocks}.get(self.compression, _plain)
            try:
                for block in unpack(raw):
                    total += len(block)
                    if self.compression and total > RATIO_FROM_BYTES and total > MAX_RATIO * packed:
                        raise BadFileError(
                            f"unpacks to more than {MAX_RATIO} times its size ({packed:,} bytes), which looks like a"
                            " bomb; unpack it yourself if you trust it"
                        )
                    yield block
            except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
                raise BadFileError(f"is damaged or cut short: {error}") from error

    def whole(self) -> bytes:
        """All the content at once. Raises BadFileError when it is larger than `MAX_WHOLE_BYTES`."""
        parts: list[bytes] = []
        total = 0
        for block in self.blocks():
            total += len(block)
            if total > MAX_WHOLE_BYTES:
                raise BadFileError(
                    f"is larger than {MAX_WHOLE_BYTES >> 20} MiB, and a {self.extension} file must be read whole;"
                    " split it, or save it as .txt or .jsonl"
                )
            parts.append(block)
        return b"".join(parts)


def _plain(raw: IO[bytes]) -> Iterator[bytes]:
    while block := raw.read(BLOCK_BYTES):
        yield block


def _gunzip(raw: IO[bytes]) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=raw, mode="rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            yield block


def list_files(root: Path, include: tuple[str, ...], exclude: tuple[str, ...]) -> list[SourceFile]:
    """The files below `root` (or `root` itself, if a file), sorted by name; hidden ones are left out.

    Links are followed, each real folder once, so that a circle of links ends. Patterns are those of `fnmatch` on the
    path relative to `root`; `**/` also matches no folder. Raises DataError when `root` does not exist, and when a folder
    that is not excluded cannot be listed: what it holds would be lost without a word.
    """
    if not root.exists():
        raise DataError(f"{root} does not exist; give the path of a folder of documents, or of one file")
    if root.is_file():
        return [SourceFile(root, _shown(root.name))]
    found: list[SourceFile] = []
    seen: set[tuple[int, int]] = set()
    for folder, names, files in os.walk(root, followlinks=True, onerror=partial(_refuse_folder, root, exclude)):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            names.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder) / name
            source = _shown(path.relative_to(root).as_posix())
            if not name.startswith(".") and _matches(source, include) and not _matches(source, exclude):
                found.append(SourceFile(path, source))
    return sorted(found, key=lambda file: file.source)


def _refuse_folder(root: Path, exclude: tuple[str, ...], error: OSError) -> None:
    folder = Path(error.filename or root)
    name = _shown(folder.relative_to(root).as_posix())
    if not _matches(f"{name}/", exclude):
        raise DataError(
            f"{folder} cannot be listed ({error.strerror}); give permission to read it, or leave it out: exclude={name}/*"
        ) from error


def _shown(name: str) -> str:
    """`name` with bytes that are not UTF-8 (old Chinese archives have them) spelled out, so that names stay distinct."""
    return name.encode("utf-8", "backslashreplace").decode()


def _matches(source: str, patterns: tuple[str, ...]) -> bool:
    return any(
        fnmatch.fnmatchcase(source, pattern) or (pattern.startswith("**/") and fnmatch.fnmatchcase(source, pattern[3:]))
        for pattern in patterns
    )
