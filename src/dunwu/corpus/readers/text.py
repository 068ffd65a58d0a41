"""Plain text, streamed: a file of any size becomes pieces of bounded length, cut where a reader would pause."""

import re
from collections.abc import Iterable, Iterator

from dunwu.core.records import Document
from dunwu.corpus.encoding import SAMPLE_BYTES, decode_blocks, detect_encoding
from dunwu.corpus.readers.files import BadFileError, SourceFile

PIECE_CHARS = 1_000_000  # the longest text that later steps see at once
_SENTENCE_END = re.compile(r"[.!?]['\")\]]?\s|[。！？；][”’」』）]?")


def read_plain(file: SourceFile) -> Iterator[Document]:
    """`.txt .md .rst`: one document, in pieces where it is long."""
    yield from pieces(decoded(file), file.source)


def read_python(file: SourceFile) -> Iterator[Document]:
    """`.py`: the same, judged by the rules for code."""
    yield from pieces(decoded(file), file.source, kind="code")


def decoded(file: SourceFile) -> Iterator[str]:
    """The text of a file in blocks, its encoding found by looking. Raises BadFileError for binary data.

    Where the start is pure ASCII, the encoding is decided by the first block that is not.
    """
    blocks = file.blocks()
    for block in blocks:
        if block.isascii() and b"\0" not in block[:SAMPLE_BYTES]:
            encoding = _detected(block[:SAMPLE_BYTES], len(block) < SAMPLE_BYTES)
            if encoding in ("utf-8", "utf-8-sig"):
                yield block.decode("ascii")
                continue
        encoding = _detected(_telling(block), len(block) < SAMPLE_BYTES)
        yield from decode_blocks(_chain(block, blocks), encoding)
        return


def _telling(block: bytes) -> bytes:
    """The part of a block that tells its encoding: from a little before the first byte that is not ASCII."""
    if block[:4] != block[:4].decode("ascii", "ignore").encode() or b"\0" in block[:SAMPLE_BYTES]:
        return block[:SAMPLE_BYTES]
    head = block[:SAMPLE_BYTES]
    if not head.isascii():
        return head
    first = next(index for index in range(0, len(block), 4096) if not block[index : index + 4096].isascii())
    start = block.rfind(b"\n", 0, first) + 1
    return block[start : start + SAMPLE_BYTES]


def _detected(sample: bytes, complete: bool) -> str:
    encoding = detect_encoding(sample, complete=complete)
    if encoding is None:
        raise BadFileError("holds binary data or an unknown encoding, not text; save it as UTF-8")
    return encoding


def _chain(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def pieces(texts: Iterable[str], source: str, *, kind: str = "prose", limit: int = PIECE_CHARS) -> Iterator[Document]:
    """Join a stream of text and cut it into documents of at most `limit` characters, `source#part2` and so on.

    All share `meta["group"]`, so that a split by document keeps them together.
    """
    meta = {"kind": kind, "group": source}
    waiting: list[str] = []
    length = 0
    part = 0
    for text in texts:
        waiting.append(text)
        length += len(text)
        if length <= limit:
            continue
        joined = "".join(waiting)
        start = 0
        while len(joined) - start > limit:
            part += 1
            end = cut_point(joined, start + limit // 2, start + limit)
            yield Document(text=joined[start:end], source=f"{source}#part{part}", meta=meta)
            start = end
        waiting, length = [joined[start:]], len(joined) - start
    rest = "".join(waiting)
    if rest or not part:
        yield Document(text=rest, source=f"{source}#part{part + 1}" if part else source, meta=meta)


def cut_point(text: str, low: int, high: int) -> int:
    """Where to cut between `low` and `high`: after the last paragraph, else line, else sentence, else word, else there."""
    for border in ("\n\n", "\n"):
        found = text.rfind(border, low, high)
        if found >= 0:
            return found + len(border)
    ends = [match.end() for match in _SENTENCE_END.finditer(text, max(low, high - 4000), high)]
    if ends:
        return ends[-1]
    space = text.rfind(" ", low, high)
    return space + 1 if space >= 0 else high
