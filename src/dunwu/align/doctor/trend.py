"""Does a figure rise, and are two stretches of a run apart? Tests that noise from step to step does not fool.

Figures of neighbouring steps are means over other prompts, so their noise is nearly independent; slow drift is what is looked
for. Rises are tested on the means of a few blocks of steps: what is left of dependence evens out within a block.
"""

import itertools
import math
from collections.abc import Sequence
from functools import cache
from statistics import fmean

from dunwu.evaluate.stats import t_cdf

BLOCKS = 12


def rise_p(values: Sequence[float]) -> float:
    """One-sided p-value that the values rise: Mann-Kendall's test, exact, on the means of at most `BLOCKS` blocks.

    Ties count as neither, which makes it err on the side of caution. 1 for fewer than four values.
    """
    means = block_means(values)
    if len(means) < 4:
        return 1.0
    ordered = sum((b > a) - (b < a) for i, a in enumerate(means) for b in means[i + 1 :])
    pairs = len(means) * (len(means) - 1) // 2
    return _inversions_at_most(len(means), (pairs - ordered) // 2)


def fall_p(values: Sequence[float]) -> float:
    """One-sided p-value that the values fall."""
    return rise_p([-value for value in values])


def block_means(values: Sequence[float], blocks: int = BLOCKS) -> list[float]:
    """Means of consecutive stretches of about one length."""
    count = min(blocks, len(values))
    bounds = [len(values) * at // count for at in range(count + 1)] if count else []
    return [fmean(values[low:high]) for low, high in itertools.pairwise(bounds)]


def spread(values: Sequence[float]) -> float:
    """The standard deviation of a sample of two or more."""
    mean = fmean(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def above_p(earlier: Sequence[float], later: Sequence[float]) -> float:
    """One-sided p-value that the mean of `later` is above that of `earlier`: Welch's t test. 1 for fewer than two values."""
    if min(len(earlier), len(later)) < 2:
        return 1.0
    parts = [spread(side) ** 2 / len(side) for side in (earlier, later)]
    difference, total = fmean(later) - fmean(earlier), sum(parts)
    if total == 0:
        return 0.0 if difference > 0 else 1.0
    freedom = total**2 / sum(p**2 / (len(s) - 1) for p, s in zip(parts, (earlier, later), strict=True) if p > 0)
    return t_cdf(-difference / math.sqrt(total), freedom)


def below_p(earlier: Sequence[float], later: Sequence[float]) -> float:
    """One-sided p-value that the mean of `later` is below that of `earlier`."""
    return above_p(later, earlier)


def together(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """(r, p): the correlation of two figures' changes from step to step, and the one-sided p-value that it is above 0.

    Changes, because two figures that both rise correlate whatever the reason. Neighbouring changes share a value, which makes
    them correlate by -1/2, so two thirds of them count (Bartlett 1935).
    """
    x = [b - a for a, b in itertools.pairwise(one)]
    y = [b - a for a, b in itertools.pairwise(other)]
    if len(x) < 8:
        return 0.0, 1.0
    mean_x, mean_y = fmean(x), fmean(y)
    scale = math.sqrt(sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y))
    if scale == 0:
        return 0.0, 1.0
    r = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / scale
    r = max(-1.0, min(1.0, r))
    freedom = len(x) / 1.5 - 2
    return r, 0.0 if r == 1 else t_cdf(-r * math.sqrt(freedom / (1 - r * r)), freedom) if r > -1 else 1.0


def bend(values: Sequence[float]) -> int:
    """Where a level goes over into a rise or a fall: the place at which a level, and from there a straight line, fit best."""

    def misfit(place: int) -> float:
        mean = fmean(values[: place + 1])
        after = [value - mean for value in values[place + 1 :]]
        slope = sum(at * value for at, value in enumerate(after, 1)) / sum(at * at for at in range(1, len(after) + 1))
        level = sum((value - mean) ** 2 for value in values[: place + 1])
        return level + sum((value - slope * at) ** 2 for at, value in enumerate(after, 1))

    return min(range(len(values) - 1), key=misfit)


@cache
def _inversions_at_most(size: int, most: int) -> float:
    """The share of the orders of `size` things with at most so many pairs out of order."""
    counts = [1]
    for length in range(2, size + 1):
        counts = [sum(counts[max(0, at - length + 1) : at + 1]) for at in range(len(counts) + length - 1)]
    return sum(counts[: most + 1]) / math.factorial(size)
