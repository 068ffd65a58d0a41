"""Rows of answers for the training loop, addressed by number: row i is a pure function of (seed, i).

Items are packed best fit first. Every epoch puts other items of the same length into the places of the packing, and visits
the rows in another order.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from dunwu.align.answers import Item, rows_of
from dunwu.core.lineage import stable_hash
from dunwu.corpus.packing import pack
from dunwu.corpus.stream import Batch, epoch_key, fingerprint_of, permuted

Reference = Sequence[npt.NDArray[np.float32]]
WIDTH_STEP = 32


class AnswerStream:
    """Rows of `items`, all of whose answers to one prompt stand in the same row.

    `context_length` is the width of a row: at least `least_width`, and wide enough for the longest item. `reference`: the
    log-probabilities of each item's answers, for methods that ask for them. `by_answer`: see `rows_of`.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        least_width: int,
        seed: int,
        share: bool = True,
        by_answer: bool = False,
        reference: Reference | None = None,
    ) -> None:
        self.items, self.seed, self.share, self.by_answer, self.reference = items, seed, share, by_answer, reference
        self.lengths = np.array([item.length if share else item.length_apart for item in items], np.int64)
        self.context_length = row_width(int(self.lengths.max()), least_width)
        self._packing = pack(self.lengths, self.context_length)
        self.rows_per_epoch = self._packing.rows
        self.filled = float(self.lengths.sum() / (self.rows_per_epoch * self.context_length))
        self._members = lru_cache(maxsize=2)(self._make_members)
        known = "" if reference is None else hashlib.sha256(b"".join(part.tobytes() for part in reference)).hexdigest()
        self.fingerprint = fingerprint_of(
            "answers", seed, self.context_length, share, by_answer, items_fingerprint(items), known
        )

    def batch(self, first_row: int, rows: int) -> Batch:
        """Rows `first_row` to `first_row + rows` of the endless stream."""
        return rows_of(
            self.items,
            [self._row(row) for row in range(first_row, first_row + rows)],
            self.context_length,
            share=self.share,
            reference=self.reference,
            by_answer=self.by_answer,
        )

    def _row(self, row: int) -> list[int]:
        epoch, index = divmod(row, self.rows_per_epoch)
        place = permuted(index, self.rows_per_epoch, epoch_key(self.seed, epoch))
        return self._members(epoch)[self._packing.places(place)].tolist()

    def _make_members(self, epoch: int) -> npt.NDArray[np.int64]:
        """Which item stands at each place of the packing: those of one length change places every epoch."""
        generator = np.random.Generator(np.random.Philox(key=epoch_key(self.seed, epoch)[0]))
        return np.lexsort((generator.random(len(self.lengths)), -self.lengths))


def row_width(longest: int, least: int) -> int:
    """A width for rows that hold an item of the longest length."""
    return max(least, -(-longest // WIDTH_STEP) * WIDTH_STEP)


def items_fingerprint(items: Sequence[Item]) -> str:
    """A hash of all ids, in their order, and of what counts."""
    digest = hashlib.sha256()
    for item in items:
        parts = [
            item.prompt.tobytes(),
            *(part for one in item.answers for part in (one.ids.tobytes(), one.learned.tobytes())),
        ]
        sizes = [len(item.prompt), *((one.kind, len(one.ids)) for one in item.answers)]
        digest.update(stable_hash(sizes).encode() + b"".join(parts))
    return digest.hexdigest()
