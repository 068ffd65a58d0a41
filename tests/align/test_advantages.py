"""Advantages worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dunwu.align.advantages.annotated import Judged, loss_weights, normalised
from dunwu.align.advantages.grpo import grpo, overlong_penalty
from dunwu.align.advantages.ppo import generalised_advantages, ppo, steered
from dunwu.align.advantages.reinforce_plus_plus import reinforce_plus_plus
from dunwu.align.advantages.rloo import rloo
from dunwu.core.errors import RecipeError
from dunwu.core.policy import GrpoSpec, PpoSpec, ReinforcePlusPlusSpec, RlooSpec, policy_spec


def judged(scores, count, tokens, **more):
    """Answers whose tokens are all as likely as the reference says, unless told otherwise."""
    size = sum(tokens)
    values = {
        "ended_A": np.ones(len(scores), bool),
        "most_tokens": 8,
        "logprob_N": np.full(size, -1.0),
        **more,
    }
    return Judged(scores_A=np.array(scores, float), count=count, tokens_A=np.array(tokens, np.int64), **values)


def test_grpo_compares_each_answer_with_its_group():
    given = judged([1, 0, 0, 3, 3, 3], 3, [1, 2, 1, 1, 1, 1])
    found = grpo(given, GrpoSpec())
    deviation = math.sqrt(((2 / 3) ** 2 + 2 * (1 / 3) ** 2) / 2) + 1e-4
    high, low = (2 / 3) / deviation, -(1 / 3) / deviation
    np.testing.assert_allclose(found.advantage_N, [high, low, low, low, 0, 0, 0])
    assert found.used_A.all()


def test_dr_grpo_divides_by_nothing_and_dapo_leaves_out_groups_that_agree():
    given = judged([1, 0, 0, 0.1, 0.1, 0.1], 3, [1] * 6)
    np.testing.assert_allclose(grpo(given, GrpoSpec(scale="none")).advantage_N[:3], [2 / 3, -1 / 3, -1 / 3])
    found = grpo(given, GrpoSpec(dynamic_sampling=True))
    assert found.used_A.tolist() == [True] * 3 + [False] * 3
    assert (found.advantage_N[3:] == 0).all()  # not the rounding of a mean of 0.1s


def test_overlong_answers_lose_up_to_one_and_cut_off_ones_can_be_left_out():
    given = judged([1, 1, 1, 1], 4, [4, 6, 7, 8], ended_A=np.array([True, True, True, False]))
    np.testing.assert_allclose(overlong_penalty(given, 4), [0, -0.5, -0.75, -1])
    assert grpo(given, GrpoSpec(cut_off="leave_out")).used_A.tolist() == [True, True, True, False]
    assert grpo(given, GrpoSpec(overlong_tokens=4)).advantage_N[0] > 0


def test_rloo_takes_off_the_mean_of_the_others_and_what_an_answer_diverges():
    given = judged(
        [4, 1, 1],
        3,
        [2, 1, 1],
        logprob_N=np.array([-1.0, -1.0, -1.0, -1.0]),
        reference_N=np.array([-2.0, -3.0, -1.0, -1.0]),
        kl_coefficient=0.5,
    )
    # rewards: 4 - 0.5 · (1 + 2) = 2.5, 1, 1
    np.testing.assert_allclose(rloo(given, RlooSpec()).advantage_N, [1.5, 1.5, -0.75, -0.75])


def test_reinforce_plus_plus_normalises_over_all_tokens():
    given = judged(
        [1, 0],
        1,
        [2, 1],
        reference_N=np.array([-1.0, -2.0, -1.0]),
        kl_coefficient=0.1,
    )
    to_go = np.array([0.9, 0.9, 0.0])  # the second token costs 0.1, which the first feels too
    expected = (to_go - to_go.mean()) / to_go.std()
    np.testing.assert_allclose(reinforce_plus_plus(given, ReinforcePlusPlusSpec()).advantage_N, expected, rtol=1e-6)
    grouped = judged([5, 4], 2, [1, 1])
    spec = ReinforcePlusPlusSpec(baseline="group")
    np.testing.assert_allclose(reinforce_plus_plus(grouped, spec).advantage_N, [1, -1], rtol=1e-6)


def test_generalised_advantages_by_hand():
    given = judged([1, 0], 1, [3, 1], value_N=np.array([0.2, 0.4, 0.6, 0.5]))
    rewards = given.rewards_N(given.scores_A)
    assert rewards.tolist() == [0, 0, 1, 0]
    found = generalised_advantages(rewards, given.value_N, given, gamma=0.9, lam=0.5)
    third = 1 - 0.6
    second = 0.9 * 0.6 - 0.4 + 0.45 * third
    first = 0.9 * 0.4 - 0.2 + 0.45 * second
    np.testing.assert_allclose(found, [first, second, third, -0.5])
    whole = ppo(given, PpoSpec(gamma=0.9, lam=0.5, normalise=False))
    np.testing.assert_allclose(whole.return_N, whole.advantage_N + given.value_N)


@given(st.integers(0, 2**31), st.floats(0.5, 1.0), st.floats(0.0, 1.0))
def test_generalised_advantages_are_what_the_definition_sums_up(seed, gamma, lam):
    random = np.random.default_rng(seed)
    tokens = random.integers(1, 7, 4).tolist()
    given = judged(random.normal(size=4), 2, tokens, value_N=random.normal(size=sum(tokens)))
    rewards = random.normal(size=sum(tokens))
    found = generalised_advantages(rewards, given.value_N, given, gamma=gamma, lam=lam)
    place = 0
    for size in tokens:
        r, v = rewards[place : place + size], [*given.value_N[place : place + size], 0.0]
        deltas = [r[t] + gamma * v[t + 1] - v[t] for t in range(size)]
        expected = [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, size)) for t in range(size)]
        np.testing.assert_allclose(found[place : place + size], expected, rtol=1e-9, atol=1e-9)
        place += size


def test_values_that_know_all_explain_all():
    given = judged([1, 0], 1, [1, 1], value_N=np.array([1.0, 0.0]))
    assert ppo(given, PpoSpec()).figures["explained_variance"] == 1.0


def test_the_coefficient_is_steered_towards_the_target():
    spec = PpoSpec(kl_target=6.0, kl_horizon=100)
    assert steered(0.1, 6.0, spec, 10) == pytest.approx(0.1)
    assert steered(0.1, 6.6, spec, 10) == pytest.approx(0.1 * 1.01)
    assert steered(0.1, 60.0, spec, 10) == pytest.approx(0.1 * 1.02)  # no more than a fifth at a time
    assert steered(0.1, 0.0, spec, 10) == pytest.approx(0.1 * 0.98)
    assert steered(0.1, 60.0, PpoSpec(), 10) == 0.1


@pytest.mark.parametrize(
    ("per", "weights", "shares"),
    [
        ("answer", [1 / 2, 1 / 2, 1, 0], [1, 1, 0]),
        ("token", [1, 1, 1, 0], [2, 1, 0]),
        ("constant", [1 / 8, 1 / 8, 1 / 8, 0], [1, 1, 0]),
    ],
)
def test_what_each_token_of_a_loss_counts(per, weights, shares):
    found, parts = loss_weights(np.array([2, 1, 1]), np.array([True, True, False]), per, 8)
    np.testing.assert_allclose(found, weights)
    assert parts.tolist() == shares


def test_normalised_values_have_mean_0_and_deviation_1():
    np.testing.assert_allclose(normalised(np.array([1.0, 3.0])), [-1, 1], rtol=1e-6)
    assert normalised(np.array([2.0, 2.0])).tolist() == [0, 0]


@given(st.integers(0, 2**31))
def test_grpo_does_not_mind_a_shift_or_a_scale_of_rewards(seed):
    scores = np.random.default_rng(seed).normal(size=8)
    here, there = (grpo(judged(s, 4, [1] * 8), GrpoSpec()).advantage_N for s in (scores, 100 * scores + 7))
    np.testing.assert_allclose(here, there, rtol=1e-2)
    assert abs(here.reshape(2, 4).sum(1)).max() < 1e-9


def test_advantages_are_those_of_trl():
    """What its trainer does: `torch`'s mean and deviation over the answers to a prompt, and 1e-4."""
    rewards = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    theirs = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    ours = grpo(judged(rewards.flatten().tolist(), 5, [1] * 30), GrpoSpec()).advantage_N
    np.testing.assert_allclose(ours, theirs.flatten().numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"method": "grop"}, "grpo"),
        ({"method": "grpo", "bta": 1}, "beta"),
        ({"method": "ppo", "lam": 1.5}, "at most 1"),
        ({"method": "rloo", "scale": "none"}, "scale"),
        ({"method": "distill", "teacher": "x", "dynamic_sampling": True}, "dynamic_sampling"),
    ],
)
def test_what_is_wrong_with_a_specification_is_said(values, said):
    with pytest.raises(RecipeError, match=said):
        policy_spec(values)
