"""Which part of a text is used when not all fits: whole documents while they fit, otherwise evenly spaced pieces of all of them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dunwu.core.errors import DataError
from dunwu.core.records import Document

PIECE_BYTES = 8_000  # about a context of text; smaller pieces would score mostly the beginnings of contexts
_SLACK = 4  # at most this many times `max_bytes` is held in memory while choosing


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of one document. `document` numbers the documents in reading order; the text is whole characters."""

    document: int
    source: str
    language: str
    text: str
    start_byte: int

    @property
    def size(self) -> int:
        """Bytes of the text as UTF-8."""
        return len(self.text.encode("utf-8"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenText:
    """The chosen pieces and how much there was to choose from."""

    pieces: tuple[Piece, ...]
    documents_total: int
    bytes_total: int

    @property
    def texts(self) -> list[str]:
        """The text of each piece."""
        return [piece.text for piece in self.pieces]

    @property
    def bytes(self) -> int:
        """Bytes chosen."""
        return sum(piece.size for piece in self.pieces)

    @property
    def documents(self) -> int:
        """Documents of which at least a piece is chosen."""
        return len({piece.document for piece in self.pieces})


def choose_text(documents: Iterable[Document], *, max_bytes: int, piece_bytes: int = PIECE_BYTES) -> ChosenText:
    """At most `max_bytes` of the documents, spread evenly: everything when it fits, otherwise every k-th piece of about
    `piece_bytes`, cut at a line's end. Neighbouring pieces are joined again. One pass; memory is bounded by 4 × `max_bytes`
    and the largest document. Raises DataError when there is no text.
    """
    kept: list[Piece] = []
    kept_bytes = seen = documents_total = bytes_total = 0
    every = 1
    for number, document in enumerate(documents):
        documents_total += 1
        for piece in _cut(document, number, piece_bytes):
            bytes_total += piece.size
            seen += 1
            if (seen - 1) % every:
                continue
            kept.append(piece)
            kept_bytes += piece.size
            if kept_bytes > _SLACK * max_bytes and len(kept) > 1:
                kept, every = kept[::2], every * 2
                kept_bytes = sum(piece.size for piece in kept)
    if not kept:
        raise DataError(
            "there is no text to choose from: every document is empty; add documents or raise corpus.heldout_fraction"
        )
    return ChosenText(
        pieces=tuple(_join(_spread(kept, max_bytes))), documents_total=documents_total, bytes_total=bytes_total
    )


def _spread(pieces: Sequence[Piece], max_bytes: int) -> list[Piece]:
    total = sum(piece.size for piece in pieces)
    wanted = len(pieces) if total <= max_bytes else max(1, len(pieces) * max_bytes // total)
    while True:
        chosen = [pieces[int((i + 0.5) * len(pieces) / wanted)] for i in range(wanted)]
        if wanted == 1 or sum(piece.size for piece in chosen) <= max_bytes:
            return chosen
        wanted -= 1


def _join(pieces: Sequence[Piece]) -> Iterator[Piece]:
    run: list[Piece] = []
    end = 0
    for piece in pieces:
        if run and (piece.document != run[0].document or piece.start_byte != end):
            yield _joined(run)
            run = []
        run.append(piece)
        end = piece.start_byte + piece.size
    if run:
        yield _joined(run)


def _joined(run: Sequence[Piece]) -> Piece:
    first = run[0]
    return Piece(
        document=first.document,
        source=first.source,
        language=first.language,
        text="".join(piece.text for piece in run),
        start_byte=first.start_byte,
    )


def _cut(document: Document, number: int, piece_bytes: int) -> Iterator[Piece]:
    data = document.text.encode("utf-8")
    start = 0
    while start < len(data):
        end = _cut_point(data, start, piece_bytes)
        yield Piece(
            document=number,
            source=document.source,
            language=document.language,
            text=data[start:end].decode("utf-8"),
            start_byte=start,
        )
        start = end


def _cut_point(data: bytes, start: int, piece_bytes: int) -> int:
    """Where a piece from `start` ends: after a paragraph, else after a line, else before a character; never a sliver's worth left."""
    end = start + piece_bytes
    if len(data) - start <= piece_bytes * 5 // 4:
        return len(data)
    for border in (b"\n\n", b"\n"):
        found = data.rfind(border, start + piece_bytes // 2, end)
        if found >= 0:
            return found + len(border)
    while data[end] & 0xC0 == 0x80:  # the middle of a UTF-8 character
        end -= 1
    return end


def by_document(chosen: ChosenText, piece_values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Sum a value of each piece, and the pieces' bytes, over the documents they come from, in reading order."""
    values: dict[int, float] = {}
    sizes: dict[int, float] = {}
    for piece, value in zip(chosen.pieces, piece_values, strict=True):
        values[piece.document] = values.get(piece.document, 0.0) + value
        sizes[piece.document] = sizes.get(piece.document, 0.0) + piece.size
    return list(values.values()), list(sizes.values())
