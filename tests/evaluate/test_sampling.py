"""One of k and best of k: beside all choices written out, and beside a simulation of what they estimate."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwu.evaluate.sampling import best_of, best_of_k, best_of_kl, pass_at, pass_at_k


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_mean_over_all_choices(answers, data):
    k = data.draw(st.integers(1, len(answers)))
    choices = list(itertools.combinations(answers, k))
    assert pass_at_k(len(answers), sum(answers), k) == pytest.approx(sum(map(any, choices)) / len(choices))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8), st.data())
def test_best_of_k_is_the_mean_over_all_choices(scores, data):
    k = data.draw(st.integers(1, len(scores)))
    choices = list(itertools.combinations(scores, k))
    assert best_of_k(scores, k) == pytest.approx(sum(map(max, choices)) / len(choices))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-5, 5)), min_size=1, max_size=7), st.data())
def test_what_the_best_is_worth_by_another_measure_with_ties_drawn_between(pairs, data):
    k = data.draw(st.integers(1, len(pairs)))
    worth = []
    for choice in itertools.combinations(pairs, k):
        top = max(score for score, _ in choice)
        tied = [value for score, value in choice if score == top]
        worth.append(sum(tied) / len(tied))
    scores, values = zip(*pairs, strict=True)
    assert best_of_k(scores, k, values) == pytest.approx(sum(worth) / len(worth))


def test_by_hand():
    assert pass_at_k(4, 1, 2) == 0.5
    assert pass_at_k(10, 0, 5) == 0
    assert pass_at_k(3, 2, 2) == 1
    assert best_of_k([1, 2, 4], 2) == pytest.approx((2 + 4 + 4) / 3)
    assert best_of_kl(1) == 0
    assert best_of_kl(4) == pytest.approx(math.log(4) - 0.75)
    for wrong in ((3, 4, 1), (3, 1, 0), (3, 1, 4), (3, -1, 1)):
        with pytest.raises(ValueError, match="must hold"):
            pass_at_k(*wrong)


def test_the_estimate_is_unbiased_and_its_interval_covers():
    rng = np.random.default_rng(0)
    p = rng.beta(0.5, 0.8, 60)
    k, n = 4, 10
    truth = float(np.mean(1 - (1 - p) ** k))
    found = [pass_at([(n, int(right)) for right in rng.binomial(n, p)], k) for _ in range(400)]
    assert np.mean([one.value for one in found]) == pytest.approx(truth, abs=0.005)
    assert np.mean([one.low <= truth <= one.high for one in found]) > 0.95
    naive = np.mean([np.mean(1 - (1 - rng.binomial(n, p) / n) ** k) for _ in range(400)])
    assert abs(naive - truth) > 0.01


def test_best_of_over_questions():
    rng = random.Random(0)
    groups = [[rng.gauss(0, 1) for _ in range(16)] for _ in range(400)]
    normal_max = {1: 0.0, 2: 0.5642, 4: 1.0294}
    for k, truth in normal_max.items():
        estimate = best_of(groups, k)
        assert estimate.low < truth < estimate.high
        assert estimate.high - estimate.low < 0.2
