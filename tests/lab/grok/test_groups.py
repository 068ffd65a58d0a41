"""Representations: projectors that add up, and agree with the Fourier transform and with permutations at work."""

import itertools

import numpy as np
import pytest

from dunwu.lab.grok.groups import additive, cyclic, multiplicative, permutations

LETTERS = list(itertools.permutations(range(5)))
GROUPS = {"odd": additive(11), "even": cyclic(12), "permutations": permutations(LETTERS)}


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_parts_are_projections_that_add_up_to_all_but_the_constant(group):
    n = group.order
    assert np.allclose(group.parts_Knn @ group.parts_Knn, group.parts_Knn)
    for one, other in itertools.combinations(group.parts_Knn, 2):
        assert np.allclose(one @ other, 0)
    assert np.allclose(group.parts_Knn.sum(0), np.eye(n) - 1 / n)
    assert group.sizes_K.sum() == n - 1


@pytest.mark.parametrize("order", [11, 12])
def test_parts_of_a_cyclic_group_are_fourier_frequencies(order):
    values = np.random.default_rng(0).normal(size=order)
    spectrum = np.fft.rfft(values)
    for k, part in enumerate(cyclic(order).parts_Knn, 1):
        only = np.where(np.arange(len(spectrum)) == k, spectrum, 0)
        assert np.allclose(part @ values, np.fft.irfft(only, order))


def test_permutations_have_parts_of_squared_dimensions():
    assert GROUPS["permutations"].sizes_K.tolist() == [1, 16, 16, 25, 25, 36]


def test_where_a_letter_goes_is_the_standard_representation():
    """The matrix entry "letter i goes to j" is a constant and the standard representation; times the sign, the other."""
    group = GROUPS["permutations"]
    goes = np.array([float(g[1] == 3) for g in LETTERS])
    parts = np.square(group.parts_Knn @ goes).sum(1)
    assert parts[group.names.index("standard (4)")] == pytest.approx(np.square(goes - goes.mean()).sum())
    sign = np.array([np.linalg.det(np.eye(5)[list(g)]) for g in LETTERS])
    parts = np.square(group.parts_Knn @ (goes * sign)).sum(1)
    signed = parts[group.names.index("standard × sign (4)")] + parts[group.names.index("sign")]
    assert signed == pytest.approx(np.square(goes * sign).sum())


@pytest.mark.parametrize("prime", [5, 13, 97])
def test_logarithms_make_products_sums(prime):
    group, logarithm = multiplicative(prime)
    assert logarithm[0] == -1
    assert sorted(logarithm[1:]) == list(range(prime - 1))
    assert group.order == prime - 1
    for a, b in itertools.product(range(1, prime), repeat=2):
        assert logarithm[a * b % prime] == (logarithm[a] + logarithm[b]) % (prime - 1)
