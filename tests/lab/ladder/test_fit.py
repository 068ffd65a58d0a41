"""Laws through rungs that follow one: found again, and foretold within the interval."""

import dataclasses
import json
import math

import numpy as np
import pytest

from dunwu.core.errors import DataError
from dunwu.lab.ladder.fit import LadderFit, LadderLaw, Runs, fit_ladder

SIZE = np.array([5e4, 1e5, 2e5] * 3 + [1e5, 2e5, 4e5])
FLOPS = np.repeat([5e10, 1e11, 2e11, 4e11], 3)
TARGET = (1e6, 2e6, 1.2e13)
LAW = LadderLaw(bend=0.0, level=4.8, slope=0.45, power=0.8, share=0.4, size=1.2e5, tokens=2.5e5)


def runs_of(law, noise=0.0, seed=0, again=0):
    random = np.random.default_rng(seed)
    size, flops = np.append(SIZE, [1e5] * again), np.append(FLOPS, [1e11] * again)
    tokens = flops / 6 / size
    loss = law.loss(size, tokens) * np.exp(noise * random.standard_normal(len(size)))
    return Runs(size_R=size, tokens_R=tokens, flops_R=flops, loss_R=loss)


def test_the_law_by_hand():
    """In the middle of the ladder the lack is 1 + share; doubling both halves tokens' part and size's by 2^power."""
    law = dataclasses.replace(LAW, power=1.0, share=1.0)
    assert float(law.loss(law.size, law.tokens)) == pytest.approx(4.8 + 0.45 * math.log(2))
    assert float(law.loss(2 * law.size, 2 * law.tokens)) == pytest.approx(4.8)
    bent = dataclasses.replace(law, bend=0.5)
    assert float(bent.loss(law.size, law.tokens)) == pytest.approx(4.8 + 0.45 * (2**0.5 - 1) / 0.5)


def test_a_power_law_of_both_bends_towards_its_floor():
    law = dataclasses.replace(LAW, bend=0.35, level=4.8)
    assert float(law.loss(1e30, 1e30)) == pytest.approx(4.8 - 0.45 / 0.35, rel=1e-6)


@pytest.mark.parametrize("bend", [0.0, 0.2, 0.35])
def test_a_law_without_noise_is_found_again_thirty_times_above(bend):
    law = dataclasses.replace(LAW, bend=bend)
    fit = fit_ladder(runs_of(law))
    true = float(law.loss(*TARGET[:2]))
    value, low, high = fit.loss(*TARGET, confidence=0.9)
    assert value == pytest.approx(true, rel=0.03)
    assert low < true < high
    own = next(trial for trial in fit.trials if trial.law.bend == bend)
    assert float(own.law.loss(*TARGET[:2])) == pytest.approx(true, rel=0.01)
    assert own.weight == max(trial.weight for trial in fit.trials)


def test_intervals_hold_what_is_measured_as_often_as_they_say():
    """24 ladders of three bends with half a per cent of noise: 90% intervals hold the noisy target in five of six or more, and are no barn doors."""
    inside, widths = 0, []
    for seed in range(24):
        law = dataclasses.replace(LAW, bend=(0.0, 0.1, 0.2)[seed % 3])
        fit = fit_ladder(runs_of(law, noise=0.005, seed=seed, again=2), draws=100, seed=seed)
        measured = float(law.loss(*TARGET[:2])) * math.exp(0.005 * np.random.default_rng(1000 + seed).standard_normal())
        value, low, high = fit.loss(*TARGET, confidence=0.9)
        inside += low <= measured <= high
        widths.append((high - low) / value)
    assert inside >= 20
    assert np.median(widths) < 0.4


def test_more_noise_gives_wider_intervals():
    widths = []
    for noise in (0.001, 0.02):
        value, low, high = fit_ladder(runs_of(LAW, noise=noise, again=2)).loss(*TARGET, confidence=0.9)
        widths.append((high - low) / value)
    assert widths[1] > 2 * widths[0]


def test_noise_is_that_of_seeds():
    runs = runs_of(LAW, again=2)
    shaken = dataclasses.replace(runs, loss_R=runs.loss_R * np.exp(np.array([0.0] * 12 + [0.01, -0.01])))
    same = (shaken.size_R == 1e5) & (shaken.flops_R == 1e11)
    expected = np.log(shaken.loss_R[same]).std(ddof=1)
    assert fit_ladder(shaken).noise == pytest.approx(expected)


def test_a_fit_on_record_says_the_same():
    fit = fit_ladder(runs_of(LAW, noise=0.01), draws=50)
    again = LadderFit.from_json(json.loads(json.dumps(fit.as_json())))
    assert again.loss(*TARGET, confidence=0.9) == fit.loss(*TARGET, confidence=0.9)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda runs: runs.only(np.arange(4)), "4 rungs cannot tell"),
        (
            lambda runs: dataclasses.replace(runs, loss_R=np.where(runs.size_R > 3e5, np.nan, runs.loss_R)),
            "no finite loss",
        ),
        (lambda runs: dataclasses.replace(runs, size_R=np.full(len(runs), 1e5)), "all rungs have one size"),
        (lambda runs: dataclasses.replace(runs, loss_R=runs.size_R * runs.tokens_R), "no law in which loss falls"),
    ],
)
def test_rungs_that_tell_nothing_are_refused(change, said):
    with pytest.raises(DataError, match=said):
        fit_ladder(change(runs_of(LAW)))
