"""In-context learning curves: the score by the number of demonstrations, on the same problems."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dunwu.core.errors import DataError, RecipeError
from dunwu.core.problems import Problem
from dunwu.core.records import Score
from dunwu.prompt.demonstrations.base import Demonstrations

Answer = Callable[[Sequence[Problem], Demonstrations], Sequence[float]]
"""Asks the problems with these demonstrations, and gives the score of each, in their order."""
Draw = Callable[[int, int], Demonstrations]
"""(how many, which draw) → demonstrations."""
Interval = Callable[[Sequence[float], Sequence[str]], tuple[float, float, float, int]]
"""(scores, groups) → value, low, high, n: such as `evaluate.clustered.score_interval`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """Of `k` demonstrations: the mean score with its interval over problems, and that of each problem, the mean of its draws."""

    k: int
    score: Score
    by_problem: tuple[float, ...]


def learning_curve(
    problems: Sequence[Problem],
    draw: Draw,
    answer: Answer,
    interval: Interval,
    *,
    ks: Sequence[int],
    draws: int = 1,
    name: str = "score",
    unit: str = "share",
) -> list[CurvePoint]:
    """A point for each of `ks`. Several draws of demonstrations are averaged within each problem, since answers to one problem are
    not independent: the interval counts problems, or what they have in common (`group`). Without demonstrations all draws are one.
    """
    if not problems:
        raise DataError("a curve needs problems; there is none")
    if draws < 1 or not ks or min(ks) < 0:
        raise RecipeError(f"draws={draws} of {list(ks)} demonstrations; give 1 or more draws, and numbers of 0 or more")
    groups = [one.group for one in problems] if any(one.group for one in problems) else []
    points: list[CurvePoint] = []
    for k in sorted(set(ks)):
        told = [list(answer(problems, draw(k, number))) for number in range(draws if k else 1)]
        if any(len(one) != len(problems) for one in told):
            raise DataError(f"{len(problems)} problems, and scores for {[len(one) for one in told]}; give one for each")
        by_problem = np.mean(told, axis=0).tolist()
        value, low, high, n = interval(by_problem, groups)
        score = Score(name=name, value=value, low=low, high=high, n=n, unit=unit)
        points.append(CurvePoint(k=k, score=score, by_problem=tuple(by_problem)))
    return points
