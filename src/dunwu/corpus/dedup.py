"""Duplicates: exact ones by a hash of the normalised text, near ones by MinHash and locality-sensitive hashing.

Signatures are computed where the text is (in the workers) and kept on disk; finding pairs is one sort for each band, so
memory is some tens of bytes a document and does not depend on the length of documents. After Broder (1997), "On the
resemblance and containment of documents", and arXiv:2107.06499 for its use on training data. MinHash by `rensa`.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import rensa

from dunwu.corpus.measure import Hashes, shingles

Signatures = npt.NDArray[np.uint32]

SHINGLE = 5  # lexemes: words in English, characters in Chinese
PERMUTATIONS = 128  # the standard error of an estimated similarity of 0.8 is 0.035
BANDS = 32  # of 4 rows: a pair of similarity 0.65 meets with probability 0.998, one of 0.8 always
SPLIT_MARGIN = 0.15  # how much less similar than `near_threshold` a pair must be to straddle the split
_ROWS = PERMUTATIONS // BANDS
_SEED = 20240501
_ALL_PAIRS = 48  # in a larger bucket, each is compared with the first few and with its neighbours only
_BATCH = 1 << 15


def text_hash(text: str) -> bytes:
    """16 bytes that are equal for texts that differ only in blanks and in the case of a to z."""
    data = text.encode("utf-8", "replace").translate(None, b" \t\n\r\f").lower()
    return hashlib.blake2b(data, digest_size=16).digest()


def signatures(hashes: Hashes, borders: npt.NDArray[np.int64]) -> Signatures:
    """MinHash signature of each section of a text, `[sections, PERMUTATIONS]`.

    `hashes`: those of its lexemes; `borders`, `[sections + 1]`: section i holds the lexemes from borders[i] to
    borders[i + 1]. Shingles run on over the border, so the minimum over sections is the signature of the whole.
    """
    mixed = shingles(hashes, SHINGLE)
    offsets = np.minimum(borders, len(mixed)).astype(np.uint64)
    offsets[-1] = len(mixed)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(  # pyright: ignore[reportAttributeAccessIssue] a native module without stubs
        mixed, offsets, PERMUTATIONS, _SEED
    )
    return np.array(matrix.to_rows(), np.uint32).reshape(len(borders) - 1, PERMUTATIONS)


def exact_repeats(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """True where an earlier row of `hashes`, `[n, 2]`, is the same."""
    order = np.lexsort((np.arange(len(hashes)), hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    repeated = np.zeros(len(hashes), bool)
    repeated[order[1:]] = (ordered[1:] == ordered[:-1]).all(axis=1)
    return repeated


def similar_pairs(
    sketches: Signatures, eligible: npt.NDArray[np.bool_], threshold: float
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Pairs i < j of rows whose estimated Jaccard similarity is at least `threshold`: `[n, 2]` and the estimates, `[n]`.

    `sketches`, `[n, PERMUTATIONS]`, may be a memory map. Each pair comes once, but of large buckets not all pairs are compared.
    """
    rows = np.flatnonzero(eligible)
    for band in range(BANDS):
        keys = _band_keys(sketches, rows, band)
        order = np.argsort(keys, kind="stable")
        for pairs in _candidates(keys[order], rows[order]):
            estimates, met_before = _compared(sketches, pairs, band)
            near = (estimates >= threshold) & ~met_before
            if near.any():
                yield pairs[near], estimates[near]


def _band_keys(sketches: Signatures, rows: npt.NDArray[np.int64], band: int) -> Hashes:
    keys = np.empty(len(rows), np.uint64)
    for start in range(0, len(rows), _BATCH):
        part = np.asarray(sketches[rows[start : start + _BATCH], band * _ROWS : (band + 1) * _ROWS], np.uint64)
        mixed = part[:, 0].copy()
        for column in range(1, _ROWS):
            mixed *= np.uint64(0x9E3779B97F4A7C15)
            mixed += part[:, column]
        keys[start : start + _BATCH] = mixed ^ (mixed >> np.uint64(32))
    return keys


def _candidates(keys: Hashes, rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Pairs of rows with equal keys, in batches; `keys` sorted, rows ascending among equal keys."""
    borders = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1], True]) if len(keys) else np.zeros(1, np.int64)
    waiting: list[tuple[int, int]] = []
    for start, size in zip(borders[:-1], np.diff(borders), strict=True):
        if size < 2:
            continue
        members = [int(row) for row in rows[start : start + size]]
        waiting.extend(_bucket_pairs(members))
        if len(waiting) >= _BATCH:
            yield np.array(waiting, np.int64)
            waiting = []
    if waiting:
        yield np.array(waiting, np.int64)


def _bucket_pairs(members: list[int]) -> Iterator[tuple[int, int]]:
    for index, right in enumerate(members):
        if len(members) <= _ALL_PAIRS:
            earlier = range(index)
        else:
            earlier = sorted({*range(min(index, 8)), *range(max(0, index - 2), index)})
        for other in earlier:
            yield members[other], right


def _compared(
    sketches: Signatures, pairs: npt.NDArray[np.int64], band: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Estimated similarity of each pair, and whether an earlier band brought it together already."""
    found = np.empty(len(pairs), np.float32)
    before = np.empty(len(pairs), bool)
    for start in range(0, len(pairs), 4096):
        part = pairs[start : start + 4096]
        equal = sketches[part[:, 0]] == sketches[part[:, 1]]
        found[start : start + 4096] = equal.mean(axis=1)
        before[start : start + 4096] = equal[:, : band * _ROWS].reshape(len(part), band, _ROWS).all(axis=2).any(axis=1)
    return found, before


@dataclass(slots=True)
class Clusters:
    """Union-find: the smallest member stands for its cluster."""

    parents: npt.NDArray[np.int64]

    @classmethod
    def singles(cls, count: int) -> "Clusters":
        """`count` clusters of one."""
        return cls(np.arange(count, dtype=np.int64))

    def find(self, member: int) -> int:
        """The member that stands for this one's cluster."""
        parents = self.parents
        while parents[member] != member:
            parents[member] = parents[parents[member]]
            member = int(parents[member])
        return member

    def join(self, left: int, right: int) -> None:
        """Make one cluster of two."""
        left, right = self.find(left), self.find(right)
        self.parents[max(left, right)] = min(left, right)

    def names(self) -> npt.NDArray[np.int64]:
        """The cluster of each member, `[count]`."""
        names = self.parents
        while True:
            above = names[names]
            if (above == names).all():
                return names
            names = above


def near_repeats(pairs: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.bool_]:
    """Which of `count` documents to drop so that of no pair (i < j, `[n, 2]`) both are kept: true where an earlier,
    kept one is near. Those like a dropped one only are kept: likeness is not passed on along a chain."""
    dropped = np.zeros(count, bool)
    if len(pairs):
        for left, right in pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]:
            if not dropped[left]:
                dropped[right] = True
    return dropped
