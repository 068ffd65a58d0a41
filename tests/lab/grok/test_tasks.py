"""Tables against sums worked one by one."""

import itertools

import numpy as np
import pytest

from dunwu.core.errors import RecipeError
from dunwu.lab.grok.tasks import new_table, split_rows

P = 13
ANSWERS = {
    "addition": lambda a, b: (a + b) % P,
    "subtraction": lambda a, b: (a - b) % P,
    "quadratic": lambda a, b: (a * a + a * b + b * b) % P,
}


@pytest.mark.parametrize("task", ANSWERS)
def test_modular_tables_hold_every_pair_and_its_answer(task):
    table = new_table(task, P)
    rows = list(zip(table.a_R.tolist(), table.b_R.tolist(), table.c_R.tolist(), strict=True))
    assert sorted(rows) == [(a, b, ANSWERS[task](a, b)) for a, b in itertools.product(range(P), repeat=2)]


def test_a_quotient_times_the_divisor_is_the_dividend():
    table = new_table("division", 97)
    assert len(table) == 97 * 96
    assert (table.c_R * table.b_R % 97 == table.a_R).all()
    assert (table.b_R > 0).all()
    assert len(set(zip(table.a_R.tolist(), table.b_R.tolist(), strict=True))) == len(table)


def test_permutations_compose():
    table = new_table("s5", 97)
    letters = list(itertools.permutations(range(5)))
    assert len(table) == 120**2
    for row in range(0, len(table), 97):
        a, b, c = (letters[column[row]] for column in (table.a_R, table.b_R, table.c_R))
        assert [c[x] for x in range(5)] == [a[b[x]] for x in range(5)]


@pytest.mark.parametrize("task", ["addition", "subtraction", "division", "s5"])
def test_answers_are_products_in_the_group(task):
    """The element of an answer follows from those of the inputs: by sum, by difference, or by the table of S5 itself."""
    table = new_table(task, 11)
    assert table.group is not None
    assert table.element_of_symbol is not None
    n = table.group.order
    inside = table.element_R >= 0
    a, b, c = (table.element_of_symbol[column[inside]] for column in (table.a_R, table.b_R, table.c_R))
    if task == "s5":
        assert all(len(set(c[a == g].tolist())) == n for g in range(n))  # a Latin square
    else:
        assert (c == (a + b if task == "addition" else a - b) % n).all()
    assert inside.sum() == n * n


def test_what_is_a_product_in_no_group_says_so():
    assert new_table("quadratic", 7).group is None


def test_a_split_takes_each_row_once():
    train, held_out = split_rows(101, 0.3, seed=4)
    assert len(train) == 30
    assert sorted([*train, *held_out]) == list(range(101))
    assert not np.array_equal(train, split_rows(101, 0.3, seed=5)[0])
    assert np.array_equal(train, split_rows(101, 0.3, seed=4)[0])


@pytest.mark.parametrize(
    ("task", "modulus", "words"),
    [
        ("division", 91, r"modulus=91 is not prime \(7 · 13\), so not every number can be divided by; use 89"),
        ("addition", 1, "modulus=1: use a prime from 5 to 257"),
        ("addition", 1009, "modulus=1009: use a prime from 5 to 257"),
        ("divison", 97, "'divison' is not known: did you mean division"),
        ("xyz", 97, "'xyz' is not known: use addition, subtraction, division, quadratic, s5"),
    ],
)
def test_tables_that_cannot_be_made_are_refused(task, modulus, words):
    with pytest.raises(RecipeError, match=words):
        new_table(task, modulus)


@pytest.mark.parametrize(
    ("fraction", "words"),
    [
        (0.0, "fraction=0: a fraction of the table lies between 0 and 1"),
        (1.0, "between 0 and 1"),
        (-0.5, "between 0 and 1"),
        (float("nan"), "between 0 and 1"),
        (0.999, "leaves no pair of 100 held out; use at most 0.99"),
        (0.001, "leaves no pair of 100 to train on; use at least 0.01"),
    ],
)
def test_fractions_that_leave_nothing_are_refused(fraction, words):
    with pytest.raises(RecipeError, match=words):
        split_rows(100, fraction, seed=0)
