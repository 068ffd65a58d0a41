"""L(N, D) = E + A / N^α + B / D^β, fitted as arXiv:2203.15556 (section D.2) does, with what arXiv:2404.10102 says of its pitfalls.

The sum of Huber losses of the residuals of log L, minimised by BFGS from the best of a grid of starts; the sum and not the mean,
whose small gradients let the optimiser stop too early. Intervals are percentiles of a bootstrap over runs.

Shapes: `R` runs, `S` starts; a fit is `[5]`: log A, log B, log E, α, β.
"""

# ruff: noqa: N815 (shape suffixes of fields are upper case)

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dunwu.core.errors import DataError, MissingExtraError
from dunwu.core.progress import Progress
from dunwu.lab.scaling.points import FLOPS_PER_PARAMETER_AND_TOKEN, Floats, Points
from dunwu.lab.statistics import MOST_LOST, estimate, percentiles

DELTA = 1e-3  # where the Huber loss becomes straight
PARAMETERS = 5
MOST_STEPS = 300  # of a descent, thrice; where runs follow no law it would wander for ever
AGREED = 1e-4  # two descents whose objectives differ by less, relatively, ended at the same place
BITS_APART = -float(np.log(np.log(2.0)))  # of log losses in bits and in nats
TRIED = 40  # the best starts of the grid, each followed to its end
GRID = (
    tuple(range(0, 30, 5)),  # log A
    tuple(range(0, 30, 5)),  # log B
    (-1.0, -0.5, 0.0, 0.5, 1.0),  # log E
    (0.0, 0.5, 1.0, 1.5, 2.0),  # α
    (0.0, 0.5, 1.0, 1.5, 2.0),  # β
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """A fitted law. `objective`: the sum of Huber losses at the optimum."""

    A: float
    B: float
    E: float
    alpha: float
    beta: float
    objective: float

    def loss(self, size: Floats | float, tokens: Floats | float) -> Floats:
        """Nats a token of models of `size` parameters after `tokens`."""
        return self.E + self.A * np.power(size, -self.alpha) + self.B * np.power(tokens, -self.beta)

    @property
    def sound(self) -> bool:
        """Whether loss falls with size and with tokens, as the form supposes."""
        return (
            min(self.alpha, self.beta) > 0
            and min(self.A, self.B) > 0
            and bool(np.isfinite([self.A, self.B, self.E]).all())
        )

    @property
    def a(self) -> float:
        """The best size grows as compute^a."""
        return self.beta / (self.alpha + self.beta)

    def best_size(self, flops: float) -> float:
        """Parameters that give the least loss for so much compute, with 6 FLOPs for each parameter and token."""
        ratio = (self.alpha * self.A / (self.beta * self.B)) ** (1.0 / (self.alpha + self.beta))
        return float(ratio * (flops / FLOPS_PER_PARAMETER_AND_TOKEN) ** self.a)

    def best_loss(self, flops: float) -> float:
        """The least loss for so much compute."""
        size = self.best_size(flops)
        return float(self.loss(size, flops / FLOPS_PER_PARAMETER_AND_TOKEN / size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A law with what is to be known of it. `draws`: laws of the bootstrap; `residual_R`: log of measured over fitted loss;
    `influence_R`: how far α, β and E move, in standard errors of the bootstrap, where a run is left out (the furthest of them).
    `agreed` of `starts` descents ended at the same optimum. `floor`: the E that was stated, where it was not fitted."""

    law: Law
    points: Points
    draws: tuple[Law, ...]
    residual_R: Floats
    influence_R: Floats
    starts: int = 0
    agreed: int = 0
    floor: float | None = None

    def interval(self, of: Callable[[Law], float], confidence: float = 0.95) -> tuple[float, float]:
        """Percentiles of what `of` says of each law of the bootstrap."""
        return percentiles([of(law) for law in self.draws], confidence)

    def estimate(self, of: Callable[[Law], float]) -> dict[str, float]:
        """What `of` says of the law, with its interval."""
        return estimate(of(self.law), [of(law) for law in self.draws])


def fit_law(
    points: Points,
    *,
    resamples: int = 200,
    seed: int = 0,
    delta: float = DELTA,
    floor: float | None = None,
    progress: Progress,
) -> Fit:
    """Fit the law, and again to `resamples` draws from the runs; with E held at `floor` where one is stated.

    Raises DataError where the runs cannot tell its parameters."""
    _check(points)
    check_floor(points, floor)
    log_size, log_tokens, log_loss = (np.log(x) for x in (points.size_R, points.tokens_R, points.loss_R))
    problem = _Problem(log_size, log_tokens, log_loss, delta, None if floor is None else float(np.log(floor)))
    ends = problem.from_grid()
    best = ends[0]
    _check_units(points, log_loss - np.log(law_at(best).loss(points.size_R, points.tokens_R)))
    _require_sound(law_at(best), lost=0, drawn=1)
    random, draws = np.random.default_rng(seed), []
    for number in range(resamples):
        chosen = random.integers(0, len(points), len(points))
        draws.append(problem.of(chosen).onward(best))
        progress.update(number + 1, resamples + len(points))
    spread = np.maximum(np.std([draw.x for draw in draws], axis=0), 1e-12) if draws else np.ones(PARAMETERS)
    influence = np.zeros(len(points))
    for number in range(len(points)):
        rest = np.delete(np.arange(len(points)), number)
        moved = (problem.of(rest).onward(best).x - best.x) / spread
        influence[number] = np.abs(moved[2:]).max()
        progress.update(resamples + number + 1, resamples + len(points))
    law, drawn = law_at(best), [law_at(draw) for draw in draws]
    sound = tuple(one for one in drawn if one.sound)
    _require_sound(law, lost=len(drawn) - len(sound), drawn=len(drawn))
    return Fit(
        law=law,
        points=points,
        draws=sound,
        residual_R=log_loss - np.log(law.loss(points.size_R, points.tokens_R)),
        influence_R=influence,
        starts=len(ends),
        agreed=sum(end.objective <= best.objective * (1 + AGREED) + 1e-15 for end in ends),
        floor=floor,
    )


def _check(points: Points) -> None:
    if len(points) <= PARAMETERS:
        raise DataError(
            f"{len(points)} runs cannot tell the {PARAMETERS} parameters of E + A/N^α + B/D^β; give more than {PARAMETERS}"
        )
    for values, what in ((points.size_R, "size"), (points.tokens_R, "number of tokens")):
        if len(np.unique(np.round(np.log(values), 3))) < 2:
            raise DataError(
                f"all runs have one {what} ({values[0]:.3g}): nothing tells how the loss changes with it; add runs of another"
            )


def check_floor(points: Points, floor: float | None) -> None:
    """Raises DataError where losses lie at or below a stated floor."""
    if floor is None:
        return
    if not 0 < floor < float("inf"):
        raise DataError(f"the floor is {floor:g}; it must be a loss above 0, or leave it to be fitted")
    below = np.flatnonzero(points.loss_R <= floor)
    if len(below):
        at = int(below[0])
        raise DataError(
            f"{points.places[at]}: loss {points.loss_R[at]:g} is not above the floor {floor:g} ({len(below)} such runs); "
            "state a lower floor, or check the unit of the losses"
        )


def _check_units(points: Points, residual_R: Floats) -> None:
    """Runs in bits among runs in nats lie in two heaps, log(1/ln 2) apart. Raises DataError naming those in bits."""
    order = np.argsort(residual_R)
    gaps = np.diff(residual_R[order])
    at = int(np.argmax(gaps))
    low, high = residual_R[order[: at + 1]], residual_R[order[at + 1 :]]
    apart = float(np.median(high) - np.median(low))
    within = max(float(np.ptp(low)), float(np.ptp(high)))
    if abs(apart - BITS_APART) < 0.1 * BITS_APART and within < 0.5 * BITS_APART:
        lines = sorted(order[at + 1 :].tolist())
        shown = ", ".join(points.places[one] for one in lines[:5]) + (" …" if len(lines) > 5 else "")
        raise DataError(
            f"{len(lines)} losses of {len(points)} lie 1.44 times above the law of the others, as bits do above nats ({shown}); "
            "write the unit where it differs (3.1 bits), or leave those runs out"
        )


def _require_sound(law: Law, *, lost: int, drawn: int) -> None:
    told = f"alpha={law.alpha:.3g}, beta={law.beta:.3g}"
    remedy = "give more runs, over a wider range of sizes and tokens"
    if not law.sound:
        raise DataError(f"the runs follow no law of the form E + A/N^α + B/D^β (the best fit has {told}); {remedy}")
    if lost > MOST_LOST * drawn:
        raise DataError(
            f"{lost} of {drawn} draws from the runs give no law, so these few do not tell it ({told}); {remedy}"
        )


@dataclass(frozen=True, slots=True)
class End:
    """Where a descent ended."""

    x: Floats
    objective: float
    bend: Floats | None = (
        None  # the inverse of the objective's second derivative there, as BFGS came to see it, `[5, 5]`
    )


class _Problem:
    """The objective and its gradient, over runs in logarithms."""

    def __init__(
        self, log_size_R: Floats, log_tokens_R: Floats, log_loss_R: Floats, delta: float, log_floor: float | None = None
    ) -> None:
        self.log_size_R, self.log_tokens_R, self.log_loss_R = log_size_R, log_tokens_R, log_loss_R
        self.delta, self.log_floor = delta, log_floor

    def of(self, chosen_R: Any) -> "_Problem":
        """The same over some of the runs."""
        size, tokens, loss = (one[chosen_R] for one in (self.log_size_R, self.log_tokens_R, self.log_loss_R))
        return _Problem(size, tokens, loss, self.delta, self.log_floor)

    def value_and_gradient(self, x: Floats) -> tuple[float, Floats]:
        """Sum of Huber losses at `x` and its slope, `[5]`."""
        log_a, log_b, log_e, alpha, beta = x
        parts_3R = np.stack(
            [log_a - alpha * self.log_size_R, log_b - beta * self.log_tokens_R, np.full_like(self.log_size_R, log_e)]
        )
        most_R = parts_3R.max(0)
        shares_3R = np.exp(parts_3R - most_R)
        total_R = shares_3R.sum(0)
        residual_R = most_R + np.log(total_R) - self.log_loss_R
        shares_3R /= total_R
        inside_R = np.abs(residual_R) <= self.delta
        value_R = np.where(inside_R, 0.5 * residual_R**2, self.delta * (np.abs(residual_R) - 0.5 * self.delta))
        slope_3R = shares_3R * np.clip(residual_R, -self.delta, self.delta)
        gradient = [
            *slope_3R.sum(1),
            -(slope_3R[0] * self.log_size_R).sum(),
            -(slope_3R[1] * self.log_tokens_R).sum(),
        ]
        if self.log_floor is not None:
            gradient[2] = 0.0  # a stated floor stays where it is
        return float(value_R.sum()), np.array(gradient)

    def from_grid(self) -> list[End]:
        """From the best starts of the grid; the best end first."""
        grid = GRID if self.log_floor is None else (*GRID[:2], (self.log_floor,), *GRID[3:])
        starts = np.array(list(itertools.product(*grid)), np.float64)
        values = [self.value_and_gradient(start)[0] for start in starts]
        return self.from_starts(starts[np.argsort(values)[:TRIED]])

    def from_starts(self, starts: Sequence[Floats] | Floats) -> list[End]:
        """From each start; the best end first."""
        return sorted((self._descend(start) for start in starts), key=lambda end: end.objective)

    def onward(self, from_: End) -> End:
        """From the end of a descent over other runs, with what it came to know of the slope."""
        return self._descend(from_.x, from_.bend)

    def _descend(self, start: Floats, bend: Floats | None = None) -> End:
        minimize, x, seen = _optimiser(), start, None
        for _ in range(3):  # BFGS stops where Huber's bends lead its search astray; from there with a fresh memory
            options = {"gtol": 1e-9, "maxiter": MOST_STEPS} | ({} if bend is None else {"hess_inv0": bend})
            found = minimize(self.value_and_gradient, x, jac=True, method="BFGS", options=options)
            moved, x, bend = np.abs(found.x - x).max(), found.x, None
            if found.nit > 0:
                seen = found.hess_inv
            if moved < 1e-6:
                break
        return End(np.asarray(x, np.float64), self.value_and_gradient(x)[0], _definite(seen))


def _definite(bend: Floats | None) -> Floats | None:
    """Symmetric and positive, as the next descent asks, or nothing."""
    if bend is None or not np.isfinite(bend).all():
        return None
    bend = (bend + bend.T) / 2
    return bend if np.linalg.eigvalsh(bend)[0] > 0 else None


def law_at(end: End) -> Law:
    """The law of a fit."""
    with np.errstate(over="ignore"):
        A, B, E = np.exp(end.x[:3]).tolist()
    return Law(A=A, B=B, E=E, alpha=float(end.x[3]), beta=float(end.x[4]), objective=end.objective)


def _optimiser() -> Callable[..., Any]:
    try:
        from scipy.optimize import minimize
    except ImportError as error:
        raise MissingExtraError("scipy", "lab", "fitting a scaling law") from error
    return minimize
