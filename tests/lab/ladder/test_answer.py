"""What is asked of a law, with known answers."""

import math

import numpy as np
import pytest

from dunwu.lab.ladder.answer import Oracle, measure_pace
from dunwu.lab.ladder.fit import LadderFit, LadderLaw, Trial
from dunwu.lab.ladder.repeats import epochs_until, worth

from .test_plan import FAMILY

LAW = LadderLaw(bend=0.0, level=4.0, slope=0.5, power=1.0, share=1.0, size=1e5, tokens=1e6)


def oracle(law=LAW, fresh=1e12):
    fit = LadderFit(
        trials=(Trial(law=law, error=0.01, weight=1.0),), draws=(law,), noise=0.002, drift=0.0, largest_flops=1e12
    )
    return Oracle(fit=fit, family=FAMILY, fresh=fresh, confidence=0.9)


def test_the_best_split_lies_where_size_and_tokens_lack_alike():
    """1e5/N + 1e6/D with D = C/6N is least where N = sqrt(C / 60): both lack the same."""
    split = oracle().best_split(6e13)
    assert split.size.value == pytest.approx(1e6, rel=0.05)
    assert split.tokens.value == pytest.approx(1e7, rel=0.05)
    assert split.loss.value == pytest.approx(4 + 0.5 * math.log(0.2), rel=1e-3)


def test_where_text_is_short_the_best_model_is_larger():
    assert oracle(fresh=1e5).best_split(6e13).size.value > 1.5 * oracle().best_split(6e13).size.value


def test_repeats_by_the_published_form():
    assert float(worth(5e5, 1e6)) == 5e5
    assert float(worth(1e6, 1e6)) == 1e6
    assert float(worth(4e6, 1e6)) == pytest.approx(1e6 * (1 + 15.4 * (1 - math.exp(-3 / 15.4))))
    assert float(worth(1e12, 1e6)) == pytest.approx(16.4e6)
    assert epochs_until(0.5) == pytest.approx(1 + 15.4 * math.log(2))
    more = (worth(epochs_until(0.5) * 1e6 + 1, 1e6) - worth(epochs_until(0.5) * 1e6, 1e6)).item()
    assert more == pytest.approx(0.5, abs=1e-3)


def test_repeating_stops_paying_sooner_for_a_small_model():
    wise = oracle(fresh=1e6)
    assert wise.worth_repeating(2e4) < wise.worth_repeating(1e6) < math.inf


def test_the_pace_is_found_again_and_foretells_a_time():
    flops, steps = np.array([1e10, 3e10, 1e11, 2e11]), np.array([100, 400, 300, 900])
    pace = measure_pace(flops.tolist(), steps.tolist(), (flops / 5e10 + 0.01 * steps).tolist())
    assert 1 / pace.flop_s.value == pytest.approx(5e10, rel=1e-6)
    assert pace.step_s == pytest.approx(0.01, rel=1e-6)
    said = pace.seconds(1e13, 2_048_000, 2048)
    assert said.value == pytest.approx(200 + 10, rel=1e-6)
    assert said.low < said.value < said.high


def test_a_pace_that_steps_do_not_change_has_no_negative_cost():
    pace = measure_pace([1e10, 2e10, 4e10], [400, 200, 100], [1.0, 2.0, 4.0])
    assert pace.step_s >= 0
    assert pace.flop_s.value == pytest.approx(1e-10, rel=0.05)
