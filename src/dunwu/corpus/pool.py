"""Cleaned documents between the two passes: rows and fingerprints on disk, a few numbers each in memory when read back."""

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from dunwu.core.files import disk_errors
from dunwu.corpus.dedup import PERMUTATIONS, Signatures
from dunwu.corpus.store import row_writer
from dunwu.corpus.work import Cleaned

AUTO, TRAIN, HELDOUT = 0, 1, 2

DOCUMENT = np.dtype(
    [
        ("digest", "<u8", (2,)),
        ("bytes", "<i8"),
        ("group", "<i8"),  # number of the document that this is a part of
        ("first_section", "<i8"),
        ("sections", "<i4"),
        ("language", "<u2"),
        ("origin", "<u2"),
        ("fixed", "u1"),  # AUTO, or the split that its source chose
    ]
)
SECTION = np.dtype([("start", "<i4"), ("end", "<i4"), ("bytes", "<i4"), ("document", "<i8")])


class PoolWriter:
    """Takes documents in order and writes them below a temporary folder."""

    def __init__(self, rows: IO[bytes], files: Mapping[str, IO[bytes]]) -> None:
        self._rows, self._files = rows, files
        self._group_name: tuple[int, str] | None = None
        self._group = -1
        self.languages: dict[str, int] = {}
        self.documents = 0
        self._sections = 0

    def add(self, cleaned: Cleaned, fixed: int = AUTO) -> None:
        """Append a document. Parts of one document must come one after the other."""
        if (cleaned.origin, cleaned.group) != self._group_name:
            self._group_name = (cleaned.origin, cleaned.group)
            self._group += 1
        record = np.zeros(1, DOCUMENT)
        record["digest"] = np.frombuffer(cleaned.digest or bytes(16), "<u8")
        record["bytes"], record["group"], record["origin"] = cleaned.bytes_out, self._group, cleaned.origin
        record["first_section"], record["sections"] = self._sections, len(cleaned.sections)
        record["language"] = self.languages.setdefault(cleaned.language, len(self.languages))
        record["fixed"] = fixed
        sketches = cleaned.sketches
        if sketches is None:
            sketches = np.zeros((len(cleaned.sections), PERMUTATIONS), np.uint32)
        sections = np.array([(*section, self.documents) for section in cleaned.sections], SECTION)
        self._rows.write(cleaned.row)
        self._files["documents"].write(record.tobytes())
        self._files["sections"].write(sections.tobytes())
        self._files["section_sketches"].write(sketches.tobytes())
        self._files["document_sketches"].write(sketches.min(axis=0).tobytes())
        self.documents += 1
        self._sections += len(sections)


_FILES = ("documents", "sections", "section_sketches", "document_sketches")


@contextmanager
def pool_writer(folder: Path) -> Generator[PoolWriter]:
    """Write a pool into `folder`. Raises DiskError when the disk is full."""
    with disk_errors(folder), ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        rows: Any = stack.enter_context(row_writer(folder / "rows.zst"))
        files = {name: stack.enter_context((folder / f"{name}.bin").open("wb")) for name in _FILES}
        yield PoolWriter(rows, files)


class Pool:
    """A pool read back: the tables in memory (some 50 bytes a document), the sketches mapped from disk."""

    def __init__(self, folder: Path, languages: dict[str, int]) -> None:
        self.rows_path = folder / "rows.zst"
        self.languages = list(languages)
        self.documents: npt.NDArray[Any] = np.fromfile(folder / "documents.bin", DOCUMENT)
        self.sections: npt.NDArray[Any] = np.fromfile(folder / "sections.bin", SECTION)
        self.document_sketches = self._sketches(folder / "document_sketches.bin")
        self.section_sketches = self._sketches(folder / "section_sketches.bin")

    @staticmethod
    def _sketches(path: Path) -> Signatures:
        if not path.stat().st_size:
            return np.empty((0, PERMUTATIONS), np.uint32)
        return np.memmap(path, np.uint32, "r").reshape(-1, PERMUTATIONS)
