"""Intervals and tests for the numbers that we print. numpy only; every answer is a pure function of its input (no random draw).

Why no bootstrap: resampling ten documents of unequal length covers the truth 84 to 90% of the time where it says 95
(`tests/evaluate/test_stats.py` simulates it beside ours); a t interval with the right degrees of freedom keeps its word.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = Sequence[float] | npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """A value with its interval; `n` independent cases. The bounds are nan where n is too small to give any."""

    value: float
    low: float
    high: float
    n: int


class PairedDifference(NamedTuple):
    """How much `after` exceeds `before` on the same cases, with an interval and a two-sided p-value."""

    value: float
    low: float
    high: float
    n: int
    p_value: float


def wilson(k: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion of `k` successes in `n` trials, (low, high) within [0, 1].

    Both may be fractional (partial credit, questions that are worth less than one). n = 0 gives (0, 1): nothing is known. Wilson 1927, JASA 22:209.
    """
    if n < 0 or not 0 <= k <= n:
        raise ValueError(f"k={k} successes in n={n} trials: 0 <= k <= n must hold")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p, z2 = k / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if k == 0 else max(0.0, centre - half)
    high = 1.0 if k == n else min(1.0, centre + half)
    return low, high


def mean_interval(values: Numbers, confidence: float = 0.95) -> Estimate:
    """The mean of independent values with Student's t interval."""
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0:
        raise ValueError("no values: a mean needs at least one")
    mean = float(x.mean())
    if x.size == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    half = t_quantile(0.5 + confidence / 2, x.size - 1) * float(x.std(ddof=1)) / math.sqrt(x.size)
    return Estimate(mean, mean - half, mean + half, int(x.size))


def ratio_interval(numerators: Numbers, denominators: Numbers, confidence: float = 0.95) -> Estimate:
    """sum(numerators) / sum(denominators) over independent clusters, for example bits / bytes by document.

    The variance is the delete-one-cluster jackknife's, linearised (leave out cluster i, whose share of the denominator is h:
    its residual grows by 1 / (1 - h)); the t distribution's degrees of freedom are Satterthwaite's for clusters whose
    residuals grow with their size (Bell and McCaffrey 2002, Survey Methodology 28:169), so one giant document among many
    small ones widens the interval as it should. Clusters with a denominator of 0 are left out.
    """
    y, x = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if y.shape != x.shape or y.ndim != 1:
        raise ValueError(f"numerators {y.shape} and denominators {x.shape} must be vectors of one length")
    if np.any(x < 0):
        raise ValueError("denominators must not be negative")
    y, x = y[x > 0], x[x > 0]
    if x.size == 0:
        raise ValueError("all denominators are 0: a ratio needs at least one cluster with some content")
    share = x / x.sum()
    ratio = float(y.sum() / x.sum())
    if x.size == 1:
        return Estimate(ratio, math.nan, math.nan, 1)
    influence = (y - ratio * x) / x.sum() / (1 - share)
    error = math.sqrt((x.size - 1) / x.size * float(np.sum(influence**2)))
    half = t_quantile(0.5 + confidence / 2, _ratio_freedom(share)) * error
    return Estimate(ratio, ratio - half, ratio + half, int(x.size))


def _ratio_freedom(share_N: npt.NDArray[np.float64]) -> float:
    """Satterthwaite's degrees of freedom of `ratio_interval`'s variance when residuals have standard deviation ∝ cluster size.

    The variance is a quadratic form e' A e of independent residuals e with covariance S = diag(share²), after the ratio is
    taken out (e = M u, M = I - share 1'): freedom = (tr B)² / tr(B²) with B = S^½ M' A M S^½.
    """
    n = share_N.size
    if n > 500:  # spare the n × n matrix: the leave-out terms no longer matter
        return max(1.0, float(np.sum(share_N**2) ** 2 / np.sum(share_N**4)) - 1)
    M = np.eye(n) - np.outer(share_N, np.ones(n))
    root = (M * share_N[None, :]) / (1 - share_N)[:, None]
    B = root.T @ root
    return max(1.0, float(np.trace(B) ** 2 / np.sum(B**2)))


def paired_ratio_difference(
    before: Numbers, after: Numbers, denominators: Numbers, confidence: float = 0.95
) -> PairedDifference:
    """sum(after)/sum(denominators) - sum(before)/sum(denominators) on the same clusters: two models on the same documents."""
    gain = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    x = np.asarray(denominators, dtype=np.float64)
    estimate = ratio_interval(gain, x, confidence)
    if math.isnan(estimate.low):
        return PairedDifference(*estimate, math.nan)
    freedom = _ratio_freedom(x[x > 0] / x.sum())
    error = (estimate.high - estimate.value) / t_quantile(0.5 + confidence / 2, freedom)
    return PairedDifference(*estimate, _two_sided_p(estimate.value, error, freedom))


def paired_difference(before: Numbers, after: Numbers, confidence: float = 0.95) -> PairedDifference:
    """Mean of after - before over the same cases, with the paired t interval and test."""
    x, y = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if x.shape != y.shape:
        raise ValueError(f"before {x.shape} and after {y.shape} must be the same cases")
    estimate = mean_interval(y - x, confidence)
    if estimate.n == 1:
        return PairedDifference(*estimate, math.nan)
    error = float((y - x).std(ddof=1)) / math.sqrt(x.size)
    return PairedDifference(*estimate, _two_sided_p(estimate.value, error, x.size - 1))


def paired_proportions(before: Sequence[bool], after: Sequence[bool], confidence: float = 0.95) -> PairedDifference:
    """Share right after - share right before on the same questions; p-value by McNemar's exact test.

    Interval: Bonett and Price 2012 (adjusted Wald, one imagined change each way), which stays honest when few answers changed.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} answers before and {len(after)} after: they must be to the same questions")
    n = len(before)
    if n == 0:
        return PairedDifference(0.0, -1.0, 1.0, 0, 1.0)
    gained = sum(1 for x, y in zip(before, after, strict=True) if y and not x)
    lost = sum(1 for x, y in zip(before, after, strict=True) if x and not y)
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    low, high = max(-1.0, up - down - half), min(1.0, up - down + half)
    return PairedDifference((gained - lost) / n, low, high, n, mcnemar_exact(gained, lost))


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided p-value that as many answers turned right as wrong: an exact binomial test at one half. No change gives 1."""
    n, k = gained + lost, min(gained, lost)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, 2 * tail / 2**n)


def above_chance(right: int, chances: Numbers) -> float:
    """One-sided p-value of `right` or more correct answers from guessing, when question i is guessed right with chances[i].

    Exact (Poisson-binomial, by convolution): with one chance for all it is the binomial tail.
    """
    p = np.asarray(chances, dtype=np.float64)
    if np.any((p < 0) | (p > 1)):
        raise ValueError("each chance must lie within [0, 1]")
    law = np.ones(1)
    for chance in p:
        law = np.convolve(law, [1 - chance, chance])
    return float(min(1.0, law[right:].sum())) if right > 0 else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for having looked at all of them (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def t_quantile(probability: float, freedom: float) -> float:
    """The quantile of Student's t with (possibly fractional) `freedom`, to about 1e-10; large freedom gives the normal's."""
    if not 0 < probability < 1 or not freedom > 0:
        raise ValueError(f"probability={probability} must be within (0, 1) and freedom={freedom} above 0")
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def t_cdf(t: float, freedom: float) -> float:
    """P(T <= t) for Student's t."""
    tail = _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2
    return 1 - tail if t > 0 else tail


def _two_sided_p(value: float, error: float, freedom: float) -> float:
    if error == 0:
        return 1.0 if value == 0 else 0.0
    return 2 * t_cdf(-abs(value) / error, freedom)


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by Lentz's continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1 / max(1 - (a + b) * x / (a + 1), tiny)
    fraction = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d or tiny)
            c = 1 + term / c or tiny
            fraction *= c * d
        if abs(c * d - 1) < 1e-13:
            break
    return front * fraction
