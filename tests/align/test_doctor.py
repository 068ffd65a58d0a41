"""The doctor: healthy runs are left alone, planted faults are named, and what it says follows from the rows alone."""

import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.align.doctor.doctor import Doctor
from dunwu.align.doctor.finding import DoctorConfig
from dunwu.align.doctor.history import Series
from dunwu.align.doctor.ranges import reward_range
from dunwu.align.doctor.trend import above_p, bend, block_means, fall_p, rise_p, together
from dunwu.core.rewards import reward_specs
from tests.align.simulated import FAULTS, healthy, planted


def names(doctor, *severities):
    return {one.name for one in doctor.findings if one.severity in severities}


# --------------------------------------------------------------------------------------------------------------- tests


def test_a_rise_is_tested_exactly():
    assert rise_p([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(1 / 120)  # one order of 5! has no pair out of order
    assert rise_p([1.0, 2.0, 3.0, 5.0, 4.0]) == pytest.approx(5 / 120)  # and four have one
    assert fall_p([5.0, 4.0, 3.0, 2.0]) == pytest.approx(1 / 24)
    assert rise_p([5.0, 4.0, 3.0, 2.0]) == 1
    assert rise_p([1.0] * 12) > 0.5  # ties say nothing
    assert rise_p([1.0, 2.0, 3.0]) == 1
    orders = list(itertools.permutations(range(6)))
    for level in (0.01, 0.05, 0.3):  # what is said of orders holds of all of them
        assert sum(rise_p([float(x) for x in order]) <= level for order in orders) <= level * len(orders)


def test_block_means_use_every_value_once():
    values = [float(x) for x in range(31)]
    means = block_means(values, 4)  # of 7, 8, 8 and 8 values
    assert means == [3.0, 10.5, 18.5, 26.5]


def test_means_apart_are_tested_as_welch_did():
    """Two samples worked by hand: means 2 and 5, variances 1 and 1, three values each: t = 3 / sqrt(2/3), 4 degrees."""
    p = above_p([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    t = 3 / math.sqrt(2 / 3)
    x = t / math.sqrt(4 + t * t)  # the closed form of Student's distribution with 4 degrees of freedom
    assert p == pytest.approx(0.5 - (0.75 * x - 0.25 * x**3), rel=1e-9)
    assert above_p([4.0, 5.0, 6.0], [1.0, 2.0, 3.0]) == pytest.approx(1 - p)
    assert above_p([2.0, 2.0], [2.0, 2.0]) == 1
    assert above_p([2.0, 2.0], [3.0, 3.0]) == 0


def test_two_rising_figures_are_not_linked_by_rising():
    rng = random.Random(3)
    rises = [[step / 10 + rng.gauss(0, 1) for step in range(64)] for _ in range(2)]
    assert together(*rises)[1] > 0.05
    noise = [rng.gauss(0, 1) for _ in range(64)]
    linked = [step / 10 + one + rng.gauss(0, 0.3) for step, one in enumerate(noise)]
    r, p = together(noise, linked)
    assert r > 0.8
    assert p < 1e-4
    assert together(noise, noise) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-9))


def test_a_bend_is_where_a_level_goes_over_into_a_fall():
    assert bend([5.0, 5.0, 5.0, 5.0, 4.0, 3.0, 2.0, 1.0]) == 3
    assert bend([5.0, 4.0, 3.0, 2.0]) == 0
    assert bend([1.0, 1.1, 0.9, 1.0, 2.0, 3.1, 4.0]) == 3


def test_where_a_stretch_begins():
    series = Series(list(range(10, 20)), [0, 0, 1, 0, 0, 0, 1, 1, 1, 1])
    assert series.since(lambda value: value > 0.5, smooth=1) == 16
    assert series.since(lambda value: value > 5, smooth=1) == 19


# ---------------------------------------------------------------------------------------------------------------- runs


def test_healthy_runs_are_not_stopped():
    """Of 1,000 runs in which all is well at most 1% are called lost, and at most 3% warned of what is not there."""
    lost, warned = Counter(), Counter()
    for seed in range(1000):
        rows = healthy(random.Random(seed))
        doctor = Doctor.after(rows, DoctorConfig(steps=len(rows)))
        lost.update(names(doctor, "lost"))
        warned.update(
            names(doctor, "warning") - {"no learning"}
        )  # in some, truly, nothing has risen by half of the run
    assert lost.total() <= 10, lost
    assert warned.total() <= 30, warned


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "_"))
def test_a_planted_fault_is_named(fault):
    """In 19 of 20 runs within the fault's number of steps, not before it was there, with a step that it is seen since."""
    late, tries = 0, 40
    for seed in range(tries):
        rng = random.Random(seed)
        rows, begin = planted(fault, rng)
        doctor = Doctor.after(rows, DoctorConfig(steps=len(rows)))
        found = [one for one in doctor.findings if one.name == fault.name and one.gravity >= fault.gravity]
        if not found or found[0].told > begin + fault.within:
            late += 1
            continue
        assert found[0].told >= begin
        assert begin - fault.slack <= found[0].step <= found[0].told
        assert found[0].says
        assert found[0].try_
    assert late <= tries / 20


def test_a_number_that_is_none_is_lost_at_once():
    doctor = Doctor()
    assert doctor.observe({"step": 1, "reward": 0.5, "kl": 0.1}, 1) == []
    [found] = doctor.observe({"step": 2, "reward": math.nan, "kl": math.inf}, 2)
    assert (found.severity, found.step) == ("lost", 2)
    assert found.says == "Reward, kl are not a number."
    assert doctor.lost is found
    assert doctor.observe({"step": 3, "reward": math.nan}, 3) == []  # told once


@pytest.mark.parametrize(("reward", "word", "remedy"), [(1.0, "too easy", "harder"), (0.0, "too hard", "easier")])
def test_dead_groups_say_on_which_side(reward, word, remedy):
    rows = [{"step": step, "reward": reward, "groups_without_variance": 1.0} for step in range(1, 41)]
    found = [one for one in Doctor.after(rows).findings if one.name == "groups without variance"]
    assert word in found[0].says
    assert remedy in found[0].try_
    assert "100% of the prompts" in found[0].says
    assert (found[-1].severity == "lost") == (reward == 0)


def test_rewards_of_any_scale_are_not_called_right_or_wrong():
    rows = [{"step": step, "reward": -3.0, "groups_without_variance": 0.9} for step in range(1, 41)]
    [found] = Doctor.after(rows).findings[:1]
    assert "too" not in found.says
    [known] = Doctor.after(rows, DoctorConfig(reward_range=(-3.5, 4.0))).findings[:1]
    assert "too hard" in known.says


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.floats(0.05, 0.95), which=st.integers(0, len(FAULTS) - 1))
def test_a_run_that_goes_on_is_judged_as_one_that_was_not_cut(seed, cut, which):
    rows, _ = planted(FAULTS[which], random.Random(seed))
    whole, at = Doctor.after(rows), int(cut * len(rows))
    again = Doctor.after(rows[:at])
    for row in rows[at:]:
        again.observe(row, row["step"])
    assert again.findings == whole.findings
    assert all(
        one.gravity > other.gravity
        for at, one in enumerate(whole.findings)
        for other in whole.findings[:at]
        if other.name == one.name
    )


def test_words_in_rows_are_passed_over_and_incidents_are_told():
    rows = healthy(random.Random(1), 40)
    mixed = [dict(row, note="text", flag=True) for row in rows]
    mixed.insert(7, {"step": 7, "incident": "skip", "reason": "the loss is nan", "row": 3})
    found = Doctor.after(mixed).findings
    assert [one for one in found if one.name != "batches skipped"] == Doctor.after(rows).findings
    assert [(one.step, one.severity) for one in found if one.name == "batches skipped"] == [(7, "note")]


@pytest.mark.parametrize("fault", FAULTS[:4], ids=lambda fault: fault.name.replace(" ", "_"))
def test_a_rollout_that_is_learned_from_several_times_counts_once(fault):
    rows, _ = planted(fault, random.Random(8))
    again = [
        {**row, "step": 3 * number + part, "rollout_s": 0.0 if part else 2.0}
        for number, row in enumerate(rows)
        for part in range(3)
    ]
    once, thrice = Doctor.after(rows).findings, Doctor.after(again).findings
    about_updates = {"ratios too wide", "learning rate too high"}
    assert [(one.name, one.severity, one.says.split("step")[0]) for one in once if one.name not in about_updates] == [
        (one.name, one.severity, one.says.split("step")[0]) for one in thrice if one.name not in about_updates
    ]
    assert once


def test_the_range_of_a_reward_follows_from_its_parts():
    specs = reward_specs(
        ["math", "0.5*length:100", {"kind": "function", "path": "a.py:f", "clip": [-2, 3], "weight": 2}]
    )
    assert reward_range(specs) == (0 - 0.5 - 4, 1 + 0 + 6)
    assert reward_range(reward_specs([{"kind": "world", "scale": 4, "clip": [1, 3], "weight": -1}])) == (-3, -1)
    assert reward_range(reward_specs([{"kind": "judge", "model": "m", "scale": 0.1}])) == (0.1, 1.0)
    assert reward_range(reward_specs(["math", "model"])) is None
    assert reward_range([]) is None


def test_learning_without_a_reward_is_neither_futile_nor_at_a_standstill():
    """As in distillation, where a teacher's word is all: answers may be cut, and the reward is nothing."""
    rows = [{**row, "reward": 0.0, "reward.right": 0.0, "ended": 0.0} for row in healthy(random.Random(4), 120)]
    for row in rows:
        del row["groups_without_variance"]
        row.pop("held_out_score", None)
    found = Doctor.after(rows, DoctorConfig(steps=120)).findings
    assert {one.name for one in found} <= {"missing end of turn", "rising length", "falling length"}
    assert all(one.severity != "lost" for one in found)
