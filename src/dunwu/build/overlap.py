"""The corpus and the text to replay are each split by themselves: what one of them holds out may be training text of the other.

Exact copies are left out of the training text, by hash: whole documents, and paragraphs long enough to be no accident.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator

from dunwu.core.records import Document

LEAST_CHARS = 80  # a shorter paragraph occurs here and there by itself
Copies = frozenset[bytes]


def held_out(documents: Iterable[Document]) -> Copies:
    """What must not be learned of these documents: hashes of them and of their longer paragraphs, 16 bytes each."""
    return frozenset(digest for document in documents for digest in _digests(document.text))


class WithoutCopies:
    """Training documents without what `held` has of them; `cut_bytes` says afterwards how much was left out."""

    def __init__(self, documents: Iterable[Document], held: Copies) -> None:
        self._documents = documents
        self._held = held
        self.cut_bytes = 0

    def __iter__(self) -> Iterator[Document]:
        self.cut_bytes = 0
        for document in self._documents:
            text = self._kept(document.text) if self._held else document.text
            if text == document.text:
                yield document
                continue
            self.cut_bytes += len(document.text.encode()) - len(text.encode())
            if text.strip():
                yield dataclasses.replace(document, text=text)

    def _kept(self, text: str) -> str:
        if _digest(text) in self._held:
            return ""
        paragraphs = text.split("\n\n")
        kept = [part for part in paragraphs if not (_is_long(part) and _digest(part) in self._held)]
        return text if len(kept) == len(paragraphs) else "\n\n".join(kept)


def _digests(text: str) -> Iterator[bytes]:
    yield _digest(text)
    yield from (_digest(part) for part in text.split("\n\n") if _is_long(part))


def _is_long(paragraph: str) -> bool:
    return len(paragraph.strip()) >= LEAST_CHARS


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.strip().encode("utf-8", "replace"), digest_size=16).digest()
