"""IsoFLOP parabolas: runs of one compute and several sizes; the size where loss is least, and how it grows with compute.

arXiv:2203.15556, section 3.2: a parabola of the loss in log size for each compute, its lowest point, then best size ∝ compute^a.
Intervals: each group's residuals are drawn again about its parabola, grown by sqrt(n/(n-3)) for what the parabola took; percentiles.

Shapes: `R` runs, `G` groups.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dunwu.core.errors import DataError
from dunwu.lab.scaling.points import FLOPS_PER_PARAMETER_AND_TOKEN, Floats, Points
from dunwu.lab.statistics import MOST_LOST

APART = 0.05  # of log10 compute: a new group where neighbours are further apart
WIDEST = 0.25  # of log10 compute within a group: wider than that it is no group
LEAST_SIZES = 4  # a parabola through three tells nothing of its error


@dataclass(frozen=True, slots=True, kw_only=True)
class Parabola:
    """One compute. `curve`: of the loss in log size less its mean, highest power first. `inside`: the lowest point lies among the
    sizes that were run. `usable`: it bends upwards, and does."""

    flops: float
    runs: tuple[int, ...]
    curve: tuple[float, float, float]
    middle: float
    least: tuple[float, float]  # log of the sizes: smallest, largest

    @property
    def log_best(self) -> float:
        """Log of the size with the least loss."""
        return self.middle - self.curve[1] / (2 * self.curve[0])

    @property
    def best_loss(self) -> float:
        """The loss there."""
        return float(np.polyval(self.curve, self.log_best - self.middle))

    @property
    def usable(self) -> bool:
        """Whether it has a lowest point among the sizes that were run."""
        return self.curve[0] > 0 and self.least[0] <= self.log_best <= self.least[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoFlop:
    """Best size = k · compute^a. `draws_a`, `draws_log_best` `[draws, G]`: of the bootstrap. `skipped`: groups without a lowest point."""

    groups: tuple[Parabola, ...]
    skipped: tuple[Parabola, ...]
    a: float
    log_k: float
    draws_a: Floats
    draws_log_k: Floats
    draws_log_best: Floats
    residuals: tuple[Floats, ...]
    moves: tuple[float, ...]

    def best_size(self, flops: float) -> tuple[float, Floats]:
        """Parameters for a compute: the estimate and its draws."""
        return (
            float(np.exp(self.log_k + self.a * np.log(flops))),
            np.exp(self.draws_log_k + self.draws_a * np.log(flops)),
        )


def groups_of(points: Points, *, apart: float = APART) -> list[npt.NDArray[np.int64]]:
    """Runs of one compute, as the table says, or found: chains of neighbours less than `apart` in log10, none wider than `WIDEST`."""
    if points.groups:
        names = np.array(points.groups)
        return [np.flatnonzero(names == name) for name in dict.fromkeys(points.groups) if name]
    log_flops = np.log10(points.flops_R)
    order = np.argsort(log_flops, kind="stable")
    cuts = np.flatnonzero(np.diff(log_flops[order]) > apart) + 1
    groups = np.split(order, cuts)
    return [group for group in groups if len(group) >= LEAST_SIZES and np.ptp(log_flops[group]) <= WIDEST]


def fit_isoflop(
    points: Points,
    groups: Sequence[npt.NDArray[np.int64]] | None = None,
    *,
    resamples: int = 500,
    seed: int = 0,
) -> IsoFlop:
    """Parabolas and the exponent. Raises DataError where there are not two groups with a lowest point each."""
    groups = groups_of(points) if groups is None else groups
    found = [_parabola(points, group) for group in groups if _sizes(points, group) >= LEAST_SIZES]
    usable = tuple(one for one in found if one.usable)
    if len(usable) < 2:
        raise DataError(
            f"{len(found)} groups of equal compute with {LEAST_SIZES} sizes or more, of which {len(usable)} have a lowest point "
            "inside; two are needed: train several sizes, smaller and larger than the best, at each of two or more budgets"
        )
    a, log_k = _line(usable)
    residuals = tuple(_residual(points, one) for one in usable)
    random, drawn = np.random.default_rng(seed), []
    for _ in range(resamples):
        again = [_again(points, one, residual, random) for one, residual in zip(usable, residuals, strict=True)]
        if all(one.curve[0] > 0 for one in again):
            drawn.append((*_line(again), [one.log_best for one in again]))
    if len(drawn) < (1 - MOST_LOST) * resamples:
        raise DataError(
            f"{resamples - len(drawn)} of {resamples} draws have a parabola without a lowest point; give more sizes a budget"
        )
    return IsoFlop(
        groups=usable,
        skipped=tuple(one for one in found if not one.usable),
        a=a,
        log_k=log_k,
        draws_a=np.array([draw[0] for draw in drawn]),
        draws_log_k=np.array([draw[1] for draw in drawn]),
        draws_log_best=np.array([draw[2] for draw in drawn]),
        residuals=residuals,
        moves=_moves(usable, a, float(np.std([draw[0] for draw in drawn]))),
    )


def _sizes(points: Points, group: npt.NDArray[np.int64]) -> int:
    return len(np.unique(np.round(np.log(points.size_R[group]), 3)))


def _parabola(points: Points, group: npt.NDArray[np.int64]) -> Parabola:
    log_size = np.log(points.size_R[group])
    middle = float(log_size.mean())
    a, b, c = np.polyfit(log_size - middle, points.loss_R[group], 2).tolist()
    return Parabola(
        flops=float(np.exp(np.log(points.flops_R[group]).mean())),
        runs=tuple(group.tolist()),
        curve=(a, b, c),
        middle=middle,
        least=(float(log_size.min()), float(log_size.max())),
    )


def _residual(points: Points, one: Parabola) -> Floats:
    runs = np.array(one.runs)
    return points.loss_R[runs] - np.polyval(one.curve, np.log(points.size_R[runs]) - one.middle)


def _again(points: Points, one: Parabola, residual: Floats, random: np.random.Generator) -> Parabola:
    """The parabola with residuals drawn anew."""
    runs = np.array(one.runs)
    x = np.log(points.size_R[runs]) - one.middle
    grown = residual * np.sqrt(len(runs) / (len(runs) - 3))
    a, b, c = np.polyfit(x, np.polyval(one.curve, x) + random.choice(grown, len(runs)), 2).tolist()
    return Parabola(flops=one.flops, runs=one.runs, curve=(a, b, c), middle=one.middle, least=one.least)


def _line(groups: Sequence[Parabola]) -> tuple[float, float]:
    a, log_k = np.polyfit(np.log([one.flops for one in groups]), [one.log_best for one in groups], 1).tolist()
    return a, log_k


def _moves(groups: Sequence[Parabola], a: float, spread: float) -> tuple[float, ...]:
    """How far a moves without a group, in standard errors."""
    if len(groups) < 3:
        return tuple(float("nan") for _ in groups)
    rest = [list(itertools.chain(groups[:at], groups[at + 1 :])) for at in range(len(groups))]
    return tuple(abs(_line(one)[0] - a) / max(spread, 1e-12) for one in rest)


def tokens_for(flops: float, size: float | Floats) -> Floats:
    """Tokens that so much compute pays for."""
    return np.asarray(flops / FLOPS_PER_PARAMETER_AND_TOKEN / size)
