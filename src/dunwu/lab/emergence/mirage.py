"""Does a jump survive where partial credit is given? (arXiv:2304.15004: many do not.)

The same answers, or the same models on the same questions, under an all-or-nothing metric and a graded one. Where the all-or-nothing
score jumps, its rise begins at a certain size (10% of it). The *early share* is how much of the graded score's gain, from the
smallest model to the largest, the largest model before that size has. The rule (`survives`):

- **no**: the graded score rises smoothly (its width is above the limit, 95%), or more than a quarter of its gain came early (95%);
- **yes**: the graded score jumps by the same test, and less than half of its gain came early (95%);
- **undecided**: else. Where the all-or-nothing score has no jump, there is nothing to survive; the early share is told all the same.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dunwu.lab.emergence.breaks import Break
from dunwu.lab.emergence.measures import Floats

Survives = Literal["yes", "no", "undecided", "no jump"]
MOST_EARLY = 0.25  # of the graded gain, by the jump's begin: with more, partial credit told of the ability before
LEAST_LATE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Survival:
    """`early`: the early share, with its 95% interval; NaN where one of the two scores does not rise, or the all-or-nothing one
    begins to rise before the smallest model."""

    verdict: Survives
    early: float = math.nan
    low: float = math.nan
    high: float = math.nan


def survives(whole: Break, graded: Break, x_R: Floats) -> Survival:
    """Whether a jump of `whole` is one of `graded` too; `x_R`: where both were measured."""
    none: Survives = "undecided" if whole.verdict == "jump" else "no jump"
    if whole.verdict in ("few", "level") or graded.verdict in ("few", "level"):
        return Survival(verdict=none)
    u_R = np.unique(np.log10(x_R))
    first, last = float(u_R[0]), float(u_R[-1])
    start = whole.middle - whole.width / 2
    if start <= first:  # the rise begins before the smallest model, and nothing can be told of what comes before
        return Survival(verdict="no" if none == "undecided" and graded.verdict == "smooth" else none)
    count = min(whole.middle_D.size, graded.middle_D.size)
    start_D = whole.middle_D[:count] - whole.width_D[:count] / 2
    early_D = _early(_before(start_D, u_R), graded.middle_D[:count], graded.width_D[:count], first, last)
    at = _before(np.array([start]), u_R)
    early = float(_early(at, np.array([graded.middle]), np.array([graded.width]), first, last)[0])
    low, high = np.quantile(early_D, [0.025, 0.975]).tolist()
    verdict = none
    if whole.verdict != "jump":
        pass
    elif graded.verdict == "smooth" or low > MOST_EARLY:
        verdict = "no"
    elif graded.verdict == "jump" and high < LEAST_LATE:
        verdict = "yes"
    return Survival(verdict=verdict, early=early, low=low, high=high)


def _before(start_D: Floats, u_R: Floats) -> Floats:
    """The last point at or before each start; the first point where there is none."""
    return u_R[np.maximum(np.searchsorted(u_R, start_D, side="right") - 1, 0)]


def _early(start_D: Floats, middle_D: Floats, width_D: Floats, first: float, last: float) -> Floats:
    """The share of a logistic rise between `first` and `last` that lies before `start`."""

    def at(u_D: Floats) -> Floats:
        return 1.0 / (1.0 + np.exp(-np.clip((u_D - middle_D) * (2 * math.log(9.0)) / width_D, -60.0, 60.0)))

    begin_D, end_D = at(np.full_like(start_D, first)), at(np.full_like(start_D, last))
    gain_D = end_D - begin_D
    return np.where(gain_D > 1e-12, (at(np.clip(start_D, first, last)) - begin_D) / np.maximum(gain_D, 1e-12), 0.0)
