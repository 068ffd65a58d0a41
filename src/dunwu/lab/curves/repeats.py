"""How often each passage of training text had been learned from at a place of a run, and what that did to its loss.

The order of the rows follows from the seed, so it is known which were done. Within a pass it is random: passages that
a pass had reached and those that it had not yet are alike but for that, which is what makes the comparison fair.

Shapes: `N` passages.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dunwu.corpus.stream import PretrainStream
from dunwu.evaluate.stats import Estimate, ratio_interval
from dunwu.lab.curves.in_context import by_document
from dunwu.lab.curves.passages import Passages

CHUNK = 2_000_000  # tokens looked through at a time
BOUNDS = (0, 1, 2, 3, 5, 9, 17, 33, 65)  # where a class of repeats begins; above the last all are one
FEWEST = 8  # passages of a class that is told

Whole = npt.NDArray[np.int64]


def visits(stream: PretrainStream, tokens: int, rows: int) -> Whole:
    """How often each token was a target in the first `rows` rows, `[tokens]`."""
    steps = np.zeros(tokens + 1, np.int64)
    for row in range(rows):
        begin = (stream.start_of(row) + 1) % tokens
        whole, rest = divmod(stream.context_length, tokens)
        steps[0] += whole
        end = begin + rest
        steps[begin] += 1
        steps[min(end, tokens)] -= 1
        if end > tokens:
            steps[0] += 1
            steps[end - tokens] -= 1
    return np.cumsum(steps[:-1])


def copies(tokens: npt.NDArray[Any], passages: Passages) -> tuple[Whole, Whole]:
    """Where each passage stands in the corpus, itself included: numbers of passages, and where each begins."""
    count, length = passages.ids_NL.shape
    by_hash: dict[int, list[int]] = {}
    table = np.random.default_rng(0).integers(1, 1 << 63, int(tokens.max(initial=0)) + 1, dtype=np.uint64)
    for number, value in enumerate(_hashes(table[passages.ids_NL].ravel(), length)[::length].tolist() if count else []):
        by_hash.setdefault(value, []).append(number)
    found: list[tuple[int, int]] = []
    for place, value in _places(tokens, table, length, np.array(list(by_hash), np.uint64)):
        there = tokens[place : place + length]
        found += [(number, place) for number in by_hash[value] if np.array_equal(passages.ids_NL[number], there)]
    pairs = np.array(found, np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _places(
    tokens: npt.NDArray[Any], table: npt.NDArray[np.uint64], length: int, wanted: npt.NDArray[np.uint64]
) -> Iterator[tuple[int, int]]:
    """Places whose hash is one of `wanted`, with it."""
    for begin in range(0, max(0, len(tokens) - length + 1), CHUNK):
        hashes = _hashes(table[np.asarray(tokens[begin : begin + CHUNK + length - 1])], length)
        at = np.flatnonzero(np.isin(hashes, wanted))
        yield from zip((begin + at).tolist(), hashes[at].tolist(), strict=True)


def _hashes(values: npt.NDArray[np.uint64], length: int) -> npt.NDArray[np.uint64]:
    """A hash of each window: its values, each times an odd number to the power of its place in the window, modulo 2^64."""
    factor = 0x9E3779B97F4A7C15
    powers = np.empty(len(values) + 1, np.uint64)
    inverse = np.empty(len(values) + 1, np.uint64)
    powers[0] = inverse[0] = 1
    np.multiply.accumulate(np.full(len(values), factor, np.uint64), out=powers[1:])
    np.multiply.accumulate(np.full(len(values), pow(factor, -1, 1 << 64), np.uint64), out=inverse[1:])
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values * powers[:-1], dtype=np.uint64)])
    return (sums[length:] - sums[:-length]) * inverse[: len(values) - length + 1]


def times_learned(visits_V: Whole, where: tuple[Whole, Whole], passages: Passages, *, skip: int) -> Whole:
    """How often each passage behind its first `skip` tokens had been learned from, in all its copies, `[N]`."""
    sums = np.concatenate([[0], np.cumsum(visits_V)])
    numbers, places = where
    length = passages.ids_NL.shape[1]
    means = (sums[places + length] - sums[places + skip]) / (length - skip)
    return np.rint(np.bincount(numbers, weights=means, minlength=len(passages))).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """Passages that were learned from `least` to `most` times: their loss, and how much it exceeds that of those of the same
    documents that were learned from least often (`than`). Without such the difference is over all, and not `matched`."""

    least: int
    most: int
    passages: int
    nats: Estimate
    than: int
    difference: Estimate | None
    matched: bool

    def facts(self) -> dict[str, Any]:
        """As JSON holds it."""
        found = asdict(self)
        found["nats"] = self.nats._asdict()
        found["difference"] = None if self.difference is None else self.difference._asdict()
        return found


def by_repeats(nats_N: npt.NDArray[np.float64], times_N: Whole, document_N: Whole) -> list[Repeated]:
    """Classes of passages by how often they were learned from, each against the least repeated one."""
    classes_N = np.searchsorted(np.array(BOUNDS), times_N, side="right") - 1
    told = [at for at in np.unique(classes_N).tolist() if (classes_N == at).sum() >= FEWEST]
    found: list[Repeated] = []
    for at in told:
        own = classes_N == at
        difference, matched = None, False
        if at != told[0]:
            difference, matched = _difference(nats_N, own, classes_N == told[0], document_N)
        found.append(
            Repeated(
                least=int(times_N[own].min()),
                most=int(times_N[own].max()),
                passages=int(own.sum()),
                nats=by_document(nats_N[own], document_N[own]),
                than=int(times_N[classes_N == told[0]].max()),
                difference=difference,
                matched=matched,
            )
        )
    return found


def _difference(
    nats_N: npt.NDArray[np.float64], own: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_], document_N: Whole
) -> tuple[Estimate, bool]:
    """Mean loss of `own` less that of `other`: within documents that have both, where two or more do."""
    both = np.intersect1d(document_N[own], document_N[other])
    if len(both) >= 2:
        gaps, weights = [], []
        for document in both.tolist():
            mine, theirs = nats_N[own & (document_N == document)], nats_N[other & (document_N == document)]
            weights.append(len(mine) * len(theirs) / (len(mine) + len(theirs)))
            gaps.append(float(mine.mean() - theirs.mean()))
        weight = np.array(weights)
        return ratio_interval(np.array(gaps) * weight, weight), True
    mine, theirs = by_document(nats_N[own], document_N[own]), by_document(nats_N[other], document_N[other])
    value = mine.value - theirs.value
    half = float(np.hypot(mine.high - mine.value, theirs.high - theirs.value))
    return Estimate(value, value - half, value + half, int(own.sum() + other.sum())), False
