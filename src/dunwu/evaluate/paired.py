"""Two models on the same questions: the difference with its interval, a test, and how many questions would tell them apart.

Only questions that came out differently say anything: one that both got right is no evidence for either.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from dunwu.evaluate.clustered import clusters
from dunwu.evaluate.stats import (
    PairedDifference,
    mcnemar_exact,
    paired_difference,
    paired_proportions,
    paired_ratio_difference,
    t_quantile,
)

ALPHA, POWER = 0.05, 0.8
MOST_STEPS = 2_000_000_000  # of the exact sign-flip distribution, a second or two
GRID = 4096  # steps of the sign-flip distribution where differences are no whole numbers

Floats = npt.NDArray[np.float64]


def paired(before: Sequence[float], after: Sequence[float], groups: Sequence[str] = ()) -> PairedDifference:
    """The mean of after - before over the same questions. `groups`: as in `score_interval`; clusters count, where there are any.

    Right and wrong without clusters: Bonett and Price's interval and McNemar's exact test. With clusters: Student's interval over
    clusters (one imagined change each way, in two clusters of the usual size), and the sign-flip test of whole clusters. Other values: Student's
    interval, and the sign-flip test. Raises ValueError where the two are not of one length.
    """
    x, y = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if x.shape != y.shape:
        raise ValueError(f"{x.size} answers before and {y.size} after: they must be to the same questions")
    if x.size == 0:
        return PairedDifference(math.nan, math.nan, math.nan, 0, math.nan)
    gains, sizes = clusters(y - x, groups)
    shares = set(np.unique(np.concatenate([x, y]))) <= {0.0, 1.0}
    if shares and len(sizes) == x.size:
        return paired_proportions((x == 1).tolist(), (y == 1).tolist())
    if len(sizes) == x.size:
        return _bounded(paired_difference(x, y), shares)._replace(p_value=sign_flip(gains))
    if shares:  # never sure of a difference of nothing because no answer happened to change
        gains_, sizes_ = np.concatenate([gains, [1.0, -1.0]]), np.concatenate([sizes, [sizes.mean()] * 2])
        change = paired_ratio_difference(np.zeros(gains_.size), gains_, sizes_)
    else:
        change = paired_ratio_difference(np.zeros(gains.size), gains, sizes)
    value = float(gains.sum() / sizes.sum())
    return _bounded(change, shares)._replace(value=value, n=int(x.size), p_value=sign_flip(gains))


def _bounded(change: PairedDifference, shares: bool) -> PairedDifference:
    return change._replace(low=max(-1.0, change.low), high=min(1.0, change.high)) if shares else change


def sign_flip(gains: Sequence[float] | Floats) -> float:
    """Two-sided p-value that gains are as likely as losses of the same size: of all ways to change signs, the share whose sum
    is as far from 0. Exact for whole numbers (for 1 and -1 it is McNemar's test), else to 1/4096 of the largest, and never too small.
    """
    d = np.abs(np.asarray(gains, dtype=np.float64))
    total = float(np.sum(gains))
    d = d[d > 0]
    if d.size == 0:
        return 1.0
    whole = bool(np.all(d == np.rint(d))) and d.size * d.sum() <= MOST_STEPS
    if whole and d.max() == 1:
        gained = round((d.size + total) / 2)
        return mcnemar_exact(gained, d.size - gained)
    if not whole:
        d, total = d / d.max(), total / float(d.max())
    step = 1.0 if whole else 1 / GRID
    if not whole and d.size > 64:
        return _flipped_normal(d, total)
    steps = np.rint(d / step).astype(int)
    law = np.ones(1)  # of the sum of those that keep their sign; the signed sum is twice that less all of them
    for jump in steps:
        grown = np.zeros(law.size + jump)
        grown[: law.size] += law / 2
        grown[jump:] += law / 2
        law = grown
    sums = np.abs(2 * np.arange(law.size) - steps.sum()) * step
    slack = 0.5 if whole else step * (d.size / 2 + 0.5)
    return float(min(1.0, law[sums >= abs(total) - slack].sum()))


def _flipped_normal(sizes: Floats, total: float) -> float:
    """For many, the sum of changed signs is all but normal."""
    return 2 * NormalDist().cdf(-abs(total) / math.sqrt(float((sizes**2).sum())))


def questions_needed(difference: float, changed: float, *, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """How many questions tell two models apart `power` of the time, when `changed` of them come out differently and the models
    differ by `difference` (Connor 1987, Biometrics 43:207; paired proportions). None where they do not differ.

    Never fewer than with the least number of changes that can be significant.
    """
    gap = abs(difference)
    if gap == 0:
        return None
    changed = max(changed, gap)
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    n = ((z_alpha * math.sqrt(changed) + z_power * math.sqrt(max(0.0, changed - gap * gap))) / gap) ** 2
    least = math.ceil(1 - math.log2(alpha))  # all changes one way: 2 / 2^k <= alpha
    return max(math.ceil(n), math.ceil(least / changed))


def smallest_difference(n: int, changed: float, *, alpha: float = ALPHA, power: float = POWER) -> float | None:
    """The smallest difference that `n` questions show `power` of the time, when `changed` of them come out differently. None
    where even all changes one way would not do."""
    if n <= 0 or changed <= 0 or (needed := questions_needed(changed, changed, alpha=alpha, power=power)) is None:
        return None
    if needed > n:
        return None
    low, high = 0.0, changed
    for _ in range(50):
        middle = (low + high) / 2
        needed = questions_needed(middle, changed, alpha=alpha, power=power)
        low, high = (low, middle) if needed is not None and needed <= n else (middle, high)
    return high


def needed_values(gains: Sequence[float], *, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """How many questions tell two models apart whose scores are no shares, by the spread of their differences; None where the
    mean is 0."""
    d = np.asarray(gains, dtype=np.float64)
    if d.size < 2 or d.mean() == 0:
        return None
    z = NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(power)
    n = max(2, math.ceil((z * float(d.std(ddof=1)) / float(d.mean())) ** 2))
    # a t test needs a few more
    return (
        math.ceil(n * (t_quantile(1 - alpha / 2, max(1, n - 1)) / NormalDist().inv_cdf(1 - alpha / 2)) ** 2)
        if n < 60
        else n
    )
