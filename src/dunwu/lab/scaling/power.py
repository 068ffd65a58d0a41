"""y = A / x^α, and y = E + A / x^α: one quantity against another, without and with a floor.

Residuals are of log y, by Huber; intervals are percentiles of a bootstrap over rows. Which of the two forecasts better is measured:
both are fitted again without the quarter of the rows with the largest x, and asked for these.

Shapes: `R` rows; a fit is `[3]`: log A at the middle of the rows, α, log E (minus infinity without a floor).
"""

# ruff: noqa: N802, N815 (shape suffixes of fields are upper case)

import itertools
from dataclasses import dataclass

import numpy as np

from dunwu.core.errors import DataError
from dunwu.lab.scaling.points import Floats
from dunwu.lab.scaling.solving import Found, solve
from dunwu.lab.statistics import MOST_LOST

DELTA = 1e-3
EXPONENTS = (0.03, 0.1, 0.3, 0.8)
SHARES = (1e-3, 0.5, 0.9, 0.99)  # of the least y, as starts for the floor
STEEPEST = 5.0
HELD_OUT = 0.25
LEAST = 3  # rows beyond the number of parameters for the check on held-out rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """y = E + A / x^alpha. `middle`: log of the x where log A is `log_height`."""

    log_height: float
    alpha: float
    E: float
    middle: float

    @property
    def A(self) -> float:
        """y - E at x = 1."""
        return float(np.exp(self.log_height + self.alpha * self.middle))

    def at(self, x: Floats | float) -> Floats:
        """y at `x`."""
        return self.E + np.exp(self.log_height - self.alpha * (np.log(x) - self.middle))


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerFit:
    """`residual_R`: log of measured over fitted y; `moves_R`: how far α (and E) move without a row, in standard errors of the
    bootstrap; `held_out`: mean error, as a share of y, on the rows with the largest x, by a fit without them (None: too few)."""

    law: Power
    found: Found
    draws: tuple[Power, ...]
    residual_R: Floats
    moves_R: Floats
    held_out: float | None
    floor: float | bool


def fit_power(
    x_R: Floats, y_R: Floats, *, floor: float | bool, resamples: int = 200, seed: int = 0, delta: float = DELTA
) -> PowerFit:
    """`floor`: True to fit it, False for none, a number to state it. Raises DataError where the rows cannot tell the law."""
    check(x_R, y_R, 3 if floor is True else 2)
    if not isinstance(floor, bool) and (low := np.flatnonzero(y_R <= floor)).size:
        raise DataError(
            f"y = {y_R[low[0]]:g} is not above the floor {floor:g} ({low.size} such rows); state a lower one"
        )
    found, law = _fit(x_R, y_R, floor, delta)
    random, draws = np.random.default_rng(seed), []
    for _ in range(resamples):
        chosen = random.integers(0, len(x_R), len(x_R))
        if len(np.unique(x_R[chosen])) > (2 if floor is True else 1):
            draws.append(_fit(x_R[chosen], y_R[chosen], floor, delta, near=law)[1])
    if len(draws) < (1 - MOST_LOST) * resamples:
        raise DataError(
            f"{resamples - len(draws)} of {resamples} draws have too few different x to tell a law; give more rows"
        )
    return PowerFit(
        law=law,
        found=found,
        draws=tuple(draws),
        residual_R=np.log(y_R) - np.log(law.at(x_R)),
        moves_R=_moves(x_R, y_R, floor, delta, law, draws),
        held_out=_held_out(x_R, y_R, floor, delta),
        floor=floor,
    )


def check(x_R: Floats, y_R: Floats, parameters: int) -> None:
    """Raises DataError where rows cannot tell so many parameters."""
    if len(x_R) <= parameters:
        raise DataError(f"{len(x_R)} rows cannot tell {parameters} parameters; give more than {parameters}")
    if len(np.unique(np.round(np.log(x_R), 6))) < parameters:
        raise DataError(
            f"only {len(np.unique(x_R))} different x ({x_R[0]:g}); {parameters} are needed to tell the curve: add rows of others"
        )
    if float(np.min(y_R)) <= 0:
        raise DataError(
            f"y = {np.min(y_R):g}: a power law is of values above 0; take those rows out or check the column"
        )


def _fit(x_R: Floats, y_R: Floats, floor: float | bool, delta: float, near: Power | None = None) -> tuple[Found, Power]:
    middle = float(np.mean(np.log(x_R))) if near is None else near.middle
    log_x_R, log_y_R = np.log(x_R) - middle, np.log(y_R)
    fixed = -np.inf if floor is False else float(np.log(floor))

    def law_at(x: Floats) -> Floats:
        return np.logaddexp(x[0] - x[1] * log_x_R, x[2] if floor is True else fixed)

    def residual(x: Floats) -> Floats:
        return law_at(x) - log_y_R

    typical, least = float(np.median(log_y_R)), float(np.min(log_y_R))
    if floor is True:
        starts = (
            [np.array([near.log_height, near.alpha, np.log(max(near.E, 1e-300))])]
            if near is not None
            else [
                (typical + np.log1p(-share * np.exp(least - typical)), alpha, least + np.log(share))
                for alpha, share in itertools.product(EXPONENTS, SHARES)
            ]
        )
        bounds = ([-np.inf, 0.0, least - 20.0], [np.inf, STEEPEST, least])
    else:
        height = float(np.log(np.median(y_R) - (0.0 if floor is False else floor)))
        starts = (
            [(height, sign * alpha) for alpha in EXPONENTS for sign in (1, -1)]
            if near is None
            else [(near.log_height, near.alpha)]
        )
        bounds = ([-np.inf, -STEEPEST], [np.inf, STEEPEST])
    found = solve(residual, starts, bounds=bounds, delta=delta)
    E = float(np.exp(found.x[2])) if floor is True else 0.0 if floor is False else float(floor)
    return found, Power(log_height=float(found.x[0]), alpha=float(found.x[1]), E=E, middle=middle)


def _moves(x_R: Floats, y_R: Floats, floor: float | bool, delta: float, law: Power, draws: list[Power]) -> Floats:
    def told(one: Power) -> Floats:
        return np.array([one.alpha, one.E])

    spread = np.std([told(draw) for draw in draws], axis=0)
    spread = np.where(spread > 1e-12, spread, np.inf)
    moved = np.zeros(len(x_R))
    for at in range(len(x_R)):
        rest = np.delete(np.arange(len(x_R)), at)
        if len(np.unique(x_R[rest])) > 2:
            moved[at] = (np.abs(told(_fit(x_R[rest], y_R[rest], floor, delta, near=law)[1]) - told(law)) / spread).max()
    return moved


def _held_out(x_R: Floats, y_R: Floats, floor: float | bool, delta: float) -> float | None:
    order = np.argsort(x_R, kind="stable")
    kept = order[: len(order) - max(1, round(HELD_OUT * len(order)))]
    kept = kept[x_R[kept] < x_R[order[len(kept)]]]  # equal x stay on one side
    if len(kept) < LEAST + 3 or len(np.unique(x_R[kept])) < 4:
        return None
    rest = order[len(kept) :]
    law = _fit(x_R[kept], y_R[kept], floor, delta)[1]
    return float(np.mean(np.abs(law.at(x_R[rest]) / y_R[rest] - 1)))
