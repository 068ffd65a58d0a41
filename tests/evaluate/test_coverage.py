"""Does a 95% interval cover the truth 95 times in a hundred? Exactly where that can be computed, else by simulated models."""

import math

import numpy as np
import pytest

from dunwu.evaluate.clustered import clusters, score_interval, share_interval
from dunwu.evaluate.stats import ratio_interval, wilson

ACCURACIES = np.linspace(0.02, 0.98, 481)


def law(n: int, p: np.ndarray) -> np.ndarray:
    """P(k right of n) for each accuracy: [accuracy, k]."""
    k = np.arange(n + 1)
    log_choose = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k])
    return np.exp(log_choose + k * np.log(p)[:, None] + (n - k) * np.log1p(-p)[:, None])


def covered(n: int, p: np.ndarray) -> np.ndarray:
    """The chance that the interval of n questions holds the accuracy, exactly."""
    bounds = np.array([wilson(k, n) for k in range(n + 1)])
    inside = (bounds[:, 0] <= p[:, None]) & (p[:, None] <= bounds[:, 1])
    return (law(n, p) * inside).sum(axis=1)


@pytest.mark.parametrize("n", [20, 30, 50, 100, 500, 2000])
def test_models_of_about_one_accuracy_are_covered_93_to_97_times_in_a_hundred(n):
    found = covered(n, ACCURACIES)
    for about in np.linspace(0.02, 0.98, 49):
        mean = found[np.abs(ACCURACIES - about) <= 0.0201].mean()
        assert 0.93 <= mean <= 0.97, f"n={n}, accuracy {about:.2f} ± .02: {mean:.4f}"
    assert 0.945 <= found.mean() <= 0.955


def test_no_interval_at_all_would_do_at_each_single_accuracy():
    """Of 20 questions, at .05: two or fewer right are 92.5% of the time, three or fewer 98.4%; there is nothing between."""
    probability = law(20, np.array([0.05]))[0]
    runs = [probability[low:high].sum() for low in range(21) for high in range(low + 1, 22)]
    assert not [run for run in runs if 0.93 <= run <= 0.97]
    assert covered(20, np.array([0.05]))[0] == pytest.approx(probability[:3].sum())


def test_from_400_questions_on_each_single_accuracy_is_covered():
    found = covered(400, np.linspace(0.02, 0.98, 193))
    assert found.min() > 0.93
    assert found.max() < 0.97


@pytest.mark.parametrize("accuracy", [0.02, 0.1, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("n", [20, 100, 2000])
def test_simulated_models_of_known_accuracy(n, accuracy):
    rng = np.random.default_rng(7)
    true = rng.uniform(max(0.02, accuracy - 0.02), min(0.98, accuracy + 0.02), 2000)
    held = 0
    for p in true:
        _, low, high, _ = score_interval((rng.random(n) < p).astype(float))
        held += low <= p <= high
    assert 0.93 <= held / 2000 <= 0.97


def simulated(sizes, accuracy, correlation, repetitions, seed=0):
    """Right answers by cluster of models of about an accuracy, whose answers to one text resemble one another."""
    rng = np.random.default_rng(seed)
    true = np.clip(rng.uniform(0.8 * accuracy, 1.2 * accuracy, repetitions), 0.0, 0.99)
    spread = (1 - correlation) / correlation if correlation else None
    for p in true:
        shares = np.full(len(sizes), p) if spread is None else rng.beta(p * spread, (1 - p) * spread, len(sizes))
        yield p, rng.binomial(sizes, shares)


SIZES = {"few": np.full(6, 5), "some": 1 + np.arange(15) * 7 % 9, "many": np.full(80, 4)}


@pytest.mark.parametrize("accuracy", [0.03, 0.3, 0.8])
@pytest.mark.parametrize("correlation", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("name", SIZES)
def test_clusters_are_covered_too_with_few_of_them_and_near_nought(name, correlation, accuracy):
    """What clusters are worth cannot be known from a few: where answers in one are independent, the interval is then too wide."""
    sizes, held = SIZES[name], 0
    for p, right in simulated(sizes, accuracy, correlation, 600):
        _, low, high, _ = share_interval(right, sizes)
        held += low <= p <= high
    assert held / 600 >= 0.92
    if correlation >= 0.2 and name == "many":
        assert held / 600 <= 0.98


def test_the_usual_robust_interval_would_not_cover_with_few_clusters_near_nought():
    sizes, held = SIZES["few"], 0
    for p, right in simulated(sizes, 0.05, 0.2, 500):
        _, low, high, _ = ratio_interval(right, sizes)
        held += low <= p <= high
    assert held / 500 < 0.7


def test_clusters_of_one_are_independent_questions():
    assert score_interval([1, 1, 0], ["", "", ""])[1:3] == wilson(2, 3)
    assert score_interval([1, 1, 0], ["a", "b", "c"])[1:3] == wilson(2, 3)


def test_copies_of_a_question_say_no_more_than_one():
    """20 questions, each asked five times and answered alike: the interval is that of about 20, not that of 100."""
    right = [0, 5] * 10
    _, low, high, n = share_interval(right, [5] * 20)
    assert n == 100
    assert high - low == pytest.approx(wilson(10, 20)[1] - wilson(10, 20)[0], rel=0.1)


def test_independent_answers_in_many_clusters_cost_little():
    rng = np.random.default_rng(0)
    right = rng.binomial(4, 0.5, 500)
    _, low, high, _ = share_interval(right, [4] * 500)
    plain = wilson(int(right.sum()), 2000)
    assert high - low < 1.1 * (plain[1] - plain[0])


def test_scores_that_are_no_shares_stay_where_scores_can_be():
    _, low, high, n = score_interval([0.9, 1.0, 0.95, 1.0], ["a", "a", "b", "b"])
    assert 0 <= low < 0.96 < high <= 1
    assert n == 4


def test_clusters_are_summed_by_name_and_the_nameless_stand_alone():
    sums, sizes = clusters(np.array([1.0, 0.0, 1.0, 1.0]), ["a", "", "a", ""])
    assert sorted(zip(sums.tolist(), sizes.tolist(), strict=True)) == [(0.0, 1.0), (1.0, 1.0), (2.0, 2.0)]
