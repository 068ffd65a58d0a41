"""Stretches of equal length out of documents, chosen by a seed; none crosses the end of a document, none overlaps another.

Shapes: `N` passages, `L` tokens of each.
"""

# ruff: noqa: N815 (shape suffixes of fields are upper case)

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dunwu.corpus.shards import TokenShards

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Passages:
    """`document_N`: which document each is of; `start_N`: where it begins among the tokens of all."""

    ids_NL: Ids
    document_N: Ids
    start_N: Ids

    def __len__(self) -> int:
        return len(self.ids_NL)


def choose_passages(
    tokens: npt.NDArray[Any], ends: npt.NDArray[np.int64], *, length: int, count: int, seed: int
) -> Passages:
    """At most `count` passages of `length` tokens. `ends`: where each document ends in `tokens`, its end-of-text id included.

    Documents are cut into stretches from a place that the seed chooses; of all stretches `count` are drawn, all alike, so a
    long document has more of them.
    """
    generator = np.random.default_rng([seed, length])
    begins = np.concatenate([[0], ends[:-1]])
    spare = ends - 1 - begins - length  # without the end-of-text id
    fits = np.flatnonzero(spare >= 0)
    offsets = generator.integers(0, np.minimum(spare[fits] % length, length - 1) + 1)
    counts = (ends[fits] - 1 - begins[fits] - offsets) // length
    chosen = np.sort(generator.permutation(int(counts.sum()))[:count])
    last = np.cumsum(counts)
    which = np.searchsorted(last, chosen, side="right")
    starts = begins[fits][which] + offsets[which] + (chosen - (last - counts)[which]) * length
    ids = [tokens[start : start + length].astype(np.int64) for start in starts.tolist()]
    return Passages(
        ids_NL=np.stack(ids) if ids else np.empty((0, length), np.int64),
        document_N=fits[which],
        start_N=starts.astype(np.int64),
    )


def of_shards(shards: TokenShards, *, length: int, count: int, seed: int) -> Passages:
    """Passages of a corpus as it is learned from."""
    ends = np.asarray(shards.document_ends)
    return choose_passages(shards.tokens, ends, length=length, count=count, seed=seed)


def of_texts(texts: Sequence[npt.NDArray[np.int32]], *, length: int, count: int, seed: int) -> Passages:
    """Passages of encoded texts."""
    ends = np.cumsum([len(ids) + 1 for ids in texts], dtype=np.int64)
    tokens = np.concatenate([np.append(ids, 0) for ids in texts]) if texts else np.empty(0, np.int64)
    return choose_passages(tokens, ends, length=length, count=count, seed=seed)
