"""What repeating text is worth: arXiv:2305.16264. L = E + A/N'^α + B/D'^β, where a token read again counts for ever less.

D' = U_D + U_D R_D* (1 - exp(-R_D / R_D*)), with U_D unique tokens and R_D = D/U_D - 1 repeats; N' likewise from U_N, the size that is
best for U_D tokens (or N where that is less), and R_N = N/U_N - 1. Here the seven parameters are fitted together, by Huber losses of log
residuals from several starts, on all runs; the paper fits the law first, to runs without repeats, and R_D*, R_N* after it. Where no run
is larger than what its unique text asks for, nothing tells R_N*, and N' = N.

Shapes: `R` runs; a fit is `[7]`: log A, log B, log E, α, β, log R_D*, log R_N*.
"""

# ruff: noqa: N815 (shape suffixes of fields are upper case)

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dunwu.core.errors import DataError
from dunwu.core.progress import Progress
from dunwu.lab.scaling.parametric import Law, fit_law
from dunwu.lab.scaling.points import Floats, Points
from dunwu.lab.scaling.solving import Found, solve
from dunwu.lab.statistics import MOST_LOST

DELTA = 1e-3
STARS = (1.0, 5.0, 15.0, 50.0)
LARGEST_STAR = 1e4
REPEATED = 1.01  # epochs above which text counts as read again
BEYOND = 0.1  # repeats of parameters that tell R_N*


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """The law of unique text, and the repeats after which what they give has fallen to 1/e. `parameters`: infinite where not told."""

    law: Law
    data: float
    parameters: float

    def effective_tokens(self, tokens: Floats | float, unique: Floats | float) -> Floats:
        """D': the number of fresh tokens that would give the same."""
        return effective(np.asarray(tokens, np.float64), np.asarray(unique, np.float64), self.data)

    def effective_size(self, size: Floats | float, unique: Floats | float) -> Floats:
        """N'."""
        size = np.asarray(size, np.float64)
        if not np.isfinite(self.parameters):
            return size
        return effective(size, np.minimum(size, size_for(self.law, np.asarray(unique, np.float64))), self.parameters)

    def loss(self, size: Floats | float, tokens: Floats | float, unique: Floats | float) -> Floats:
        """Of models of `size` after `tokens`, of which `unique` differ."""
        return self.law.loss(self.effective_size(size, unique), self.effective_tokens(tokens, unique))

    def worth(self, epochs: float) -> float:
        """What the next token gives after so many passes, beside a fresh one."""
        return float(np.exp(-max(epochs - 1.0, 0.0) / self.data))

    def epochs_until(self, worth: float) -> float:
        """Passes after which the next token is worth so much of a fresh one."""
        return 1.0 - self.data * float(np.log(worth))


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedFit:
    """`residual_R`: log of measured over fitted loss. `plain`: root mean square of the residuals where repeats count as fresh text."""

    found: Repeated
    points: Points
    draws: tuple[Repeated, ...]
    residual_R: Floats
    plain: float
    solved: Found


def effective(count: Floats, unique: Floats, star: float) -> Floats:
    """Fresh ones that are worth `count`, of which `unique` differ: unique + unique · star · (1 - exp(-repeats / star))."""
    repeats = np.maximum(count / unique - 1.0, 0.0)
    return np.minimum(count, unique) - unique * star * np.expm1(-repeats / star)


def size_for(law: Law, tokens: Floats) -> Floats:
    """Parameters for which so many tokens are the best number."""
    ratio = (law.alpha * law.A / (law.beta * law.B)) ** (1.0 / (law.alpha + law.beta))
    with np.errstate(over="ignore"):  # far from the optimum; infinite then, which is larger than any size
        return ratio * (tokens * ratio) ** (law.beta / law.alpha)


def fit_repeated(points: Points, *, resamples: int = 200, seed: int = 0, progress: Progress) -> RepeatedFit:
    """Raises DataError where the table does not tell unique tokens, nothing is repeated, or the runs are too few."""
    unique = points.unique_R
    if unique is None:
        raise DataError(
            "no column tells the unique tokens or the epochs of a run; name it with unique=COLUMN or epochs=COLUMN"
        )
    if not np.isfinite(unique).all() or unique.min() <= 0:
        raise DataError("unique tokens must be above 0 in every row; mend those rows or leave them out")
    again = points.tokens_R > REPEATED * unique
    if again.sum() < 2:
        raise DataError(
            f"{again.sum()} runs read their text more than once; with fewer than 2 nothing tells what repeats are worth"
        )
    once = np.flatnonzero(~again)
    if len(points) <= 7:
        raise DataError(f"{len(points)} runs cannot tell 7 parameters; give more than 7")
    base = points.only(once, "") if len(once) > 7 else points
    start = fit_law(base, resamples=0, progress=progress).law
    problem = _Problem(points, unique)
    told = bool((points.size_R / np.minimum(points.size_R, size_for(start, unique)) - 1 > BEYOND).sum() >= 2)
    near = np.array([*np.log([start.A, start.B, max(start.E, 1e-6)]), start.alpha, start.beta])
    stars = itertools.product(np.log(STARS), np.log(STARS) if told else (np.log(LARGEST_STAR),))
    solved = problem.solve([np.array([*near, *star]) for star in stars], np.arange(len(points)), told)
    random, draws = np.random.default_rng(seed), []
    for number in range(resamples):
        chosen = random.integers(0, len(points), len(points))
        if len(np.unique(chosen)) > 7 and again[chosen].sum() >= 2:
            drawn = _at(problem.solve([solved.x], chosen, told).x, told)
            if drawn.law.sound:
                draws.append(drawn)
        progress.update(number + 1, resamples)
    if len(draws) < (1 - MOST_LOST) * resamples:
        raise DataError(f"{resamples - len(draws)} of {resamples} draws from the runs give no law; give more runs")
    found = _at(solved.x, told)
    return RepeatedFit(
        found=found,
        points=points,
        draws=tuple(draws),
        residual_R=np.log(points.loss_R) - np.log(found.loss(points.size_R, points.tokens_R, unique)),
        plain=float(np.sqrt(np.mean(np.log(points.loss_R / start.loss(points.size_R, points.tokens_R)) ** 2))),
        solved=solved,
    )


@dataclass(frozen=True, slots=True)
class _Problem:
    points: Points
    unique_R: Floats

    def solve(self, starts: list[Floats], chosen: npt.NDArray[np.int64], told: bool) -> Found:
        size, tokens = self.points.size_R[chosen], self.points.tokens_R[chosen]
        unique, log_loss = self.unique_R[chosen], np.log(self.points.loss_R[chosen])
        free = 7 if told else 6

        def residual(x: Floats) -> Floats:
            one = _at(x, told)
            return np.log(one.loss(size, tokens, unique)) - log_loss

        low = [-20.0, -20.0, -20.0, 0.01, 0.01, np.log(1e-2), np.log(1e-2)][:free]
        high = [60.0, 60.0, float(log_loss.min()), 3.0, 3.0, np.log(LARGEST_STAR), np.log(LARGEST_STAR)][:free]
        return solve(residual, [start[:free] for start in starts], bounds=(low, high), delta=DELTA)


def _at(x: Floats, told: bool) -> Repeated:
    A, B, E = np.exp(x[:3]).tolist()
    law = Law(A=A, B=B, E=E, alpha=float(x[3]), beta=float(x[4]), objective=0.0)
    return Repeated(law=law, data=float(np.exp(x[5])), parameters=float(np.exp(x[6])) if told else float("inf"))
