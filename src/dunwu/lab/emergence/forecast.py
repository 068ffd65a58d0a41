"""Scores of larger models, from a sigmoid that is fitted to the smaller ones.

y = floor + (best - floor) · logistic in log x, where `best` is the metric's best score and the floor is free, within the metric's
range. All middles and widths of a grid are equally likely beforehand (middles up to four decades beyond the last point: small models
at the floor do not tell where it ends); what is likely afterwards follows from the residuals (a t likelihood). Intervals are those of
single models: 95% of scores drawn from curves that are likely, with the residuals' noise around them.

Models of one family resemble one another, which is not taken into account: intervals may be too narrow.

Shapes: `R` models that are fitted, `P` models that are forecast, `G` curves of the grid, `D` draws.
"""

# ruff: noqa: N815 (shape suffixes are upper case)

import math
from dataclasses import dataclass

import numpy as np

from dunwu.core.errors import DataError
from dunwu.lab.emergence.curves import Curve
from dunwu.lab.emergence.measures import Floats

FEWEST = 6
MIDDLES, WIDTHS = 81, 25
BEYOND = 4.0  # decades
NARROWEST, WIDEST = 0.2, 8.0
DRAWS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What was forecast for the points at and above a border, from those below, and what they scored."""

    task: str
    metric: str
    border: float
    fitted: int
    x_P: Floats
    names: tuple[str, ...]
    actual_P: Floats
    value_P: Floats
    low_P: Floats
    high_P: Floats
    naive_P: Floats

    @property
    def error(self) -> float:
        """Mean of |forecast - actual|."""
        return float(np.abs(self.value_P - self.actual_P).mean())

    @property
    def naive_error(self) -> float:
        """The same of the largest fitted models' mean score, which expects nothing of size."""
        return float(np.abs(self.naive_P - self.actual_P).mean())

    @property
    def bias(self) -> float:
        """Mean of forecast - actual."""
        return float((self.value_P - self.actual_P).mean())

    @property
    def covered(self) -> int:
        """How many scored within their 95% interval."""
        return int(((self.low_P <= self.actual_P) & (self.actual_P <= self.high_P)).sum())


def forecast(curve: Curve, border: float, *, seed: int = 0) -> Forecast:
    """Forecast the curve's points at and above `border` from those below. Raises DataError where too few are there, or the metric
    has no best score."""
    below = curve.x_R < border
    if int(below.sum()) < FEWEST or bool(below.all()):
        raise DataError(
            f"{curve.task} under {curve.metric.name}: {int(below.sum())} models lie below {border:g} and {int((~below).sum())} above; "
            f"{FEWEST} or more below and one above are needed: move --forecast, or give more models"
        )
    if not math.isfinite(curve.metric.span):
        raise DataError(
            f"{curve.metric.name} has no best score, so no sigmoid leads to it; forecast a metric between 0 and 1"
        )
    u_R = np.log10(curve.x_R)
    low, span = curve.metric.low, curve.metric.span
    share_R = (curve.y_R - low) / span
    if not curve.metric.more_is_better:
        share_R = 1 - share_R
    value_P, low_P, high_P = sigmoid_forecast(u_R[below], share_R[below], u_R[~below], seed=seed)
    top = share_R[below][u_R[below] >= u_R[below].max() - 0.5]
    naive_P = np.full(len(value_P), float(top.mean()))
    parts = [low + span * part if curve.metric.more_is_better else low + span * (1 - part) for part in (value_P, low_P, high_P, naive_P)]  # fmt: skip
    if not curve.metric.more_is_better:
        parts[1], parts[2] = parts[2], parts[1]
    return Forecast(
        task=curve.task,
        metric=curve.metric.name,
        border=border,
        fitted=int(below.sum()),
        x_P=curve.x_R[~below],
        names=tuple(name for name, under in zip(curve.names, below.tolist(), strict=True) if not under),
        actual_P=curve.y_R[~below],
        value_P=parts[0],
        low_P=parts[1],
        high_P=parts[2],
        naive_P=parts[3],
    )


def sigmoid_forecast(u_R: Floats, share_R: Floats, u_P: Floats, *, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Median, 2.5% and 97.5% of shares (0 to 1) at `u_P`, from those at `u_R`; u: the logarithm (base 10) of size or compute, or
    any other measure on which a unit is a long way."""
    middles = np.linspace(u_R.min() - 1.0, u_R.max() + BEYOND, MIDDLES)
    widths = np.geomspace(NARROWEST, WIDEST, WIDTHS)
    middle_G, width_G = (part.ravel() for part in np.meshgrid(middles, widths))
    rest_GR = 1.0 - _logistic(u_R[None], middle_G[:, None], width_G[:, None])  # y = 1 - (1 - floor) · rest
    power_G = np.maximum((rest_GR**2).sum(1), 1e-12)
    floor_G = np.clip(1.0 - (rest_GR * (1.0 - share_R)).sum(1) / power_G, 0.0, 1.0)
    fit_GR = 1.0 - (1.0 - floor_G)[:, None] * rest_GR
    ssr_G = np.maximum(((share_R - fit_GR) ** 2).sum(1), 1e-12)
    n = len(u_R)
    log_weight_G = -0.5 * (n - 1) * np.log(ssr_G) - 0.5 * np.log(power_G)
    weight_G = np.exp(log_weight_G - log_weight_G.max())
    random = np.random.default_rng(seed)
    place_D = random.choice(len(weight_G), DRAWS, p=weight_G / weight_G.sum())
    noise_D = np.sqrt(ssr_G[place_D] / random.chisquare(n - 1, DRAWS))
    floor_D = np.clip(floor_G[place_D] + noise_D / np.sqrt(power_G[place_D]) * random.normal(size=DRAWS), 0.0, 1.0)
    logistic_DP = _logistic(u_P[None], middle_G[place_D][:, None], width_G[place_D][:, None])
    curve_DP = 1.0 - (1.0 - floor_D)[:, None] * (1.0 - logistic_DP)
    single_DP = np.clip(curve_DP + noise_D[:, None] * random.normal(size=curve_DP.shape), 0.0, 1.0)
    low_P, high_P = np.quantile(single_DP, [0.025, 0.975], axis=0)
    return np.median(curve_DP, axis=0), low_P, high_P


def _logistic(u: Floats, middle: Floats, width: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.clip((u - middle) * (2 * math.log(9.0)) / width, -60.0, 60.0)))
