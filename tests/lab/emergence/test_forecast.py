"""Forecasts of larger models from smaller ones, where the truth is known."""

import math

import numpy as np
import pytest

from dunwu.core.errors import DataError
from dunwu.lab.emergence.curves import curve_of
from dunwu.lab.emergence.forecast import forecast
from dunwu.lab.emergence.metrics import metric_of


def curve(seed=0, *, noise=0.03, metric="acc", middle=22.0, width=2.5):
    random = np.random.default_rng(seed)
    x = np.geomspace(1e20, 1e25, 40)
    truth = 0.1 + 0.9 / (1 + np.exp(-(np.log10(x) - middle) * 2 * math.log(9) / width))
    scores = np.clip(truth + noise * random.normal(size=len(x)), 0, 1)
    known = metric_of(metric)
    if not known.more_is_better:
        scores = known.high * (1 - scores)
    return curve_of(
        "sums", known, "", "flops", [(a, b, f"m{at}") for at, (a, b) in enumerate(zip(x, scores, strict=True))]
    )


def test_larger_models_are_forecast_within_their_intervals():
    found = [forecast(curve(seed), 1e23, seed=seed) for seed in range(6)]
    assert all(one.error < 0.07 for one in found)
    assert sum(one.covered for one in found) / sum(len(one.x_P) for one in found) > 0.88
    assert all(one.naive_error > 2 * one.error for one in found)
    assert found[0].names[0] == "m24"
    assert (found[0].fitted, len(found[0].x_P)) == (24, 16)


def test_small_models_at_the_floor_leave_it_open_when_the_rise_comes():
    found = forecast(curve(middle=23.5, width=0.8, noise=0.01), 1e22)
    assert found.covered == len(found.x_P)
    assert (found.high_P - found.low_P)[-1] > 0.8


def test_errors_are_forecast_as_scores_are():
    scores, errors = forecast(curve(), 1e23), forecast(curve(metric="brier"), 1e23)
    assert errors.value_P == pytest.approx(2 * (1 - scores.value_P), abs=1e-9)
    assert (errors.low_P <= errors.high_P).all()
    assert errors.covered == scores.covered


def test_too_few_models_and_metrics_without_a_best_score_are_refused():
    with pytest.raises(DataError, match=r"1 models lie below 1.1e.20 and 39 above; 6 or more below"):
        forecast(curve(), 1.1e20)
    with pytest.raises(DataError, match=r"40 models lie below 1e.30 and 0 above"):
        forecast(curve(), 1e30)
    losses = curve_of("t", metric_of("loss"), "", "size", [(x, 3.0, "") for x in np.geomspace(1e6, 1e9, 12)])
    with pytest.raises(DataError, match="loss has no best score"):
        forecast(losses, 1e8)
