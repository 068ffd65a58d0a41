"""Two models on the same questions: hand-worked cases, all sign changes written out, and simulated power."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwu.evaluate.paired import needed_values, paired, questions_needed, sign_flip, smallest_difference
from dunwu.evaluate.stats import mcnemar_exact


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_sign_flip_counts_all_changes_of_sign(gains):
    sums = [
        sum(s * g for s, g in zip(signs, gains, strict=True)) for signs in itertools.product((1, -1), repeat=len(gains))
    ]
    assert sign_flip(gains) == pytest.approx(sum(abs(s) >= abs(sum(gains)) for s in sums) / len(sums))


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=9))
def test_sign_flip_of_any_numbers_is_never_too_small(gains):
    sums = [
        math.fsum(s * g for s, g in zip(signs, gains, strict=True))
        for signs in itertools.product((1, -1), repeat=len(gains))
    ]
    slack = 1e-9 * max(map(abs, gains))
    exact = sum(abs(s) >= abs(math.fsum(gains)) - slack for s in sums) / len(sums)
    assert sign_flip(gains) >= exact - 1e-9


def test_sign_flip_of_single_questions_is_mcnemars_test():
    assert sign_flip([1] * 9 + [-1] * 2 + [0] * 50) == pytest.approx(mcnemar_exact(9, 2))
    assert sign_flip([0, 0]) == 1.0


def test_many_uneven_gains_reject_no_true_difference_five_times_in_a_hundred():
    rng = np.random.default_rng(0)
    rejected = sum(sign_flip(rng.standard_t(3, 100)) < 0.05 for _ in range(2000))
    assert 0.035 <= rejected / 2000 <= 0.06


def test_twenty_questions_by_hand():
    before, after = [1] * 10 + [0] * 10, [1] * 9 + [0] + [1] * 7 + [0] * 3
    change = paired(before, after)
    assert change.value == pytest.approx(6 / 20)
    assert change.p_value == pytest.approx(2 * (1 + 8) / 2**8)  # 7 gained, 1 lost
    assert change.low < 0.3 < change.high


def test_copies_of_a_question_are_no_more_evidence_than_one():
    before, after = [0] * 5 + [1], [1] * 5 + [1]
    once = paired(before, after)
    copies = paired(before * 10, after * 10, [str(place) for _ in range(10) for place in range(6)])
    assert paired(before * 10, after * 10).p_value < 1e-10
    assert copies.p_value == pytest.approx(once.p_value)
    assert copies.value == pytest.approx(once.value)
    assert copies.low < 0.55


@pytest.mark.parametrize(("clusters", "size"), [(8, 5), (30, 4)])
def test_intervals_of_clustered_differences_cover(clusters, size):
    rng = np.random.default_rng(1)
    groups = [str(place // size) for place in range(clusters * size)]
    held = rejected = 0
    for _ in range(500):
        skill = rng.beta(2, 2, clusters).repeat(size)
        # the two models agree on much, and neither is better
        shared = rng.random(skill.size) < 0.5
        x = rng.random(skill.size) < skill
        mood = rng.beta(2, 2, clusters).repeat(size)
        y = np.where(shared, x, rng.random(skill.size) < mood)
        change = paired(x.astype(float), y.astype(float), groups)
        held += change.low <= 0 <= change.high
        rejected += change.p_value < 0.05
    assert held / 500 >= 0.93
    assert rejected / 500 <= 0.07


def test_no_change_in_clusters_is_no_certainty():
    change = paired([1, 1, 0, 0], [1, 1, 0, 0], ["a", "a", "b", "b"])
    assert change.value == 0
    assert change.low < 0 < change.high
    assert change.p_value == 1.0


def test_scores_that_are_no_shares():
    rng = np.random.default_rng(2)
    x = rng.random(40)
    change = paired(x, x + 0.1 + rng.normal(0, 0.02, 40))
    assert 0.09 < change.low < 0.1 < change.high < 0.11
    assert change.p_value < 1e-9
    assert change.n == 40


def test_power_is_what_simulated_tests_show():
    changed, gap = 0.2, 0.08
    n = questions_needed(gap, changed)
    rng = np.random.default_rng(3)
    draws = rng.multinomial(n, [(changed + gap) / 2, (changed - gap) / 2, 1 - changed], 2000)
    power = np.mean([mcnemar_exact(int(gained), int(lost)) < 0.05 for gained, lost, _ in draws])
    assert 0.74 <= power <= 0.84  # the exact test is a little more cautious than the formula


def test_the_smallest_difference_is_the_one_that_needs_so_many_questions():
    gap = smallest_difference(500, 0.2)
    assert questions_needed(gap, 0.2) <= 500 < questions_needed(gap * 0.98, 0.2)


def test_nothing_can_be_shown_with_next_to_no_questions_or_no_difference():
    assert smallest_difference(10, 0.1) is None
    assert smallest_difference(0, 0.1) is None
    assert questions_needed(0.0, 0.3) is None
    assert questions_needed(0.3, 0.3) >= 6 / 0.3  # fewer than six changes are never significant


def test_questions_needed_of_scores():
    rng = np.random.default_rng(4)
    gains = rng.normal(0.1, 0.5, 400)
    n = needed_values(gains)
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(500):
        draw = rng.normal(gains.mean(), gains.std(ddof=1), n)
        found += abs(draw.mean()) / (draw.std(ddof=1) / math.sqrt(n)) > 1.96
    assert 0.74 <= found / 500 <= 0.86
    assert needed_values([0.0, 0.0]) is None
