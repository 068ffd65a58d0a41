"""Breaks: does an ability appear within a short stretch of sizes, and where?

A score rises from one level to another along a logistic curve in log x. Its *width* is the factor in x between 10% and 90% of the
rise. A **jump** is a rise narrower than a limit (`LIMITS`): a factor of ten in size or steps, and of a hundred in compute, as compute
grows with the square of the size where both size and data grow. The test: the best curve of any width against the best one
that is not narrower, by F = (SSR_smooth - SSR_any) / max(SSR_any / (R - 4), mean of the squared sampling errors); its p-value from data
drawn anew from the smooth curve with the residuals' noise (parametric bootstrap), and adjusted for the number of curves searched
(Holm). Whether there is a rise at all is told in the same way against a level. Intervals are percentiles over curves drawn by how well
they fit, of (1 + (SSR - SSR_any) / ((R - 4) s²))^(-(R - 2) / 2), all middles and logarithms of widths being equally likely before:
where a jump lies between two points, any place between them fits, and the interval says so.

All curves of a grid of middles and widths are compared in closed form: nothing is found by descent, and nothing depends on a start.

Shapes: `R` points, `G` curves of the grid, `D` draws.
"""

# ruff: noqa: N815 (shape suffixes are upper case)

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from dunwu.core.progress import Progress
from dunwu.evaluate.stats import holm
from dunwu.lab.emergence.curves import Curve
from dunwu.lab.emergence.measures import Floats

Verdict = Literal["jump", "smooth", "rise", "level", "few"]
"""jump: narrower than the limit; smooth: a rise, and not narrower (95%); rise: its width is not told; level: no rise, or one of less
than 5% of the metric's range; few: too few points."""

LIMITS: Mapping[str, float] = {"size": 1.0, "flops": 2.0, "step": 1.0}  # decades, by axis
ALPHA = 0.05
PARAMETERS = 4
FEWEST = 6  # points: with fewer nothing is left to judge four parameters by
LEAST_SHARE = 0.05  # of a metric's range: a smaller rise is none to speak of
FIRST_DRAWS, BLOCK = 199, 1000  # draws at a time
RISE_DRAWS = 999
ENOUGH = 20  # draws that show as much: more say no more of a p-value that is not small
BEYOND = 1.5  # decades outside the points where a smooth curve may have its middle
MIDDLES, WIDTHS = 72, 12  # of the grid; widths on each side of the limit
NARROWEST, WIDEST = 0.08, 8.0  # decades


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """What is known of a curve's rise. `middle`, `width`: log10 of x, decades; `rise`: from level to level, of what is judged, and
    `gain`: the part of it between the first point and the last; p-values, adjusted ones too.

    `*_D`: the same of each drawn curve, for intervals.
    """

    verdict: Verdict
    middle: float = math.nan
    width: float = math.nan
    rise: float = math.nan
    gain: float = math.nan
    floor: float = math.nan
    p_rise: float = math.nan
    p_jump: float = math.nan
    p_jump_adjusted: float = math.nan
    limit: float = 1.0
    middle_D: Floats = field(default_factory=lambda: np.zeros(0))
    width_D: Floats = field(default_factory=lambda: np.zeros(0))
    gain_D: Floats = field(default_factory=lambda: np.zeros(0))

    def interval(self, values_D: Floats, confidence: float = 0.95) -> tuple[float, float]:
        """Percentiles of the draws; NaN where there are none."""
        if values_D.size == 0:
            return math.nan, math.nan
        low, high = np.quantile(values_D, [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)

    def fitted(self, x_R: Floats) -> Floats:
        """The best curve, of what is judged."""
        return self.floor + self.rise * _logistic(np.log10(x_R), self.middle, self.width)


def find_breaks(
    curves: Sequence[Curve],
    *,
    width: float | None = None,
    draws: int = 1999,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Break]:
    """What is known of each curve's rise; p-values of jumps are adjusted for the number of curves that have enough points.

    `width`: the limit, decades; None: that of the axis. `draws`: of the bootstrap, at most; as many more as it takes for a p-value
    to stay small once it is adjusted.
    """
    most = max(draws, 40 * len(curves))
    found: list[Break] = []
    for at, curve in enumerate(curves, 1):
        found.append(find_break(curve, width=width, draws=most, seed=seed))
        if progress is not None:
            progress.update(at, len(curves))
    tested = [at for at, one in enumerate(found) if not math.isnan(one.p_jump)]
    adjusted = holm([found[at].p_jump for at in tested])
    for at, p_value in zip(tested, adjusted, strict=True):
        found[at] = _judged(found[at], p_value, curves[at].span)
    return found


def find_break(curve: Curve, *, width: float | None = None, draws: int = 1999, seed: int = 0) -> Break:
    """One curve alone: its p-value is not adjusted, and its verdict is as for a single search."""
    limit = LIMITS[curve.axis] if width is None else width
    y = curve.judged_R
    if len(y) < FEWEST or len(np.unique(curve.x_R)) < PARAMETERS + 1:
        return Break(verdict="few", limit=limit)
    if np.ptp(y) == 0.0:
        level = float(y[0])
        return Break(verdict="level", rise=0.0, gain=0.0, floor=level, p_rise=1.0, p_jump=1.0, p_jump_adjusted=1.0, limit=limit)  # fmt: skip
    data = _Data(curve, limit, seed)
    p_rise = data.p_value(_Best.rises, np.full(len(y), y.mean()), min(draws, RISE_DRAWS))
    p_jump = data.p_value(_Best.narrower, data.grid.smooth_curve(y), draws)
    fit, drawn = data.grid.fit(y, data.best.place_D), data.likely(y)
    one = Break(
        verdict="rise",
        middle=float(fit.middle_D[0]),
        width=float(fit.width_D[0]),
        rise=float(fit.rise_D[0]),
        gain=float(fit.gain_D[0]),
        floor=float(fit.floor_D[0]),
        p_rise=p_rise,
        p_jump=p_jump,
        limit=limit,
        middle_D=drawn.middle_D,
        width_D=drawn.width_D,
        gain_D=drawn.gain_D,
    )
    return _judged(one, p_jump, curve.span)


def _judged(one: Break, p_jump: float, span: float) -> Break:
    least = LEAST_SHARE * span if math.isfinite(span) else 0.0
    verdict: Verdict = "rise"
    if one.p_rise >= ALPHA or one.gain < least or one.gain <= 0:
        verdict = "level"
    elif p_jump < ALPHA:
        verdict = "jump"
    elif one.interval(one.width_D)[0] >= one.limit:
        verdict = "smooth"
    values = {name: getattr(one, name) for name in one.__dataclass_fields__}
    return Break(**{**values, "verdict": verdict, "p_jump_adjusted": p_jump})


# ---------------------------------------------------------------------------------------------------------------- grid


@dataclass(frozen=True, slots=True)
class _Best:
    """Of each draw: its sums of squares about the mean, and about the best curve of any width and of those that are smooth."""

    ssr_level_D: Floats
    ssr_any_D: Floats
    ssr_smooth_D: Floats
    place_D: npt.NDArray[np.int64]

    def narrower(self, points: int, floor: float) -> Floats:
        return (self.ssr_smooth_D - self.ssr_any_D) / np.maximum(self.ssr_any_D / (points - PARAMETERS), floor)

    def rises(self, points: int, floor: float) -> Floats:
        return (self.ssr_level_D - self.ssr_any_D) / np.maximum(self.ssr_any_D / (points - PARAMETERS), floor)


@dataclass(frozen=True, slots=True)
class _Fit:
    middle_D: Floats
    width_D: Floats
    rise_D: Floats
    gain_D: Floats
    floor_D: Floats


class _Grid:
    """All curves that are compared, at the points of one curve."""

    def __init__(self, u_R: Floats, limit: float) -> None:
        inside = np.linspace(u_R.min(), u_R.max(), MIDDLES)
        around = np.linspace(u_R.min() - BEYOND, u_R.max() + BEYOND, MIDDLES)
        narrow = np.geomspace(min(NARROWEST, limit / 4), limit, WIDTHS + 1)[:-1]
        wide = np.geomspace(limit, max(WIDEST, 2 * limit), WIDTHS)
        cells = [(m, w, True) for w in wide for m in around] + [(m, w, False) for w in narrow for m in inside]
        self.middle_G, self.width_G = (np.array([cell[part] for cell in cells], np.float64) for part in (0, 1))
        self.smooth_G = np.array([cell[2] for cell in cells])
        areas = [(middles[1] - middles[0]) * math.log(widths[1] / widths[0]) for middles, widths in ((around, wide), (inside, narrow))]  # fmt: skip
        self.area_G = np.where(self.smooth_G, *areas)
        self.step_G = np.where(self.smooth_G, around[1] - around[0], inside[1] - inside[0])
        self.ratio_G = np.where(self.smooth_G, math.log(wide[1] / wide[0]), math.log(narrow[1] / narrow[0]))
        self.shape_GR = _logistic(u_R[None], self.middle_G[:, None], self.width_G[:, None])
        centred_GR = self.shape_GR - self.shape_GR.mean(1, keepdims=True)
        self.size_G = np.sqrt((centred_GR**2).sum(1))
        flat_G = self.size_G < 1e-6
        self.unit_GR = centred_GR / np.where(flat_G, 1.0, self.size_G)[:, None]
        self.unit_GR[flat_G] = 0.0

    def best(self, y_DR: Floats) -> _Best:
        centred_DR = y_DR - y_DR.mean(1, keepdims=True)
        gain_GD = np.maximum(self.unit_GR @ centred_DR.T, 0.0) ** 2
        level_D = (centred_DR**2).sum(1)
        place_D = gain_GD.argmax(0)
        most_D = gain_GD.max(0)
        smooth_D = gain_GD[self.smooth_G].max(0)
        return _Best(level_D, np.maximum(level_D - most_D, 0.0), np.maximum(level_D - smooth_D, 0.0), place_D)

    def fit(self, y_R: Floats, place_D: npt.NDArray[np.int64]) -> _Fit:
        """The curves at some places of the grid, as they fit one set of points best."""
        along_D = np.maximum(self.unit_GR[place_D] @ (y_R - y_R.mean()), 0.0)
        rise_D = along_D / np.where(self.size_G[place_D] < 1e-6, 1.0, self.size_G[place_D])
        floor_D = y_R.mean() - rise_D * self.shape_GR[place_D].mean(1)
        gain_D = rise_D * np.ptp(self.shape_GR[place_D], axis=1)
        return _Fit(self.middle_G[place_D], self.width_G[place_D], rise_D, gain_D, floor_D)

    def scattered(self, fit: _Fit, place_D: npt.NDArray[np.int64], random: np.random.Generator) -> _Fit:
        """The same anywhere within their cells, so that an interval is never narrower than the grid."""
        middle_D = fit.middle_D + self.step_G[place_D] * random.uniform(-0.5, 0.5, len(place_D))
        width_D = fit.width_D * np.exp(self.ratio_G[place_D] * random.uniform(-0.5, 0.5, len(place_D)))
        return _Fit(middle_D, width_D, fit.rise_D, fit.gain_D, fit.floor_D)

    def smooth_curve(self, y_R: Floats) -> Floats:
        """The best curve that is not narrower than the limit, at the points."""
        centred_R = y_R - y_R.mean()
        along_G = np.where(self.smooth_G, np.maximum(self.unit_GR @ centred_R, 0.0), -1.0)
        place = int(along_G.argmax())
        return y_R.mean() + along_G[place] * self.unit_GR[place]


def _logistic(u: Floats, middle: Floats | float, width: Floats | float) -> Floats:
    """From 0 to 1; 0.1 and 0.9 lie `width` apart."""
    return 1.0 / (1.0 + np.exp(-np.clip((u - middle) * (2 * math.log(9.0)) / width, -60.0, 60.0)))


class _Data:
    """A curve's points, and data drawn anew with their noise: that of sampling, and what the best curve leaves beyond it."""

    def __init__(self, curve: Curve, limit: float, seed: int) -> None:
        y, known = curve.judged_R, float(np.mean(curve.error_R**2))
        self.grid = _Grid(np.log10(curve.x_R), limit)
        self.random = np.random.default_rng(seed)
        self.best = self.grid.best(y[None])
        residual = float(self.best.ssr_any_D[0]) / (len(y) - PARAMETERS)
        least = 1e-18 * float(np.var(y))  # points without any noise are no reason to divide by it
        self.noise_R = np.sqrt(curve.error_R**2 + max(least, residual - known))
        self.floor = max(known, least)

    def drawn(self, mean_R: Floats, count: int) -> Floats:
        return mean_R + self.noise_R * self.random.normal(size=(count, len(mean_R)))

    def likely(self, y_R: Floats) -> _Fit:
        """Curves drawn by how well they fit."""
        ssr_G = ((y_R - y_R.mean()) ** 2).sum() - np.maximum(self.grid.unit_GR @ (y_R - y_R.mean()), 0.0) ** 2
        freedom = len(y_R) - PARAMETERS
        spread = freedom * max(float(self.best.ssr_any_D[0]) / freedom, self.floor)
        log_G = -0.5 * (freedom + 2) * np.log1p(np.maximum(ssr_G - self.best.ssr_any_D[0], 0.0) / spread)
        weight_G = np.exp(log_G) * self.grid.area_G
        place_D = self.random.choice(len(weight_G), RISE_DRAWS, p=weight_G / weight_G.sum())
        return self.grid.scattered(self.grid.fit(y_R, place_D), place_D, self.random)

    def p_value(self, statistic: Callable[[_Best, int, float], Floats], mean_R: Floats, most: int) -> float:
        """How often data drawn about `mean_R` show as much: of so many draws that `ENOUGH` do, or of `most` (Besag and Clifford 1991)."""
        points = len(mean_R)
        own = float(statistic(self.best, points, self.floor)[0])
        if own <= 0:
            return 1.0
        beyond = count = 0
        while count < most and beyond < ENOUGH:
            data_DR = self.drawn(mean_R, min(FIRST_DRAWS if count == 0 else BLOCK, most - count))
            beyond += int((statistic(self.grid.best(data_DR), points, self.floor) >= own).sum())
            count += len(data_DR)
        return (1 + beyond) / (1 + count)
