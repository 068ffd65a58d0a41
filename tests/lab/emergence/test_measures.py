"""Linearity and breakthroughness: cases worked by hand, and another way to compute them."""

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwu.lab.emergence.measures import bounded, breakthroughness, improvement, linearity, linearity_share

SCORES = st.lists(st.integers(0, 100), min_size=3, max_size=12)


def by_the_formula(scores):
    """Plain Python, from the definitions."""
    best, worst = max(scores), min(scores)
    order = scores.index(best) - scores.index(worst)
    gain = (order > 0) * (best - worst) - (order < 0) * (best - worst)
    squares = [(after - before) ** 2 for before, after in itertools.pairwise(scores)]
    return gain, sum(squares) / len(squares), statistics.median(squares)


def test_a_straight_line_has_both_at_the_number_of_its_steps():
    line = [0.1, 0.2, 0.3, 0.4, 0.5]
    assert linearity(line) == pytest.approx(4)
    assert breakthroughness(line) == pytest.approx(4)
    assert linearity_share(line) == pytest.approx(1)


def test_a_falling_line_has_the_same_below_zero():
    line = [0.5, 0.4, 0.3, 0.2]
    assert linearity(line) == pytest.approx(-3)
    assert linearity_share(line) == pytest.approx(-1)
    assert bounded(breakthroughness(line)) == 0.0


def test_one_step_has_a_low_linearity_and_a_breakthroughness_without_bound():
    step = [0.0, 0.0, 0.0, 0.8, 0.8]
    assert linearity(step) == pytest.approx(2)  # .8 / sqrt(.64 / 4)
    assert linearity_share(step) == pytest.approx(0.5)
    assert breakthroughness(step) == math.inf
    assert bounded(breakthroughness(step)) == 100.0


def test_a_step_on_a_slope_is_worked_by_hand():
    scores = [0.0, 0.1, 0.2, 0.8]  # differences .1, .1, .6
    assert linearity(scores) == pytest.approx(0.8 / math.sqrt((0.01 + 0.01 + 0.36) / 3))
    assert breakthroughness(scores) == pytest.approx(0.8 / 0.1)


def test_level_scores_have_neither():
    assert improvement([0.3, 0.3, 0.3]) == 0.0
    assert math.isnan(linearity([0.3, 0.3, 0.3]))
    assert math.isnan(breakthroughness([0.3, 0.3, 0.3]))
    assert bounded(math.nan) == 0.0


def test_the_two_medians_differ_for_an_even_number_of_differences():
    scores = [0.0, 0.1, 0.4, 0.4, 0.8]  # differences .1, .3, 0, .4: the middle two are .1 and .3
    assert breakthroughness(scores) == pytest.approx(0.8 / math.sqrt((0.01 + 0.09) / 2))
    assert breakthroughness(scores, middle="size") == pytest.approx(0.8 / 0.2)


def test_two_scores_are_too_few():
    with pytest.raises(ValueError, match="2 scores; linearity and breakthroughness need 3 or more"):
        linearity([0.1, 0.2])


@given(SCORES)
def test_they_are_what_the_formula_says(scores):
    gain, mean, middle = by_the_formula(scores)
    assert improvement(scores) == gain
    if gain == 0:
        assert math.isnan(linearity(scores))
        assert math.isnan(breakthroughness(scores))
        return
    assert linearity(scores) == pytest.approx(gain / math.sqrt(mean))
    assert breakthroughness(scores) == (
        math.copysign(math.inf, gain) if middle == 0 else pytest.approx(gain / math.sqrt(middle))
    )


@given(SCORES, st.integers(1, 9), st.integers(-50, 50))
def test_neither_depends_on_the_unit_or_the_zero_of_the_scores(scores, unit, zero):
    moved = [unit * score + zero for score in scores]
    for measure in (linearity, breakthroughness):
        assert measure(moved) == pytest.approx(measure(scores), nan_ok=True)
