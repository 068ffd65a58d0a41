"""Draws in a few numbers: what several rooms of the lab ask of a bootstrap, and of residuals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Draws = Sequence[float] | Floats

MOST_LOST = 0.2  # of the draws may give no law: with more the runs do not tell it, whatever the others say


def percentiles(draws: Draws, confidence: float = 0.95) -> tuple[float, float]:
    """The limits that leave out as much below as above."""
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return float(low), float(high)


def estimate(value: float, draws: Draws, confidence: float = 0.95) -> dict[str, float]:
    """A value with the percentiles of its draws; NaN limits where there are none."""
    low, high = percentiles(draws, confidence) if len(draws) else (np.nan, np.nan)
    return {"value": float(value), "low": low, "high": high}


def root_mean_square(values: Sequence[float] | npt.NDArray[Any]) -> float:
    """Of residuals, for one."""
    return float(np.sqrt(np.mean(np.square(values))))
