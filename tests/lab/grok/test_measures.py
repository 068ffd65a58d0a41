"""Progress measures of networks whose inside is known."""

import itertools

import numpy as np
import pytest

from dunwu.lab.grok.findings import moved_at
from dunwu.lab.grok.groups import additive
from dunwu.lab.grok.measures import (
    concentration,
    energies,
    expected_concentration,
    key_part,
    logit_energies,
    mean_loss,
)
from dunwu.lab.grok.tasks import new_table

P = 31
GROUP = additive(P)
TABLE = new_table("addition", P)
KEYS = (3, 7, 11)  # frequencies; the parts of a group begin with frequency 1


def cosines(frequencies=KEYS, size=8.0):
    """Logits of a network that adds by waves: Σ cos(w(a + b - c))."""
    angle_RV = (TABLE.c_R[:, None] - np.arange(P)) * 2 * np.pi / P
    return size * sum(np.cos(k * angle_RV) for k in frequencies)


def test_an_embedding_of_a_few_frequencies_is_concentrated():
    angles = np.outer(np.arange(P), KEYS) * 2 * np.pi / P
    waves_nD = np.concatenate([np.cos(angles), np.sin(angles)], 1) @ np.random.default_rng(0).normal(size=(6, 16))
    energy_K = energies(waves_nD + 5.0, GROUP)  # a constant counts for nothing
    assert concentration(energy_K, 3) == pytest.approx(1)
    assert concentration(energy_K, 2) < 0.95
    assert set(np.argsort(energy_K)[-3:] + 1) == set(KEYS)


def test_a_random_embedding_is_as_concentrated_as_noise():
    noise_nD = np.random.default_rng(0).normal(size=(P, 4000))
    assert expected_concentration(GROUP) == pytest.approx(5 / 15)
    assert concentration(energies(noise_nD, GROUP), GROUP.keys) == pytest.approx(5 / 15, abs=0.02)


def test_logits_of_waves_are_concentrated_and_random_ones_are_not():
    energy_K, whole = logit_energies(cosines(), TABLE.element_R, GROUP)
    assert concentration(energy_K, 3, whole) == pytest.approx(1)
    noise_RV = np.random.default_rng(0).normal(size=(len(TABLE), P))
    energy_K, whole = logit_energies(noise_RV, TABLE.element_R, GROUP)
    assert energy_K.sum() / whole == pytest.approx(1 / P, rel=0.1)  # of P pairs with one answer the mean keeps 1 / P
    assert concentration(energy_K, GROUP.keys, whole) < 0.02


def test_logits_that_depend_on_one_input_alone_are_not_concentrated():
    one_input_RV = np.random.default_rng(0).normal(size=(P, P))[TABLE.a_R]
    energy_K, whole = logit_energies(one_input_RV, TABLE.element_R, GROUP)
    assert energy_K.sum() / whole == pytest.approx(0, abs=1e-20)


def test_the_key_part_is_the_waves_and_nothing_else():
    other_RV = np.random.default_rng(0).normal(size=(P, P))[TABLE.a_R]
    found_RV = key_part(cosines() + other_RV, TABLE.element_R, GROUP, [k - 1 for k in KEYS])
    assert np.allclose(found_RV, cosines())


def test_without_its_frequencies_a_network_of_waves_knows_nothing():
    keys_K = [k - 1 for k in KEYS]
    logits_RV = cosines()
    key_RV = key_part(logits_RV, TABLE.element_R, GROUP, keys_K)
    assert mean_loss(logits_RV, TABLE.c_R) < 0.02
    assert mean_loss(logits_RV.mean(0) + key_RV, TABLE.c_R) == pytest.approx(mean_loss(logits_RV, TABLE.c_R))
    assert mean_loss(logits_RV - key_RV, TABLE.c_R) == pytest.approx(np.log(P))


def test_a_network_that_remembers_loses_nothing_with_them():
    """A table by heart: without five frequencies of the mean the right answers still stand out."""
    by_heart_RV = 20.0 * np.eye(P)[np.random.default_rng(0).integers(P, size=len(TABLE))]
    answer_R = by_heart_RV.argmax(1)
    key_RV = key_part(by_heart_RV, TABLE.element_R, GROUP, range(5))
    assert mean_loss(by_heart_RV - key_RV, answer_R) < 0.01
    assert mean_loss(by_heart_RV.mean(0) + key_RV, answer_R) > 3


def test_permutations_are_told_by_their_representations():
    """Logits that count the letters which a ∘ b and c put in the same place: a constant and the standard representation."""
    table = new_table("s5", 97)
    assert table.group is not None
    places = np.array(list(itertools.permutations(range(5))))
    same_nn = (places[:, None] == places[None]).sum(-1).astype(float)
    energy_K, whole = logit_energies(same_nn[table.c_R], table.element_R, table.group)
    assert energy_K[table.group.names.index("standard (4)")] / whole == pytest.approx(1)
    assert mean_loss(6 * same_nn[table.c_R], table.c_R) < 0.01


def test_movement_is_the_first_step_from_which_a_tenth_is_never_given_back():
    steps = [1, 2, 4, 8, 16, 32, 64]
    values = [0.0, 0.5, 0.0, 0.2, 0.05, 0.3, 1.0]
    assert moved_at(steps, values, memorised=1, understood=64) == 32
    assert moved_at(steps, [-value for value in values], memorised=1, understood=64) == 32  # falling counts alike
    assert moved_at(steps, values, memorised=4, understood=32) == 8  # 0.05 is a sixth of 0.3
    assert moved_at(steps, [1.0] * 7, memorised=1, understood=64) is None
    assert moved_at(steps, values, memorised=64, understood=64) is None
