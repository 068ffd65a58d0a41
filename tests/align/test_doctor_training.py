"""The doctor on training that has no rewards: healthy curves get at most notes, planted faults are named."""

import math
import random

import pytest

from dunwu.align.doctor.doctor import Doctor
from dunwu.align.doctor.finding import DoctorConfig
from dunwu.align.doctor.registry import TRAINING_RULES

STEPS = 400


def curve(seed, steps=STEPS):
    """A loss that falls as losses do, noisier or smoother, and a gradient norm that settles."""
    rng = random.Random(seed)
    start, end, noise = rng.uniform(3, 9), rng.uniform(0.5, 2.5), rng.uniform(0.005, 0.15)
    return [
        {
            "step": step,
            "tokens": 4096 * step,
            "loss": end + (start - end) * math.exp(-9 * (step / steps) ** 0.6) + noise * rng.gauss(0, 1),
            "grad_norm": (0.5 + 2 * math.exp(-step / 20)) * math.exp(rng.gauss(0, 0.2)),
        }
        for step in range(1, steps + 1)
    ]


def seen(rows):
    return Doctor.after(rows, DoctorConfig(section="sft"), TRAINING_RULES).findings


def test_healthy_curves_are_not_warned_of():
    found = [one for seed in range(200) for one in seen(curve(seed))]
    assert not [one for one in found if one.severity != "note"]
    assert sum(one.name == "loss jumps" for one in found) <= 2


def rises(rows):
    for row in rows[200:]:
        row["loss"] += 0.02 * (row["step"] - 200)


def jumps(rows):
    rows[250]["loss"] += 3


def stands_still(rows):
    rng = random.Random(5)
    for row in rows[100:]:
        row["loss"] = 2 + rng.gauss(0, 0.05) + 0.0002 * row["step"]


def gradients_grow(rows):
    for row in rows[200:]:
        row["grad_norm"] *= math.exp((row["step"] - 200) / 20)


@pytest.mark.parametrize(
    ("plant", "name", "begin", "within"),
    [
        (rises, "loss rises", 201, 90),
        (jumps, "loss jumps", 251, 4),
        (stands_still, "loss stands still", 101, 260),
        (gradients_grow, "gradients grow", 201, 60),
    ],
)
def test_planted_faults_are_named(plant, name, begin, within):
    for seed in range(10):
        rows = curve(seed)
        plant(rows)
        [found] = [one for one in seen(rows) if one.name == name]
        assert begin <= found.told <= begin + within
        assert begin - 40 <= found.step <= found.told
        assert name != "loss rises" or "sft.lr_adamw" in found.try_


def test_what_the_guard_did_is_told_once_and_again_when_it_went_back():
    rows = curve(1, 60)
    bad = {"step": 20, "incident": "skip", "row": 7, "reason": "the loss is nan"}
    back = {"step": 33, "incident": "rewind", "row": 9, "reason": "3 bad batches in a row"}
    skipped, returned = seen([*rows[:20], bad, *rows[20:33], back, *rows[33:]])
    assert (skipped.severity, skipped.step) == ("note", 20)
    assert skipped.says == "The loop threw away 1 batch; first because the loss is nan."
    assert returned.severity == "warning"
    assert "went back once" in returned.says
