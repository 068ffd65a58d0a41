"""The measures of a reward model, worked by hand."""

import math

import numpy as np
import pytest

from dunwu.align.reward.measure import (
    ScoredPairs,
    ScoredSteps,
    calibration_curve,
    calibration_error,
    pair_measures,
    step_measures,
    win_probability,
)
from dunwu.evaluate.stats import wilson


def pairs(*rows):
    """Rows of score and length of the better answer, score and length of the worse one."""
    columns = np.array(rows, np.float64).T
    return ScoredPairs(chosen=columns[0], chosen_length=columns[1], rejected=columns[2], rejected_length=columns[3])


def test_accuracy_by_length_by_hand():
    found = pair_measures(pairs((2, 9, 1, 5), (0, 9, 1, 5), (3, 4, 1, 5), (1, 5, 1, 5), (4, 5, 0, 5)))
    scores = found["scores"]
    assert found["pairs"] == 5
    assert scores["accuracy"]["value"] == 3 / 5  # equal scores are no answer
    assert (scores["accuracy"]["low"], scores["accuracy"]["high"]) == wilson(3, 5)
    assert (scores["accuracy_chosen_longer"]["value"], scores["accuracy_chosen_longer"]["n"]) == (0.5, 2)
    assert (scores["accuracy_chosen_shorter"]["value"], scores["accuracy_chosen_shorter"]["n"]) == (1.0, 1)
    assert (scores["accuracy_as_long"]["value"], scores["accuracy_as_long"]["n"]) == (0.5, 2)
    assert found["mean"] == {"chosen": 2.0, "rejected": 0.8}
    assert found["deviation"]["rejected"] == pytest.approx(0.4)
    differences = [1, -1, 2, 0, 4]
    assert found["log_loss"] == pytest.approx(np.mean([math.log1p(math.exp(-d)) for d in differences]))


def test_calibration_by_hand():
    # Sure by 0.9 three times, right twice; sure by 0.55 twice, right once
    probability = np.array([0.9, 0.9, 0.1, 0.55, 0.45])
    right = np.array([True, True, False, True, False])
    rows = calibration_curve(probability, right)
    assert [(row["predicted"], row["share"], row["n"]) for row in rows] == [
        (pytest.approx(0.55), 0.5, 2),
        (pytest.approx(0.9), pytest.approx(2 / 3), 3),
    ]
    assert (rows[1]["low"], rows[1]["high"]) == wilson(2, 3)
    assert calibration_error(probability, right) == pytest.approx((2 * 0.05 + 3 * (0.9 - 2 / 3)) / 5)


def test_probabilities_are_given_that_it_is_no_tie():
    # Worths 3 and 1, theta 2: 3/5 and 1/7 are left when ties are taken out
    probability = win_probability(np.array([math.log(3), -math.log(3), 0.0]), math.log(2))
    assert probability == pytest.approx([(3 / 5) / (3 / 5 + 1 / 7), (1 / 7) / (3 / 5 + 1 / 7), 0.5])
    assert win_probability(np.array([800.0, -800.0]), 0.0).tolist() == [1.0, 0.0]


def test_probabilities_that_are_true_have_no_calibration_error():
    random = np.random.default_rng(0)
    difference = random.normal(0, 2, 4_000)
    won = random.random(4_000) < 1 / (1 + np.exp(-difference))
    difference = np.where(won, difference, -difference)  # the better answer's score less the other's
    honest = pairs(*np.stack([difference, np.ones(4_000), np.zeros(4_000), np.ones(4_000)], 1))
    assert pair_measures(honest)["scores"]["calibration_error"]["value"] < 0.02
    boastful = pairs(*np.stack([3 * difference, np.ones(4_000), np.zeros(4_000), np.ones(4_000)], 1))
    error = pair_measures(boastful)["scores"]["calibration_error"]
    assert 0.08 < error["low"] <= error["value"] <= error["high"]


def test_a_score_that_is_length_is_found_out():
    random = np.random.default_rng(0)
    lengths = random.integers(1, 100, (200, 2)).astype(float)
    biased = pairs(*[(a / 10, a, b / 10, b) for a, b in lengths])
    scores = pair_measures(biased)["scores"]
    assert scores["length_correlation"]["value"] == pytest.approx(1.0)
    assert scores["accuracy_chosen_longer"]["value"] == 1.0
    assert scores["accuracy_chosen_shorter"]["value"] == 0.0
    free = pairs(*[(random.normal(), a, random.normal(), b) for a, b in lengths])
    found = pair_measures(free)["scores"]["length_correlation"]
    assert found["low"] < 0 < found["high"]


def test_nothing_measured_says_nothing():
    assert pair_measures(_none()) == {}
    alone = pair_measures(pairs((1, 5, 0, 5)))["scores"]
    assert "length_correlation" not in alone
    assert alone["accuracy"]["n"] == 1
    assert step_measures([ScoredSteps(scores=np.array([1.0]), labels=np.array([math.nan]))]) == {}


def _none():
    nothing = np.zeros(0)
    return ScoredPairs(chosen=nothing, rejected=nothing, chosen_length=nothing, rejected_length=nothing)


def test_steps_by_hand():
    nan = math.nan
    answers = [
        ScoredSteps(scores=np.array([2.0, -1.0, 3.0]), labels=np.array([1, 0, nan])),  # found, both right
        ScoredSteps(scores=np.array([1.0, 1.0]), labels=np.array([1, 0])),  # the error is missed
        ScoredSteps(scores=np.array([1.0]), labels=np.array([1])),  # there is none, and none is seen
    ]
    found = step_measures(answers)
    assert (found["answers"], found["steps"], found["good_steps"]) == (3, 5, 0.6)
    assert found["scores"]["accuracy"]["value"] == 4 / 5
    assert found["scores"]["first_error"]["value"] == 2 / 3
    losses = [math.log1p(math.exp(-z)) for z in (2, 1, 1, -1, 1)]
    assert found["log_loss"] == pytest.approx(np.mean(losses))
