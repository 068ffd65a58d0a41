"""Linearity and Breakthroughness, as BIG-bench defines them (arXiv:2206.04615, appendix B).

For scores y_1 … y_n of models by growing size:

    I = sign(argmax y - argmin y) (max y - min y)                    the improvement
    L = I / RootMeanSquare(y_{i+1} - y_i)                            linearity
    B = I / RootMedianSquare(y_{i+1} - y_i)                          breakthroughness

Both use the order of the sizes only, not their distances. A straight line of n points has L = B = n - 1; one step has L = sqrt(n - 1),
and a B without bound, as most differences are nothing. arXiv:2304.15004 writes B as its "emergence score", with sqrt(Median(...²)).

Where those who restate them differ, both are here:
- The median of squares of an even number of differences is the mean of the middle two squares, before the root, in the formula
  above. `middle="size"` takes the median of the absolute differences instead, which some code does; the two agree for an odd number.
- A B without bound, or of level scores (0 / 0), is inf and NaN here; reanalyses cut it to [0, 100] and call level scores, and those
  that fall, 0: `bounded`.
- `linearity_share` divides L by n - 1, so that a straight line has 1 whatever the number of models.

Shapes: `R` scores of a ladder, `D` ladders (draws).
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MOST = 100.0  # what reanalyses cut breakthroughness to
FEWEST = 3  # points: with two there is one difference, and all is a straight line


def improvement(scores_R: Sequence[float] | Floats) -> float:
    """I: how far scores rise from the least to the best, negative where the best comes first. Of equals the first counts."""
    return float(improvements(np.asarray(scores_R, np.float64)[None])[0])


def linearity(scores_R: Sequence[float] | Floats) -> float:
    """L: n - 1 for a straight line of n points, less for others. NaN where all are equal. Raises ValueError for fewer than 3."""
    return float(linearities(np.asarray(scores_R, np.float64)[None])[0])


def linearity_share(scores_R: Sequence[float] | Floats) -> float:
    """L / (n - 1): 1 for a straight line, -1 for a falling one."""
    return linearity(scores_R) / (len(scores_R) - 1)


def breakthroughness(scores_R: Sequence[float] | Floats, *, middle: Literal["square", "size"] = "square") -> float:
    """B: large where most steps change little and few change much; inf where the middle one changes nothing, NaN where none does."""
    return float(breakthroughnesses(np.asarray(scores_R, np.float64)[None], middle=middle)[0])


def improvements(scores_DR: Floats) -> Floats:
    """I of each row."""
    return np.sign(scores_DR.argmax(1) - scores_DR.argmin(1)) * np.ptp(scores_DR, axis=1)


def linearities(scores_DR: Floats) -> Floats:
    """L of each row."""
    return _quotient(improvements(scores_DR), np.sqrt((_differences(scores_DR) ** 2).mean(1)))


def breakthroughnesses(scores_DR: Floats, *, middle: Literal["square", "size"] = "square") -> Floats:
    """B of each row."""
    differences = _differences(scores_DR)
    typical = np.sqrt(np.median(differences**2, axis=1)) if middle == "square" else np.median(abs(differences), axis=1)
    return _quotient(improvements(scores_DR), typical)


def bounded(value: float) -> float:
    """L or B as reanalyses give it: within 0 and 100, and 0 for level scores."""
    return 0.0 if math.isnan(value) else min(max(value, 0.0), MOST)


def _differences(scores_DR: Floats) -> Floats:
    if scores_DR.shape[1] < FEWEST:
        raise ValueError(f"{scores_DR.shape[1]} scores; linearity and breakthroughness need {FEWEST} or more")
    return np.diff(scores_DR, axis=1)


def _quotient(gain_D: Floats, typical_D: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gain_D == 0.0, math.nan, gain_D / typical_D)
