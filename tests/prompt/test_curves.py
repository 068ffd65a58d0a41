"""In-context learning curves, by hand."""

import pytest

from dunwu.core.errors import DataError, RecipeError
from dunwu.core.problems import Problem
from dunwu.prompt.curves import learning_curve

PROBLEMS = [Problem(id=str(n), input=str(n), group="ab"[n % 2]) for n in range(4)]


def interval(values, groups):
    return sum(values) / len(values), min(values), max(values), len(set(groups) or values)


def test_draws_are_averaged_within_a_problem_and_none_is_drawn_of_none():
    drawn = []

    def draw(k, number):
        drawn.append((k, number))
        return lambda problem: PROBLEMS[:k] if number == 0 else ()

    def answer(problems, shown):
        return [len(shown(one)) / 4 if int(one.id) else 0.0 for one in problems]

    points = learning_curve(PROBLEMS, draw, answer, interval, ks=[2, 0, 2], draws=2)
    assert drawn == [(0, 0), (2, 0), (2, 1)]
    assert [one.k for one in points] == [0, 2]
    assert points[1].by_problem == (0, 0.25, 0.25, 0.25)
    assert (points[1].score.value, points[1].score.low, points[1].score.high, points[1].score.n) == (0.1875, 0, 0.25, 2)


def test_what_makes_no_curve_is_refused():
    with pytest.raises(DataError, match="needs problems"):
        learning_curve([], lambda k, n: lambda one: (), lambda p, s: [], interval, ks=[0])
    with pytest.raises(RecipeError, match="draws=0"):
        learning_curve(PROBLEMS, lambda k, n: lambda one: (), lambda p, s: [], interval, ks=[0], draws=0)
    with pytest.raises(DataError, match=r"4 problems, and scores for \[1\]"):
        learning_curve(PROBLEMS, lambda k, n: lambda one: (), lambda p, s: [1.0], interval, ks=[0])
