"""Texts that begin alike as a tree, so that each beginning is read once: plain bookkeeping, without a model.

Sorted, each text shares its beginning with the one before it and brings the rest, a segment. Segments are read in that order,
many in one pass; what a text shares lies in the slots of the cache that the texts before it left there. Only the texts that are
still to come keep slots: the path of one text, and what a pass brings, is all that the cache holds at a time.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dunwu.tokenizer.like import Ids

Run = tuple[int, int]


class Row(NamedTuple):
    """A text, `[T]` ids of which those from `first` (at least 1) on are judged. The last one is judged and not read."""

    ids: Ids
    first: int


class Wanted(NamedTuple):
    """What is read at `first` to `last` (exclusive) judges the tokens that follow there in `row`."""

    row: int
    first: int
    last: int


class Segment(NamedTuple):
    """Tokens `start` to `end` of `row`, and whom they judge: other rows may share them."""

    row: int
    start: int
    end: int
    wanted: list[Wanted]


class Piece(NamedTuple):
    """The part of a segment that one pass reads: tokens `start` to `end`. `runs`: the slots of its text up to there."""

    segment: Segment
    start: int
    end: int
    runs: tuple[Run, ...]


def segments(rows: Sequence[Row], *, shared: bool = True) -> list[Segment]:
    """What is to be read, in order; without `shared` each row whole."""
    order = sorted(range(len(rows)), key=lambda number: rows[number].ids[:-1].astype(">u4").tobytes())
    found: list[Segment] = []
    path: list[tuple[Segment, int]] = []  # and where the next one of the path, or the row, leaves it
    before: Ids = np.empty(0, np.int32)
    for number in order:
        row = rows[number]
        read = row.ids[:-1]
        common = _common(before, read) if shared else 0
        while path and path[-1][0].start >= common:
            path.pop()
        if path:
            path[-1] = (path[-1][0], common)
        if common < len(read):
            found.append(Segment(number, common, len(read), []))
            path.append((found[-1], len(read)))
        for segment, end in reversed(path):
            if end <= row.first - 1:
                break
            segment.wanted.append(Wanted(number, max(segment.start, row.first - 1), end))
        before = read
    return found


def _common(one: Ids, other: Ids) -> int:
    """How many ids they begin with alike."""
    most = min(len(one), len(other))
    differ = one[:most] != other[:most]
    return int(differ.argmax()) if differ.any() else most


class Slots:
    """The places of a cache: taken in as few runs as may be, and given back."""

    def __init__(self, count: int) -> None:
        self._free: list[Run] = [(0, count)]

    def take(self, count: int) -> list[Run]:
        """The smallest gap that holds them all, or several gaps, the largest first. There must be so many."""
        fits = [run for run in self._free if run[1] - run[0] >= count]
        if fits:
            start, end = min(fits, key=lambda run: run[1] - run[0])
            self._free.remove((start, end))
            if end - start > count:
                self._free.append((start + count, end))
            return [(start, start + count)]
        start, end = max(self._free, key=lambda run: run[1] - run[0])
        self._free.remove((start, end))
        return [(start, end), *self.take(count - (end - start))]

    def give(self, runs: Sequence[Run]) -> None:
        """Free again; neighbours become one gap."""
        gaps: list[Run] = []
        for start, end in sorted([*self._free, *runs]):
            if gaps and gaps[-1][1] == start:
                gaps[-1] = (gaps[-1][0], end)
            else:
                gaps.append((start, end))
        self._free = gaps


def passes(found: Sequence[Segment], *, most_tokens: int, slots: Slots, whole: bool = False) -> Iterator[list[Piece]]:
    """Passes of at most `most_tokens` tokens, for which there must be slots beside those of the longest text.

    `whole`: no segment is parted, and one that is longer gets a pass of its own.
    """
    path: list[Run] = []
    gone: list[Run] = []
    pieces: list[Piece] = []
    room = most_tokens
    for segment in found:
        path, left = cut(path, segment.start)
        gone += left
        start = segment.start
        while start < segment.end:
            if room == 0 or (whole and pieces and room < segment.end - start):
                yield pieces
                slots.give(gone)
                pieces, gone, room = [], [], most_tokens
            count = segment.end - start if whole else min(room, segment.end - start)
            path = joined(path, slots.take(count))
            pieces.append(Piece(segment, start, start + count, tuple(path)))
            start, room = start + count, max(0, room - count)
    if pieces:
        yield pieces
    slots.give([*gone, *path])


def cut(runs: Sequence[Run], tokens: int) -> tuple[list[Run], list[Run]]:
    """The runs of the first `tokens` tokens, and the others."""
    kept: list[Run] = []
    left: list[Run] = []
    for start, end in runs:
        middle = start + min(tokens, end - start)
        tokens -= middle - start
        if middle > start:
            kept.append((start, middle))
        if end > middle:
            left.append((middle, end))
    return kept, left


def joined(runs: Sequence[Run], more: Sequence[Run]) -> list[Run]:
    """Both, one after another; those that touch become one."""
    result = list(runs)
    for start, end in more:
        if result and result[-1][1] == start:
            result[-1] = (result[-1][0], end)
        else:
            result.append((start, end))
    return result
