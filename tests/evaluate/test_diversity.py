"""How much answers differ, worked by hand and against a slow, plain edit distance."""

import math
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwu.evaluate.diversity import distinct, edit_distance, mean_edit_distance

IDS = st.lists(st.integers(0, 3), max_size=9)


def plain_distance(one, other):
    """The definition, by recursion."""

    @cache
    def rest(i, j):
        if i == len(one) or j == len(other):
            return len(one) - i + len(other) - j
        same = rest(i + 1, j + 1) + (one[i] != other[j])
        return min(same, rest(i + 1, j) + 1, rest(i, j + 1) + 1)

    return rest(0, 0)


def test_distinct_counts_what_occurs_once_over_all():
    answers = [[1, 2, 1], [1, 2, 3]]
    assert distinct(answers, 1) == 3 / 6
    assert distinct(answers, 2) == 3 / 4  # 12 21 12 23
    assert math.isnan(distinct([[], [1]], 2))


@given(IDS, IDS)
def test_edit_distance_is_the_plain_one(one, other):
    assert edit_distance(one, other) == plain_distance(tuple(one), tuple(other)) == edit_distance(other, one)


def test_mean_distance_is_over_pairs_and_lengths():
    kitten, sitting, empty = [ord(c) for c in "kitten"], [ord(c) for c in "sitting"], []
    assert edit_distance(kitten, sitting) == 3
    assert mean_edit_distance([kitten, sitting, empty]) == pytest.approx((3 / 7 + 1 + 1) / 3)
    assert mean_edit_distance([kitten, kitten]) == 0
    assert math.isnan(mean_edit_distance([kitten]))
