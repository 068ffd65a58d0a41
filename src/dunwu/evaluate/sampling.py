"""What several answers to a question say of a model: how often one of k is right, and how good the best of k is.

All are unbiased for k drawn without replacement from the n that there are, so n > k answers give less noise than k.
"""

import math
from collections.abc import Sequence

from dunwu.evaluate.stats import Estimate, mean_interval, wilson


def pass_at_k(n: int, right: int, k: int) -> float:
    """The chance that one of `k` answers is right, from `right` of `n`: 1 - C(n - right, k) / C(n, k) (arXiv:2107.03374 eq. 1)."""
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"right={right} of n={n} answers and k={k}: 0 <= right <= n and 1 <= k <= n must hold")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def pass_at(counts: Sequence[tuple[int, int]], k: int) -> Estimate:
    """`pass_at_k` over questions, each with its (n, right). Wilson's interval over the questions: too wide rather than too narrow,
    as a share of a question varies less than a whole one."""
    total = math.fsum(pass_at_k(n, right, k) for n, right in counts)
    low, high = wilson(min(total, len(counts)), len(counts))
    return Estimate(total / len(counts) if counts else math.nan, low, high, len(counts))


def best_of_k(scores: Sequence[float], k: int, values: Sequence[float] | None = None) -> float:
    """What the best of `k` answers by score is worth: its own score, or what `values` say of it. Equal scores are drawn between.

    Sorted upwards, answer i (from 1) is the best of C(i - 1, k - 1) of the C(n, k) choices.
    """
    n = len(scores)
    if not 1 <= k <= n:
        raise ValueError(f"k={k} of n={n} answers: 1 <= k <= n must hold")
    worth = _tied_means(scores, scores if values is None else values)
    return math.fsum(math.comb(i, k - 1) / math.comb(n, k) * value for i, value in enumerate(worth) if i >= k - 1)


def best_of(groups: Sequence[Sequence[float]], k: int, values: Sequence[Sequence[float]] | None = None) -> Estimate:
    """The mean of `best_of_k` over questions, with Student's interval."""
    worth = groups if values is None else values
    return mean_interval([best_of_k(scores, k, own) for scores, own in zip(groups, worth, strict=True)])


def best_of_kl(k: int) -> float:
    """How far the best of `k` strays from the model, at the most, nats: log k - (k - 1) / k (arXiv:2009.01325; a bound by
    arXiv:2401.01879)."""
    return math.log(k) - (k - 1) / k


def _tied_means(scores: Sequence[float], values: Sequence[float]) -> list[float]:
    """Values in the order of their scores, upwards; those of one score all as their mean, as any of them may come last."""
    groups: dict[float, list[float]] = {}
    for score, value in sorted(zip(scores, values, strict=True)):
        groups.setdefault(score, []).append(value)
    return [math.fsum(group) / len(group) for group in groups.values() for _ in group]
