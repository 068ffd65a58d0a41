"""The last step: rows of the pool copied to the split where they belong, and counted."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from dunwu.core.files import disk_errors
from dunwu.corpus.card import CardBuilder, Tally
from dunwu.corpus.decide import EXACT, NEAR, Decision
from dunwu.corpus.pool import Pool
from dunwu.corpus.store import parse_row, read_rows, row_bytes, row_writer


@dataclass(slots=True)
class Delivered:
    """What was written."""

    train: Tally = field(default_factory=Tally)
    heldout: Tally = field(default_factory=Tally)
    heldout_rows: int = 0


def deliver(pool: Pool, decision: Decision, out: Path, card: CardBuilder) -> Delivered:
    """Write both splits. A document partly held out leaves its remaining runs of sections to training."""
    delivered = Delivered()
    with (
        disk_errors(out),
        row_writer(out / "train.jsonl.zst") as train,
        row_writer(out / "heldout.jsonl.zst") as heldout,
    ):
        for record, dropped, row in zip(pool.documents, decision.dropped, read_rows(pool.rows_path), strict=True):
            source = card.sources[int(record["origin"])]
            if dropped:
                _count_dropped(source, int(dropped), int(record["bytes"]), row)
                continue
            source.kept.add(int(record["bytes"]), *(_named(row) if source.kept.wants_sample else ()))
            language = pool.languages[int(record["language"])]
            card.languages.setdefault(language, Tally()).add(int(record["bytes"]))
            first, count = int(record["first_section"]), int(record["sections"])
            sections, held = pool.sections[first : first + count], decision.held[first : first + count]
            if held.all() or not held.any():
                stream, tally = (heldout, delivered.heldout) if held.all() else (train, delivered.train)
                stream.write(row + b"\n")
                tally.add(int(record["bytes"]))
            else:
                _write_parts(row, sections, held, (train, heldout), delivered)
    delivered.heldout_rows = delivered.heldout.documents
    return delivered


def _named(row: bytes) -> tuple[str, str]:
    document = parse_row(row)
    return document.source, document.text


def _count_dropped(source: Any, dropped: int, size: int, row: bytes) -> None:
    rule = EXACT if dropped == 1 else NEAR
    tally = source.dropped.setdefault(rule, Tally())
    tally.add(size, *(_named(row) if tally.wants_sample else ()))


def _write_parts(
    row: bytes,
    sections: npt.NDArray[Any],
    held: npt.NDArray[np.bool_],
    streams: tuple[IO[bytes], IO[bytes]],
    delivered: Delivered,
) -> None:
    """Write a document in parts: each held-out section by itself, and each run of sections between them."""
    document = parse_row(row)
    for first, last, is_held in _runs(held):
        text = document.text[sections["start"][first] : sections["end"][last]].strip()
        if not text:
            continue
        name = f"{document.source}#s{first + 1}" + (f"-{last + 1}" if last > first else "")
        streams[is_held].write(row_bytes(text, name, document.language))
        (delivered.heldout if is_held else delivered.train).add(len(text.encode()))


def _runs(held: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int, bool]]:
    """First and last section of each part, and whether it is held out."""
    start = 0
    for place in range(len(held)):
        if held[place]:
            yield place, place, True
        elif place + 1 == len(held) or held[place + 1]:
            yield start, place, False
        if held[place]:
            start = place + 1
