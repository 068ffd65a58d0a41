"""Which lengths share a row: best fit, longest first."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Rows of places. Place p holds the p-th longest item; row r holds the places `order[starts[r]:starts[r+1]]`."""

    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.starts) - 1

    def places(self, row: int) -> npt.NDArray[np.int64]:
        """The places in `row`."""
        return self.order[self.starts[row] : self.starts[row + 1]]


def pack(lengths: npt.NDArray[np.int64], capacity: int) -> Packing:
    """Pack items of `lengths` (each at most `capacity`) into rows, each into the fullest row that still takes it.

    Longest first (best-fit decreasing: at most 11/9 of the fewest rows possible, Johnson 1974). It depends on the
    lengths alone, so the number of rows does not change when items of one length trade places.
    """
    rows_by_space: dict[int, list[int]] = {}
    spaces = 0  # bit s is set when some row has room for exactly s more
    row_of_place = np.empty(len(lengths), np.int64)
    rows = 0
    for place, length in enumerate(np.sort(lengths)[::-1].tolist()):
        roomy = spaces >> length
        if roomy:
            space = length + (roomy & -roomy).bit_length() - 1
            row = rows_by_space[space].pop()
            if not rows_by_space[space]:
                spaces ^= 1 << space
        else:
            space, row = capacity, rows
            rows += 1
        row_of_place[place] = row
        left = space - length
        if left:
            rows_by_space.setdefault(left, []).append(row)
            spaces |= 1 << left
    order = np.argsort(row_of_place, kind="stable")
    starts = np.searchsorted(row_of_place[order], np.arange(rows + 1))
    return Packing(order=order, starts=starts)
