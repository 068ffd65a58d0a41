"""The order in which demonstrations are shown: models answer by it too (Lu et al. 2022, arXiv:2104.08786)."""

from collections.abc import Callable, Mapping, Sequence

from dunwu.core.problems import Problem
from dunwu.prompt.demonstrations.at_random import drawing
from dunwu.prompt.demonstrations.base import label

Order = Callable[[Problem, Sequence[Problem], int], list[Problem]]
"""(the problem that is asked, those chosen, the most wanted first, seed) → in the order shown."""


def best_first(problem: Problem, chosen: Sequence[Problem], seed: int) -> list[Problem]:
    """The most wanted first."""
    return list(chosen)


def best_last(problem: Problem, chosen: Sequence[Problem], seed: int) -> list[Problem]:
    """The most wanted nearest to the question: models heed what stands last."""
    return list(reversed(chosen))


def at_random(problem: Problem, chosen: Sequence[Problem], seed: int) -> list[Problem]:
    """Shuffled anew for each problem."""
    return drawing(seed + 1, problem).sample(list(chosen), len(chosen))


def by_label(problem: Problem, chosen: Sequence[Problem], seed: int) -> list[Problem]:
    """All of one answer, then all of the next, answers in the order of their spelling."""
    return sorted(chosen, key=label)


ORDERS: Mapping[str, Order] = {
    "best-last": best_last,
    "best-first": best_first,
    "random": at_random,
    "by-label": by_label,
}
