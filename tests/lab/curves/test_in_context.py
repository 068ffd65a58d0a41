"""The in-context score, by hand."""

import numpy as np
import pytest

from dunwu.lab.curves.in_context import EARLY, LATE, in_context_score, loss_by_place, stretch


def test_the_places_are_those_of_the_paper_scaled_to_the_context():
    assert (stretch(512, EARLY), stretch(512, LATE)) == (slice(45, 55), slice(495, 505))
    assert (stretch(64, EARLY), stretch(64, LATE)) == (slice(6, 7), slice(62, 63))


def test_a_loss_that_falls_with_the_logarithm_of_the_place_scores_the_logarithm_of_their_ratio():
    places_T = np.arange(1, 512)
    nats_NT = 5 - np.log(places_T)[None] + np.array([0.0, 1.0, 2.0, 3.0])[:, None]
    score = in_context_score(nats_NT, np.arange(4))
    assert score.value == pytest.approx(-np.log(500 / 50), abs=0.01)
    assert score.high - score.low < 1e-9  # the texts differ in level alone
    assert score.n == 4


def test_the_interval_is_over_documents_not_over_texts():
    generator = np.random.default_rng(0)
    gain = generator.normal(-1, 0.5, 6)
    nats_NT = np.zeros((60, 511))
    nats_NT[:, stretch(512, LATE)] = np.repeat(gain, 10)[:, None]  # ten texts of each document, all alike
    clustered = in_context_score(nats_NT, np.repeat(np.arange(6), 10))
    alone = in_context_score(nats_NT[::10], np.arange(6))
    assert clustered.value == pytest.approx(alone.value)
    assert (clustered.low, clustered.high) == pytest.approx((alone.low, alone.high))


def test_loss_by_place_keeps_every_target_once():
    nats_NT = np.random.default_rng(0).normal(size=(3, 255))
    nats_NT[:, :3] = [10, 20, 30]
    bins = loss_by_place(nats_NT)
    assert [one["nats"] for one in bins[:2]] == [10, 20]
    assert bins[0]["place"] == 1
    assert bins[-1]["place"] < 256
    assert len(bins) <= 24
