"""Two streams in one, at a fixed share of rows: general text replayed between that of a domain."""

import hashlib
import itertools
from fractions import Fraction

import torch

from dunwu.core.errors import RecipeError
from dunwu.corpus.stream import Batch, Stream


class MixedStream:
    """Rows of `main`, with rows of `other` spread evenly between them such that they make up `share` of all.

    Row i is one of `other` where i · share passes a whole number, counted in exact fractions from a beginning that the seed
    chooses; so is every row a pure function of seed and i, and any stretch of n rows holds n · share rows of `other` to
    within one. Each stream goes through its own rows in its own order.
    """

    def __init__(self, main: Stream, other: Stream, *, share: float, seed: int) -> None:
        if not 0 < share < 1:
            raise RecipeError(f"replay.share={share} must lie between 0 and 1 to mix anything")
        if main.context_length != other.context_length:
            raise ValueError(f"rows of {main.context_length} and of {other.context_length} tokens cannot share a batch")
        self.main, self.other, self.share, self.seed = main, other, share, seed
        self._share = Fraction(str(share))
        digest = hashlib.blake2b(f"mix/{seed}".encode(), digest_size=8).digest()
        self._beginning = Fraction(int.from_bytes(digest, "little"), 1 << 64)
        self.context_length = main.context_length
        self.rows_per_epoch = round(main.rows_per_epoch / (1 - self._share))
        parts = f"mix/{seed}/{self._share}/{main.fingerprint}/{other.fingerprint}"
        self.fingerprint = hashlib.sha256(parts.encode()).hexdigest()[:16]

    def others_before(self, row: int) -> int:
        """How many of the rows before `row` are of the other stream."""
        return int(row * self._share + self._beginning)

    def batch(self, first_row: int, rows: int) -> Batch:
        """Rows `first_row` to `first_row + rows` of the endless stream."""
        numbers = [self.others_before(row) for row in range(first_row, first_row + rows + 1)]
        is_other = [after > before for before, after in itertools.pairwise(numbers)]
        count = sum(is_other)
        if count == 0:
            return self.main.batch(first_row - numbers[0], rows)
        if count == rows:
            return self.other.batch(numbers[0], rows)
        main = self.main.batch(first_row - numbers[0], rows - count)
        return _interleaved(main, self.other.batch(numbers[0], count), is_other)


def _interleaved(main: Batch, other: Batch, is_other: list[bool]) -> Batch:
    """The rows of both in the order that `is_other` gives."""
    take_main, take_other = iter(range(len(main.ids_BT))), iter(range(len(main.ids_BT), len(is_other)))
    order = torch.tensor([next(take_other if flag else take_main) for flag in is_other])
    documents = None
    if main.document_BT is not None or other.document_BT is not None:
        parts = [batch.ids_BT.new_zeros(batch.ids_BT.shape) if batch.document_BT is None else batch.document_BT
                 for batch in (main, other)]  # fmt: skip
        documents = torch.cat(parts)[order]
    return Batch(
        ids_BT=torch.cat((main.ids_BT, other.ids_BT))[order],
        targets_BT=torch.cat((main.targets_BT, other.targets_BT))[order],
        positions_BT=torch.cat((main.positions_BT, other.positions_BT))[order],
        document_BT=documents,
        learned_tokens=main.learned_tokens + other.learned_tokens,
    )
