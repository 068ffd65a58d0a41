"""Small curves fitted from many starts: Huber losses of residuals by scipy's `least_squares`, and what the starts agree on.

Shapes: `R` rows, `P` parameters.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dunwu.core.errors import DataError, MissingExtraError
from dunwu.lab.scaling.points import Floats

AGREED = 1e-4  # two ends whose objectives differ by less, relatively, are one
Bounds = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Found:
    """The best end, `[P]`; `objective`: the sum of Huber losses there; `agreed` of `starts` ended there too."""

    x: Floats
    objective: float
    starts: int
    agreed: int


def solve(
    residual: Callable[[Floats], Floats], starts: Iterable[Sequence[float] | Floats], *, bounds: Bounds, delta: float
) -> Found:
    """From each start to the least sum of Huber losses of `residual(x)`, `[R]`, straight beyond `delta`. Raises DataError."""
    least_squares = _solver()
    low, high = (np.asarray(one, np.float64) for one in bounds)
    room = np.where(np.isfinite(high - low), 1e-9 * (high - low), 0.0)
    ends: list[tuple[float, Floats]] = []
    for start in starts:
        inside = np.clip(np.asarray(start, np.float64), low + room, high - room)
        if not np.isfinite(residual(inside)).all():
            continue
        found = least_squares(
            residual, inside, bounds=(low, high), loss="huber", f_scale=delta, x_scale="jac", xtol=1e-12, ftol=1e-12, gtol=1e-12
        )  # fmt: skip
        ends.append((float(found.cost), found.x))
    if not ends:
        raise DataError("no start gives finite residuals; check the table for values out of all proportion")
    ends.sort(key=lambda end: end[0])
    best = ends[0]
    return Found(best[1], best[0], len(ends), sum(cost <= best[0] * (1 + AGREED) + 1e-15 for cost, _ in ends))


def _solver() -> Callable[..., Any]:
    try:
        from scipy.optimize import least_squares
    except ImportError as error:
        raise MissingExtraError("scipy", "lab", "fitting a curve") from error
    return least_squares
