"""Intervals must cover what they say, tests must reject as often as they say; quantiles against published tables."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwu.evaluate import stats


def test_wilson_equals_a_published_example():
    # Newcombe 1998, Stat. Med. 17:857, table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    for k, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert stats.wilson(k, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_proportion_and_mirrors(case):
    k, n = case
    low, high = stats.wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert stats.wilson(n - k, n) == pytest.approx((1 - high, 1 - low))


def test_wilson_refuses_more_successes_than_trials():
    with pytest.raises(ValueError, match="k=5"):
        stats.wilson(5, 4)
    assert stats.wilson(0, 0) == (0.0, 1.0)


def test_t_quantile_equals_published_tables():
    table = {1: 12.7062, 2: 4.30265, 5: 2.570582, 9: 2.262157, 30: 2.042272, 100: 1.983972}
    for freedom, value in table.items():
        assert stats.t_quantile(0.975, freedom) == pytest.approx(value, abs=5e-5)
    assert stats.t_quantile(0.975, 1e7) == pytest.approx(1.959964, abs=1e-5)
    assert stats.t_quantile(0.05, 9) == pytest.approx(-1.833113, abs=1e-5)


def _documents(rng: np.random.Generator, n: int, spread: float, skewed: bool):
    """Bits and bytes of n documents whose true rate is 2 bits per byte, with log-normal lengths."""
    size = np.exp(rng.normal(8, spread, n))
    effect = (rng.gamma(1.5, 1 / 1.5, n) - 1) * 0.3 if skewed else rng.normal(0, 0.2, n)
    return size * (2 + effect), size


@pytest.mark.parametrize("n", [5, 10, 40])
@pytest.mark.parametrize("spread", [0.3, 1.0])
@pytest.mark.parametrize("skewed", [False, True])
def test_ratio_interval_covers_the_truth_about_as_often_as_it_says(n, spread, skewed):
    rng, trials = np.random.default_rng(n), 600
    covered = 0
    for _ in range(trials):
        estimate = stats.ratio_interval(*_documents(rng, n, spread, skewed))
        covered += estimate.low <= 2 <= estimate.high
    assert 0.91 <= covered / trials <= 0.995


def test_plain_bootstrap_would_not_cover_with_ten_documents():
    """Why stats.py has none: were this to fail, the docstring there would be wrong."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        bits, size = _documents(rng, 10, 1.0, skewed=False)
        draw = rng.integers(0, 10, (400, 10))
        low, high = np.quantile(bits[draw].sum(1) / size[draw].sum(1), [0.025, 0.975])
        covered += low <= 2 <= high
    assert covered / 300 < 0.92


def test_ratio_of_equal_sizes_is_the_mean_interval():
    values = [1.0, 2.0, 4.0, 7.0]
    ratio, mean = stats.ratio_interval(values, [1.0] * 4), stats.mean_interval(values)
    assert ratio.value == mean.value
    # the jackknife is a little wider than the mean's own formula, never narrower
    assert mean.high <= ratio.high <= mean.high * 1.2


def test_ratio_handles_one_document_empty_documents_and_nonsense():
    assert math.isnan(stats.ratio_interval([3.0], [2.0]).low)
    assert stats.ratio_interval([3.0, 0.0, 1.0], [2.0, 0.0, 2.0]).n == 2
    with pytest.raises(ValueError, match="all denominators are 0"):
        stats.ratio_interval([0.0], [0.0])
    with pytest.raises(ValueError, match="one length"):
        stats.ratio_interval([0.0], [0.0, 1.0])


def test_one_giant_document_widens_the_interval():
    even = stats.ratio_interval(np.array([1.9, 2.1] * 10) * 100, [100.0] * 20)
    giant = stats.ratio_interval(
        np.array([1.9, 2.1] * 10) * np.array([100.0] * 19 + [10_000.0]), [100.0] * 19 + [10_000.0]
    )
    assert giant.high - giant.low > 3 * (even.high - even.low)


def test_mcnemar_equals_hand_sums():
    assert stats.mcnemar_exact(0, 0) == 1.0
    assert stats.mcnemar_exact(5, 0) == pytest.approx(2 / 32)
    assert stats.mcnemar_exact(1, 9) == pytest.approx(2 * (1 + 10) / 1024)
    assert stats.mcnemar_exact(9, 1) == stats.mcnemar_exact(1, 9)
    assert stats.mcnemar_exact(4, 4) == 1.0


def test_paired_proportions_counts_changes_and_keeps_an_interval_without_any():
    before, after = [False] * 8 + [True] * 2, [True] * 6 + [False] * 2 + [True] + [False]
    change = stats.paired_proportions(before, after)
    assert change.value == pytest.approx(0.5)
    assert change.p_value == stats.mcnemar_exact(6, 1)
    assert change.low < 0.5 < change.high
    same = stats.paired_proportions(before, before)
    assert same.value == 0
    assert same.low < 0 < same.high
    assert same.p_value == 1


def test_paired_difference_rejects_no_true_difference_five_times_in_a_hundred():
    rng, rejected, covered = np.random.default_rng(1), 0, 0
    for _ in range(1000):
        base = rng.normal(0, 5, 12)
        change = stats.paired_difference(base, base + rng.normal(0, 1, 12))
        rejected += change.p_value < 0.05
        covered += change.low <= 0 <= change.high
    assert 0.03 <= rejected / 1000 <= 0.075
    assert covered + rejected == 1000  # interval and test agree


def test_paired_ratio_difference_sees_through_the_spread_of_the_documents():
    rng = np.random.default_rng(2)
    bits, size = _documents(rng, 20, 1.0, skewed=False)
    better = bits - size * (0.05 + rng.normal(0, 0.01, 20))
    change = stats.paired_ratio_difference(bits, better, size)
    assert change.high < 0 < stats.ratio_interval(better, size).high - stats.ratio_interval(better, size).low
    assert change.p_value < 0.01
    assert change.value == pytest.approx(-0.05, abs=0.01)


def test_above_chance_is_the_exact_binomial_tail_and_takes_mixed_chances():
    assert stats.above_chance(9, [0.5] * 10) == pytest.approx(11 / 1024)
    assert stats.above_chance(2, [0.5, 0.25]) == pytest.approx(0.125)
    assert stats.above_chance(1, [0.5, 0.25]) == pytest.approx(1 - 0.5 * 0.75)
    assert stats.above_chance(0, [0.5]) == 1.0
    assert stats.above_chance(1, [0.0, 0.0]) == 0.0


def test_holm_equals_a_hand_worked_example():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([]) == []
