"""A weighted sum adds up, part by part, whatever the order of the cases; what says nothing of a case adds nothing."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwu.core.errors import DataError
from dunwu.evaluate.scorers.base import NOT_APPLICABLE, Shaped, WeightedSum
from tests.evaluate.scorers.helpers import case


class Column:
    """Gives the column of its name, or does not apply."""

    def __init__(self, name):
        self.name = name

    def __call__(self, cases):
        return [NOT_APPLICABLE if one.columns.get(self.name) is None else one.columns[self.name] for one in cases]


numbers = st.floats(-100, 100)
rows = st.lists(st.tuples(numbers, numbers | st.none(), numbers | st.none()), min_size=1, max_size=20)


@given(rows, st.tuples(numbers, numbers, numbers), st.randoms())
def test_the_parts_add_up_and_scores_follow_their_cases(values, weights, rng):
    reward = WeightedSum(list(zip(weights, map(Column, "abc"), strict=True)))
    cases = [case("", a=a, b=b, c=c) for a, b, c in values]
    scored = reward(cases)
    for row, total in zip(values, scored.totals, strict=True):
        assert total == pytest.approx(sum(w * v for w, v in zip(weights, row, strict=True) if v is not None), abs=1e-9)
    order = rng.sample(range(len(cases)), len(cases))
    shuffled = reward([cases[at] for at in order])
    assert shuffled.totals == [scored.totals[at] for at in order]
    for name, part in shuffled.parts.items():
        assert all(x == scored.parts[name][at] or math.isnan(x) for x, at in zip(part, order, strict=True))


def test_means_leave_out_what_does_not_apply():
    scored = WeightedSum([(2.0, Column("a")), (1.0, Column("b"))])([case("", a=1.0), case("", a=3.0, b=5.0)])
    assert scored.totals == [2.0, 11.0]
    assert scored.means() == {"a": 2.0, "b": 5.0}


def test_a_part_is_scaled_then_clipped():
    shaped = Shaped(Column("a"), scale=0.5, clip=(-1, 2))
    assert shaped([case("", a=8.0), case("", a=-4.0), case("", a=3.0)]) == [2, -1, 1.5]
    assert math.isnan(shaped([case("")])[0])


def test_what_cannot_be_a_reward_is_refused():
    with pytest.raises(DataError, match="no parts"):
        WeightedSum([])
    with pytest.raises(DataError, match="two parts of a reward are called 'a'"):
        WeightedSum([(1.0, Column("a")), (1.0, Column("a"))])
    with pytest.raises(DataError, match=r"no part of the reward applies to 'Why\?'"):
        WeightedSum([(1.0, Column("a"))])([case("", asked="Why?")])
    with pytest.raises(DataError, match=r"gave inf for 'Q\?'"):
        WeightedSum([(1.0, Column("a"))])([case("", a=math.inf)])

    class Short(Column):
        def __call__(self, cases):
            return []

    with pytest.raises(DataError, match="0 scores for 1 answers"):
        WeightedSum([(1.0, Short("a"))])([case("")])
