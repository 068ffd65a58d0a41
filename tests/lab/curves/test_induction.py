"""The score of heads: 1 for a head that looks where induction would, chance for one that looks everywhere alike."""

import numpy as np
import pytest
import torch

from dunwu.core.errors import ModelError
from dunwu.lab.curves.induction import (
    chance,
    followers,
    head_scores,
    middling_tokens,
    prefix_matching,
    repeated_tokens,
    shape_for,
)
from dunwu.model.decoder import new_decoder

from .tiny import CONFIG

PERIOD, REPEATS = 5, 3
TIME = 1 + PERIOD * REPEATS


def sequences(count: int = 4) -> np.ndarray:
    return repeated_tokens(np.arange(1, 60), start_id=0, period=PERIOD, repeats=REPEATS, sequences=count, seed=0)


def test_the_tokens_repeat_behind_the_start():
    ids_BT = sequences()
    assert ids_BT.shape == (4, TIME)
    assert (ids_BT[:, 0] == 0).all()
    assert np.array_equal(ids_BT[:, 1:6], ids_BT[:, 6:11])
    assert np.array_equal(ids_BT[:, 1:6], ids_BT[:, 11:16])
    assert all(len(set(row[1:6])) == PERIOD for row in ids_BT.tolist())
    assert len({tuple(row) for row in ids_BT.tolist()}) == 4


def test_followers_are_the_tokens_behind_earlier_occurrences():
    ids_BT = sequences()
    wanted_TS = followers(TIME, PERIOD)
    for row in ids_BT:
        for t in range(1, TIME):
            by_hand = {s for s in range(2, t + 1) if row[s - 1] == row[t]}  # what stands before s is the token at t
            assert set(np.flatnonzero(wanted_TS[t]).tolist()) == by_hand


@pytest.mark.parametrize("newest", [True, False])
def test_an_induction_head_scores_one_whichever_repeat_it_looks_at(newest):
    weights_BHTS = torch.zeros(2, 3, TIME, TIME)
    for t in range(TIME):
        places = np.flatnonzero(followers(TIME, PERIOD)[t])
        weights_BHTS[:, 0, t, int(places[-1] if newest else places[0]) if len(places) else 0] = 1.0
        weights_BHTS[:, 1, t, t] = 1.0  # looks at itself
        weights_BHTS[:, 2, t, max(0, t - PERIOD)] = 1.0  # looks at the token itself, not behind it
    assert prefix_matching(weights_BHTS, PERIOD).tolist() == [[1.0, 0.0, 0.0]] * 2


def test_uniform_attention_scores_chance():
    uniform_TS = torch.ones(TIME, TIME).tril()
    weights_BHTS = (uniform_TS / uniform_TS.sum(-1, keepdim=True))[None, None]
    assert float(prefix_matching(weights_BHTS, PERIOD)) == pytest.approx(chance(TIME, PERIOD))
    # by hand: queries at 6 to 10 have one follower, those at 11 to 15 two, among as many places as they see
    by_hand = (sum(1 / (t + 1) for t in range(6, 11)) + sum(2 / (t + 1) for t in range(11, 16))) / 10
    assert chance(TIME, PERIOD) == pytest.approx(by_hand)


def test_a_model_without_queries_looks_everywhere_alike():
    model = new_decoder(CONFIG, seed=0)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.zero_()
    scores_GBH = head_scores(model, sequences(), PERIOD)
    assert scores_GBH.shape == (2, 4, 4)
    np.testing.assert_allclose(scores_GBH, chance(TIME, PERIOD), atol=1e-6)


def test_the_commonest_and_the_rarest_tokens_are_left_out():
    tokens = np.repeat(np.arange(100), np.arange(100, 0, -1))  # 0 is the commonest, 99 the rarest
    pool = middling_tokens(tokens, least=10, without=frozenset({50}))
    assert set(pool.tolist()) == set(range(4, 75 + 1)) - {50}
    assert len(middling_tokens(tokens, least=90, without=frozenset({50}))) == 99  # too few: all that occur


@pytest.mark.parametrize(
    ("context", "shape"), [(512, (25, 4)), (101, (25, 4)), (100, (25, 3)), (60, (25, 2)), (9, (4, 2))]
)
def test_repeats_fit_the_context(context, shape):
    assert shape_for(context) == shape
    assert 1 + shape[0] * shape[1] <= context


def test_a_context_without_room_is_refused():
    with pytest.raises(ModelError, match="a context of 8 tokens"):
        shape_for(8)
