"""The envelope of training curves: at each compute the run whose loss is least, and how its size grows with compute.

arXiv:2203.15556, section 3.1: curves between their rows by straight lines in log compute and loss, the least at each of many computes
evenly apart in log, then best size ∝ compute^a by least squares in logs. Where the smallest or the largest size is the best, a better
one may lie outside of those that were trained, so such computes are left out of the fit. Intervals: a bootstrap over whole runs.

Shapes: `C` computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dunwu.core.errors import DataError
from dunwu.lab.scaling.points import Floats, Points
from dunwu.lab.statistics import MOST_LOST

COMPUTES = 400
LEAST_ROWS = 3  # a curve


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One training. `log_flops`, `loss`: of its rows, in the order of compute."""

    run: str
    size: float
    log_flops: Floats
    loss: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """At each compute: size, tokens and loss of the best run. `inside`: neither the smallest nor the largest size is the best."""

    flops: Floats
    size: Floats
    loss: Floats
    inside: npt.NDArray[np.bool_]

    @property
    def exponent(self) -> tuple[float, float]:
        """a and log k of best size = k · compute^a; NaN where two sizes never lead inside."""
        if len(np.unique(self.size[self.inside])) < 2:
            return float("nan"), float("nan")
        a, log_k = np.polyfit(np.log(self.flops[self.inside]), np.log(self.size[self.inside]), 1).tolist()
        return a, log_k


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The frontier of all curves; `draws`: a and log k of the bootstrap; `moves`: how far a moves without each run."""

    curves: tuple[Curve, ...]
    frontier: Frontier
    a: float
    log_k: float
    draws: Floats
    moves: tuple[float, ...]

    def best_size(self, flops: float) -> tuple[float, Floats]:
        """Parameters for a compute: the estimate and its draws."""
        x = np.log(flops)
        return float(np.exp(self.log_k + self.a * x)), np.exp(self.draws[:, 1] + self.draws[:, 0] * x)


def curves_of(points: Points) -> tuple[Curve, ...]:
    """The trainings of a table with several rows a run; without a column `run`, a run is a size. Raises DataError."""
    names = points.runs or tuple(f"{size:.4g}" for size in points.size_R)
    found = []
    for run in dict.fromkeys(names):
        at = np.array([number for number, name in enumerate(names) if name == run])
        sizes = np.unique(points.size_R[at])
        if len(sizes) > 1:
            raise DataError(
                f"run {run!r} has sizes {sizes[0]:g} and {sizes[1]:g}; a run is one model: name each in column run"
            )
        at = at[np.argsort(points.tokens_R[at], kind="stable")]
        at = at[np.diff(points.tokens_R[at], append=np.inf) > 0]  # of rows at one step the last
        if len(at) >= LEAST_ROWS:
            found.append(
                Curve(run=run, size=float(sizes[0]), log_flops=np.log(points.flops_R[at]), loss=points.loss_R[at])
            )
    if len({curve.size for curve in found}) < 3:
        raise DataError(
            f"{len(found)} curves of {len({curve.size for curve in found})} sizes with {LEAST_ROWS} rows or more; the envelope "
            "needs three sizes: give several rows a run (tokens and loss on the way) of more models"
        )
    return tuple(found)


def frontier_of(curves: Sequence[Curve], computes: int = COMPUTES) -> Frontier:
    """The best run at each compute that a curve reaches."""
    low, high = min(c.log_flops[0] for c in curves), max(c.log_flops[-1] for c in curves)
    log_flops = np.linspace(low, high, computes)
    losses = np.stack([np.interp(log_flops, c.log_flops, c.loss, left=np.inf, right=np.inf) for c in curves])
    best = losses.argmin(0)
    sizes = np.array([c.size for c in curves])
    reached = np.isfinite(losses.min(0))
    size, ends = sizes[best], (sizes.min(), sizes.max())
    return Frontier(
        flops=np.exp(log_flops[reached]),
        size=size[reached],
        loss=losses.min(0)[reached],
        inside=((size > ends[0]) & (size < ends[1]))[reached],
    )


def fit_envelope(points: Points, *, resamples: int = 500, seed: int = 0) -> Envelope:
    """The frontier and its exponent. Raises DataError where the runs cannot tell it."""
    curves = curves_of(points)
    frontier = frontier_of(curves)
    a, log_k = frontier.exponent
    if not np.isfinite(a):
        raise DataError(
            "between the smallest and the largest size no two sizes are ever the best; "
            "train sizes nearer to each other, or until their curves cross"
        )
    random, draws = np.random.default_rng(seed), []
    for _ in range(resamples):
        chosen = random.integers(0, len(curves), len(curves))
        drawn = frontier_of([curves[at] for at in np.unique(chosen).tolist()]).exponent
        if np.isfinite(drawn[0]):
            draws.append(drawn)
    if len(draws) < (1 - MOST_LOST) * resamples:
        raise DataError(
            f"{resamples - len(draws)} of {resamples} draws of the {len(curves)} runs have no exponent; train more sizes"
        )
    found = np.array(draws)
    rest = [[c for c in curves if c is not left] for left in curves]
    return Envelope(
        curves=curves,
        frontier=frontier,
        a=a,
        log_k=log_k,
        draws=found,
        moves=tuple(abs(frontier_of(one).exponent[0] - a) / max(float(found[:, 0].std()), 1e-12) for one in rest),
    )
