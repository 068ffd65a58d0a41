"""Jumps are found where they were made, and not where curves are smooth; mirages are told from jumps."""

import math

import numpy as np
import pytest

from dunwu.lab.emergence.breaks import find_break, find_breaks
from dunwu.lab.emergence.curves import curve_of
from dunwu.lab.emergence.metrics import metric_of
from dunwu.lab.emergence.mirage import survives

SIZES = np.geomspace(1e7, 1e11, 12)


def logistic(middle, width, low=0.1, high=0.8):
    return lambda u: low + (high - low) / (1 + np.exp(-(u - middle) * 2 * math.log(9) / width))


def curve(shape, seed=0, questions=500, sizes=SIZES, metric="acc", task="sums"):
    """Scores of `questions` questions each."""
    share = np.clip(shape(np.log10(sizes)), 0, 1)
    scores = np.random.default_rng(seed).binomial(questions, share) / questions
    errors = np.sqrt(np.clip(scores * (1 - scores), 0.001, 1) / questions).tolist()
    return curve_of(task, metric_of(metric), "", "size", [(x, y, "") for x, y in zip(sizes, scores.tolist(), strict=True)], errors=errors)  # fmt: skip


SMOOTH = {
    "line": lambda u: 0.2 + 0.15 * (u - 7),
    "wide": logistic(9, 2.0),
    "saturating": lambda u: 1 - 0.8 * 10 ** (-0.3 * (u - 7)),
    "accelerating": lambda u: 0.1 + 0.8 * 10 ** (0.5 * (u - 11)),
    "level": lambda u: 0.25 + 0 * u,
}


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_curves_seldom_jump(name):
    found = [find_break(curve(SMOOTH[name], seed), draws=199, seed=seed).verdict for seed in range(40)]
    assert found.count("jump") <= 2  # 5% of single searches
    if name == "level":
        assert found.count("level") >= 36
    else:
        assert found.count("smooth") >= 36


def test_at_the_very_limit_the_test_keeps_its_level():
    found = [find_break(curve(logistic(9, 1.0), seed), draws=199, seed=seed).p_jump < 0.05 for seed in range(60)]
    assert sum(found) <= 9  # .05 expected; 10 of 60 has a chance of .1% at .05


@pytest.mark.parametrize("width", [0.2, 0.5])
def test_jumps_are_found_with_their_place_and_width(width):
    found = [find_break(curve(logistic(9.2, width), seed), draws=199, seed=seed) for seed in range(20)]
    assert sum(one.verdict == "jump" for one in found) >= 19
    inside = [one.interval(one.middle_D)[0] <= 9.2 <= one.interval(one.middle_D)[1] for one in found]
    assert sum(inside) >= 17
    assert np.median([one.gain for one in found]) == pytest.approx(0.7, abs=0.05)


def test_searching_many_curves_makes_a_single_one_count_less():
    alone = find_breaks([curve(logistic(9, 0.6), 1)])[0]
    among = find_breaks([curve(logistic(9, 0.6), 1), *(curve(SMOOTH["level"], seed, task=f"t{seed}") for seed in range(30))])  # fmt: skip
    assert alone.p_jump_adjusted == alone.p_jump
    assert among[0].p_jump_adjusted == pytest.approx(min(1.0, 31 * among[0].p_jump))
    assert among[0].verdict == "jump"
    assert not any(one.verdict == "jump" for one in among[1:])


def test_an_exact_step_and_exactly_level_scores():
    step = curve_of("t", metric_of("score"), "", "size", [(x, float(x > 1e9), "") for x in SIZES])
    level = curve_of("t", metric_of("score"), "", "size", [(x, 0.5, "") for x in SIZES])
    assert find_break(step).verdict == "jump"
    assert find_break(level).verdict == "level"


def test_five_points_are_too_few_to_search():
    assert find_break(curve(logistic(9, 0.3), sizes=SIZES[:5])).verdict == "few"


def test_falling_scores_are_no_rise_and_falling_errors_are_one():
    falling = curve(lambda u: 0.9 - 0.15 * (u - 7))
    assert find_break(falling).verdict == "level"
    errors = curve_of("t", metric_of("brier"), "", "size", [(x, y, "") for x, y in zip(falling.x_R, falling.y_R, strict=True)])  # fmt: skip
    assert find_break(errors).verdict == "smooth"
    assert find_break(errors).gain == pytest.approx(0.6, abs=0.1)


def test_the_same_seed_finds_the_same():
    one, other = (find_break(curve(logistic(9, 0.5)), seed=3) for _ in range(2))
    assert (one.p_jump, one.middle_D.tolist()) == (other.p_jump, other.middle_D.tolist())


def both(token, length, seed):
    """The same models by tokens right (graded) and by whole answers of `length` tokens, all of which must be right."""
    whole = curve(lambda u: np.clip(token(u), 0, 1) ** length, seed)
    graded = curve(token, seed + 1000, questions=500 * length, metric="edit_similarity")
    return survives(*find_breaks([whole, graded], draws=199), SIZES)


@pytest.mark.parametrize("seed", range(5))
def test_a_mirage_is_told_from_a_jump(seed):
    steady = both(
        lambda u: 0.5 + np.minimum((u - 7) / 6, 0.4995), 30, seed
    )  # tokens in a straight line: whole answers appear at its end
    sudden = both(logistic(9, 0.3, low=0.3, high=0.999), 3, seed)
    assert (steady.verdict, sudden.verdict) == ("no", "yes")
    assert steady.early > 0.6
    assert sudden.high < 0.5


@pytest.mark.parametrize("seed", range(3))
def test_partial_credit_that_jumps_before_is_a_mirage_too(seed):
    early = both(lambda u: np.exp(-(10 ** (2.2 * (8.3 - u)))), 60, seed)  # both are narrow, but apart
    assert early.verdict == "no"
    assert early.low > 0.25


def test_a_smooth_score_has_no_jump_to_survive():
    assert both(SMOOTH["line"], 1, 0).verdict == "no jump"
