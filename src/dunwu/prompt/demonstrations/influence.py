"""Those that help most on a development set: how much better answers are with a demonstration than without (Nguyen and Wong 2023,
arXiv:2302.11042)."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dunwu.core.errors import DataError, RecipeError
from dunwu.core.problems import Problem
from dunwu.prompt.demonstrations.base import Choice, others, require_pool

ScoreShots = Callable[[Sequence[Problem]], float]
"""The mean score on the development set when these are shown, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Influence:
    """Mean score of the draws that had it, less that of those that had not; `draws` that had it. nan where one side is empty."""

    value: float
    draws: int


def influences(pool: Sequence[Problem], score: ScoreShots, *, k: int, draws: int, seed: int = 0) -> list[Influence]:
    """Of each of the pool, from `draws` random sets of `k`. Each is drawn about equally often: sets are cut from shuffled pools."""
    pool = require_pool(pool)
    if not 1 <= k < len(pool):
        raise DataError(
            f"k={k} of a pool of {len(pool)}: influence compares with and without; use 1 to {len(pool) - 1}"
        )
    if draws < 2:
        raise RecipeError(f"draws={draws}; draw at least 2 sets, better {4 * len(pool) // k}")
    rng = random.Random(f"influence {seed}")
    waiting: list[int] = []
    shown = np.zeros((draws, len(pool)), dtype=bool)
    scores = np.zeros(draws)
    for draw in range(draws):
        chosen: list[int] = []
        while len(chosen) < k:
            if not waiting:
                waiting = rng.sample(range(len(pool)), len(pool))
            place = next((one for one in waiting if one not in chosen), None)
            if place is None:
                waiting = []
                continue
            waiting.remove(place)
            chosen.append(place)
        shown[draw, chosen] = True
        scores[draw] = score([pool[place] for place in chosen])
    return [_influence(scores, shown[:, place]) for place in range(len(pool))]


def _influence(scores: np.ndarray, had: np.ndarray) -> Influence:
    draws = int(had.sum())
    if draws in (0, len(had)):
        return Influence(value=float("nan"), draws=draws)
    return Influence(value=float(scores[had].mean() - scores[~had].mean()), draws=draws)


class Influential(Choice):
    """Those of the greatest influence; for every problem the same, but for the problem itself."""

    def __init__(self, pool: Sequence[Problem], found: Sequence[Influence]) -> None:
        self.pool = require_pool(pool)
        if len(found) != len(self.pool):
            raise DataError(f"{len(found)} influences for a pool of {len(self.pool)}; measure them on the same pool")
        self.values = [-np.inf if np.isnan(one.value) else one.value for one in found]

    def choose(self, problem: Problem, k: int) -> list[int]:
        return sorted(others(self.pool, problem), key=lambda place: (-self.values[place], place))[:k]
