"""Forecasts on record: kept, scored, and shown together."""

import dataclasses
import json
import math

import pytest

from dunwu.core.errors import DataError
from dunwu.lab.ladder.answer import Interval
from dunwu.lab.ladder.calibration import calibration, score_facts, score_lines
from dunwu.lab.ladder.fit import LadderFit, LadderLaw, Trial
from dunwu.lab.ladder.record import (
    ForecastRecord,
    Identity,
    Trained,
    add_forecast,
    forecasts_of,
    next_place,
    score,
    score_all,
)

OF = Identity(recipe="r", corpus="c", tokenizer="t", heldout_bytes=1000)
LAW = LadderLaw(bend=0.0, level=4.0, slope=0.5, power=1.0, share=1.0, size=1e6, tokens=1e6)
FIT = LadderFit(
    trials=(Trial(law=LAW, error=0.01, weight=1.0),), draws=(LAW,) * 100, noise=0.01, drift=0.0, largest_flops=1e12
)


def record(home, **changes):
    number, previous = next_place(home)
    value, low, high = FIT.loss(1e6, 1e6, 6e12, 0.9)
    facts = {
        "number": number, "made": "2026-01-01T00:00:00+00:00", "name": "mine", "of": OF, "previous": previous, "confidence": 0.9,
        "size": 1e6, "tokens": 1e6, "flops": 6e12, "loss": Interval(value=value, low=low, high=high),
        "seconds": Interval(value=60, low=30, high=90), "bytes_per_token": 4.0, "fresh_tokens": 10**9, "fit": FIT.as_json(),
        "facts": {}, "dunwu": "0",
    }  # fmt: skip
    return ForecastRecord(**{**facts, **changes})


def trained(bits, **changes):
    facts = {
        "hash": "h",
        "began": "2026-01-02T00:00:00+00:00",
        "of": OF,
        "size": 1e6,
        "tokens": 1e6,
        "flops": 6e12,
        "seconds": 70.0,
    }
    return Trained(**{**facts, "bits_per_byte": bits, **changes})


BITS = (4 + 0.5 * math.log(2)) / math.log(2) / 4


def test_a_forecast_is_read_as_it_was_written(tmp_path):
    made = record(tmp_path)
    add_forecast(tmp_path, made)
    assert forecasts_of(tmp_path) == [made]
    assert made.bits_per_byte.value == pytest.approx(BITS)


def test_forecasts_are_never_written_over(tmp_path):
    made = record(tmp_path)
    add_forecast(tmp_path, made)
    with pytest.raises(DataError, match="never written over"):
        add_forecast(tmp_path, made)


@pytest.mark.parametrize("harm", ["alter", "remove"])
def test_a_record_that_was_altered_or_shortened_is_no_record(tmp_path, harm):
    files = [add_forecast(tmp_path, record(tmp_path, tokens=1e6 + at)) for at in range(3)]
    if harm == "alter":
        files[1].write_text(files[1].read_text().replace('"mine"', '"yours"'))
    else:
        files[1].unlink()
    with pytest.raises(DataError, match="altered or taken away"):
        forecasts_of(tmp_path)


def test_a_training_is_scored_by_hand(tmp_path):
    near = score(record(tmp_path), [trained(BITS * 1.005)], now="now")
    assert near.inside
    assert near.error == pytest.approx(0.005)
    far = score(record(tmp_path), [trained(BITS * 1.05)], now="now")
    assert not far.inside
    assert far.error == pytest.approx(0.05)


def test_what_was_trained_is_scored_for_the_size_it_has(tmp_path):
    """Twice the tokens: the lack is 1 + 1/2 instead of 2."""
    own = score(record(tmp_path), [trained(1.4, tokens=2e6, flops=1.2e13)], now="now")
    assert own.foretold.value == pytest.approx((4 + 0.5 * math.log(1.5)) / math.log(2) / 4)


@pytest.mark.parametrize(
    "other",
    [
        {"of": dataclasses.replace(OF, corpus="other")},
        {"of": dataclasses.replace(OF, heldout_bytes=5)},
        {"began": "2025-12-31T00:00:00+00:00"},
        {"flops": 6e13},
    ],
)
def test_another_training_is_no_answer(tmp_path, other):
    assert score(record(tmp_path), [trained(BITS, **other)], now="now") is None


def test_a_score_is_written_once(tmp_path):
    add_forecast(tmp_path, record(tmp_path))
    first = score_all(tmp_path, [trained(BITS * 1.01)], now="first")
    later = score_all(tmp_path, [trained(BITS * 1.3)], now="later")
    assert later == first
    assert first[0][1].scored == "first"


def test_all_forecasts_together(tmp_path):
    for _ in range(3):
        add_forecast(tmp_path, record(tmp_path))
    rows = score_all(tmp_path, [], now="x")
    assert "none scored yet" in list(score_lines(rows))[-1]
    scored = [
        (rows[0][0], score(rows[0][0], [trained(BITS * 1.002)], now="")),
        (rows[1][0], score(rows[1][0], [trained(BITS * 1.2)], now="")),
        rows[2],
    ]
    facts = score_facts(scored)
    assert (facts["forecasts"], facts["scored"], facts["inside"]) == (3, 2, 1)
    assert facts["median_error"] == pytest.approx(0.101)
    assert "1 inside their intervals" in list(score_lines(scored))[-1]
    page = calibration(scored)
    assert page.figures[0].lines[0].x == pytest.approx([BITS * 1.002, BITS * 1.2])
    assert len(page.tables[0].rows) == 3
    json.dumps(facts)
