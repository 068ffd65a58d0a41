"""Intervals for scores whose questions come in clusters: several about one text, or one question in several wordings.

Answers within a cluster resemble one another, so n questions say less than n independent ones. The usual robust variance breaks
down where it is needed, with few clusters and near 0 and 1: with 5 clusters of 5 and an accuracy of .05 it covers 40 to 73% of
the time where it says 95 (`tests/evaluate/test_coverage.py` shows it beside ours).
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dunwu.evaluate.stats import Estimate, mean_interval, ratio_interval, wilson

ACCURACIES, CORRELATIONS = 120, 16  # the grid of the posterior
QUANTILE = 0.6  # of the correlation's posterior; the mean covered .910 at worst, this .926

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]


def score_interval(values: Sequence[float], groups: Sequence[str] = ()) -> Estimate:
    """The mean of scores with its 95% interval. `groups`: the cluster of each; "" and none at all stand for one of its own.

    Right and wrong (1 and 0): Wilson's interval, with the number of independent questions that the clusters are worth. Other values:
    Student's t over clusters, within [0, 1] where the values are.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    sums, sizes = clusters(x, groups)
    if set(np.unique(x)) <= {0.0, 1.0}:
        return share_interval(sums, sizes)
    estimate = mean_interval(x) if len(sizes) == x.size else ratio_interval(sums, sizes)._replace(n=int(x.size))
    if x.min() < 0 or x.max() > 1 or math.isnan(estimate.low):
        return estimate
    return estimate._replace(low=max(0.0, estimate.low), high=min(1.0, estimate.high))


def clusters(values: Floats, groups: Sequence[str]) -> tuple[Floats, Floats]:
    """The sum of values and the number of questions of each cluster."""
    if not groups:
        return values, np.ones(values.size)
    names = [group or f"\0{place}" for place, group in enumerate(groups)]
    _, where = np.unique(names, return_inverse=True)
    return np.bincount(where, weights=values).astype(np.float64), np.bincount(where).astype(np.float64)


def share_interval(right: Sequence[float] | Floats, sizes: Sequence[float] | Floats) -> Estimate:
    """The share of right answers from the number right and the size of each cluster, with its 95% interval.

    Wilson's, with n / D independent questions (Korn and Graubard 1998, Survey Methodology 24:193; Dean and Pagano 2015, J. Survey
    Stat. Methodol. 3:484), where D = 1 + (Σ size² / n - 1) ρ is the design effect. Here ρ is not the moment estimate, which is
    0 or noise with few clusters, but the 60% quantile of its posterior under a beta-binomial law, all ρ equally likely before.
    """
    k, m = np.asarray(right, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    n = float(m.sum())
    value, effective = float(k.sum()) / n, n / design_effect(k, m)
    low, high = wilson(value * effective, effective)
    return Estimate(value, low, high, round(n))


def design_effect(right: Floats, sizes: Floats) -> float:
    """How many times as many questions the clusters need as independent ones would, 1 or more."""
    extra = float((sizes**2).sum() / sizes.sum()) - 1
    return 1.0 if extra <= 0 else 1.0 + extra * _correlation(right, sizes)


def _correlation(right: Floats, sizes: Floats) -> float:
    """The correlation of two answers in one cluster: a quantile of its posterior, accuracy integrated out (Jeffreys' prior)."""
    correlations = (np.arange(CORRELATIONS) + 0.5) / CORRELATIONS
    pairs, counts = np.unique(np.stack([right, sizes]), axis=1, return_counts=True)
    k, m = np.rint(pairs).astype(np.int64)
    log_likelihood = _log_likelihood(k, m, counts, correlations)
    weight = np.exp(log_likelihood - log_likelihood.max()).sum(axis=1)
    below = np.concatenate([[0.0], np.cumsum(weight) / weight.sum()])
    return float(np.interp(QUANTILE, below, np.arange(CORRELATIONS + 1) / CORRELATIONS))


def _log_likelihood(k: Whole, m: Whole, counts: Whole, correlations: Floats) -> Floats:
    """Of beta-binomial clusters: [correlation, accuracy], the accuracies even in arcsin √p."""
    accuracy = np.sin((np.arange(ACCURACIES) + 0.5) / ACCURACIES * math.pi / 2) ** 2
    strength = (1 - correlations[:, None]) / correlations[:, None]
    rights = _rising((accuracy * strength).ravel(), int(k.max()))
    wrongs = _rising(((1 - accuracy) * strength).ravel(), int((m - k).max()))
    alls = _rising(strength.ravel(), int(m.max()))[:, m] @ counts
    found = rights[:, k] @ counts + wrongs[:, m - k] @ counts
    return found.reshape(correlations.size, ACCURACIES) - alls[:, None]


def _rising(start: Floats, most: int) -> Floats:
    """log of start (start + 1) … (start + j - 1) for j = 0 … most: [start, j]."""
    logs = np.log(start[:, None] + np.arange(most)[None, :])
    return np.concatenate([np.zeros((start.size, 1)), np.cumsum(logs, axis=1)], axis=1)
