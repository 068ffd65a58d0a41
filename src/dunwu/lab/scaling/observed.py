"""Observational scaling (arXiv:2405.10938): from the public scores of many models to a task that none of them was trained for.

Principal components of the scores stand for capability; gaps in the scores are filled by the components themselves, again and again until
nothing moves. Within a family capability is a straight line of log FLOPs. The target is a sigmoid of the components, floor + (1 - floor) ·
logistic(w·S + b), by Huber losses from several starts, with a slight pull of w to nothing (the paper has none): without it models that
all score nothing leave w free to grow without end. Beside it, as the paper has it, the same sigmoid of log FLOPs alone.
Intervals: a bootstrap over families, since models of one family err alike.

Shapes: `M` models, `K` scores, `S` components.
"""

# ruff: noqa: N802, N815 (shape suffixes of fields are upper case)

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dunwu.core.errors import DataError
from dunwu.lab.scaling.points import Floats
from dunwu.lab.scaling.solving import Found, solve
from dunwu.lab.statistics import MOST_LOST

COMPONENTS = 3
DELTA = 0.05
ROUNDS = 500
STILL = 1e-6
LEAST_OF_FAMILY = 3
STEEP = 50.0
RIDGE = 0.01  # accuracy that a weight of one standard deviation of its component must earn


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """`scores_MK`, NaN where not measured; `flops_M`, NaN where not known; `target_M`."""

    names: tuple[str, ...]
    families: tuple[str, ...]
    flops_M: Floats
    scores_MK: Floats
    score_names: tuple[str, ...]
    target_M: Floats
    said: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """`weights_SK` of the scores less `mean_K`; `share_S` of the variance that each explains."""

    mean_K: Floats
    weights_SK: Floats
    share_S: Floats
    filled_MK: Floats

    @property
    def capability_MS(self) -> Floats:
        """Of the models that gave the components."""
        return (self.filled_MK - self.mean_K) @ self.weights_SK.T

    def of(self, scores_MK: Floats) -> Floats:
        """Of other models; their gaps are filled by least squares on what they have, `[M, S]`."""
        out = np.zeros((len(scores_MK), len(self.weights_SK)))
        for at, row in enumerate(scores_MK):
            has = np.isfinite(row)
            out[at] = np.linalg.lstsq(self.weights_SK[:, has].T, row[has] - self.mean_K[has], rcond=None)[0]
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """First component = slope · log10 FLOPs + level, within a family."""

    family: str
    models: int
    slope: float
    level: float
    r_squared: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What was fitted to the models in `fitted_M` says of all: `forecast_M`, `low_M`, `high_M`; `by_flops_M` from FLOPs alone."""

    models: Models
    fitted_M: npt.NDArray[np.bool_]
    components: Components
    capability_MS: Floats
    lines: tuple[Line, ...]
    solved: Found
    forecast_M: Floats
    low_M: Floats
    high_M: Floats
    by_flops_M: Floats
    draws: int

    def error(self, forecast_M: Floats, *, fitted: bool) -> float:
        """Mean absolute error on the models that were fitted, or on the others."""
        chosen = (self.fitted_M if fitted else ~self.fitted_M) & np.isfinite(forecast_M)
        return float(np.mean(np.abs(forecast_M - self.models.target_M)[chosen])) if chosen.any() else float("nan")

    @property
    def covered(self) -> tuple[int, int]:
        """Of the models that were not fitted, how many lie in their interval, and how many there are."""
        out = ~self.fitted_M
        inside = (self.low_M <= self.models.target_M) & (self.models.target_M <= self.high_M)
        return int(inside[out].sum()), int(out.sum())

    @property
    def width(self) -> float:
        """The mean width of their intervals; NaN for none."""
        out = ~self.fitted_M
        return float(np.mean((self.high_M - self.low_M)[out])) if out.any() else float("nan")


def components_of(scores_MK: Floats, count: int = COMPONENTS) -> Components:
    """Principal components of what is there; gaps are filled by `count` components until they no longer move."""
    gaps = ~np.isfinite(scores_MK)
    if gaps.all(0).any() or gaps.all(1).any():
        raise DataError("a model or a score is empty throughout; leave it out")
    filled = np.where(gaps, np.nanmean(scores_MK, 0), scores_MK)
    for _ in range(ROUNDS):
        mean = filled.mean(0)
        u, s, v = np.linalg.svd(filled - mean, full_matrices=False)
        again = np.where(gaps, mean + (u[:, :count] * s[:count]) @ v[:count], scores_MK)
        moved, filled = np.abs(again - filled).max(), again
        if moved < STILL:
            break
    mean = filled.mean(0)
    _, s, v = np.linalg.svd(filled - mean, full_matrices=False)
    if s[0] ** 2 < 1e-12:
        raise DataError("all models have the same scores; nothing tells them apart")
    signs = np.where(v[:count].sum(1) < 0, -1.0, 1.0)  # more is better
    return Components(
        mean_K=mean, weights_SK=v[:count] * signs[:, None], share_S=s[:count] ** 2 / np.sum(s**2), filled_MK=filled
    )


def fit_observed(
    models: Models,
    *,
    below: float | None = None,
    components: int = COMPONENTS,
    ridge: float = RIDGE,
    resamples: int = 200,
    seed: int = 0,
) -> Observed:
    """Fit to models with fewer than `below` FLOPs (None: to all) and forecast every one. Raises DataError."""
    fitted = np.ones(len(models), bool) if below is None else models.flops_M < below
    _check(models, fitted, components, below)
    found = components_of(models.scores_MK[fitted], components)
    capability = found.of(models.scores_MK)
    capability[fitted] = found.capability_MS
    target = models.target_M
    solved = _sigmoid_through(capability[fitted], target[fitted], ridge=ridge)
    random = np.random.default_rng(seed)
    names = np.array(models.families)
    distinct = np.unique(names[fitted])
    drawn = []
    residual = target[fitted] - _at(solved.x, capability[fitted])
    for _ in range(resamples):
        chosen = np.concatenate(
            [np.flatnonzero(fitted & (names == one)) for one in random.choice(distinct, len(distinct))]
        )
        if len(np.unique(chosen)) > components + 2:
            again = _sigmoid_through(capability[chosen], target[chosen], near=solved.x, ridge=ridge)
            drawn.append(_at(again.x, capability) + random.choice(residual, len(models)))
    if len(drawn) < (1 - MOST_LOST) * resamples:
        raise DataError(
            f"{resamples - len(drawn)} of {resamples} draws of families have too few models; give more families"
        )
    low, high = np.clip(np.quantile(drawn, [0.025, 0.975], axis=0), 0, 1)
    return Observed(
        models=models,
        fitted_M=fitted,
        components=found,
        capability_MS=capability,
        lines=_lines(models, capability[:, 0]),
        solved=solved,
        forecast_M=_at(solved.x, capability),
        low_M=low,
        high_M=high,
        by_flops_M=_by_flops(models, fitted, ridge),
        draws=len(drawn),
    )


def _check(models: Models, fitted: npt.NDArray[np.bool_], components: int, below: float | None) -> None:
    where = "" if below is None else f" below {below:g} FLOPs"
    if fitted.sum() <= components + 2:
        raise DataError(
            f"{fitted.sum()} models{where} cannot tell {components + 2} parameters; give more than {components + 2}"
        )
    if models.scores_MK.shape[1] < components:
        raise DataError(
            f"{models.scores_MK.shape[1]} scores have no {components} components; give more scores, or ask for fewer components"
        )
    if len(set(np.array(models.families)[fitted])) < 3:
        raise DataError(f"models of fewer than 3 families{where}; intervals are drawn over families: give more of them")
    target = models.target_M
    if not (np.isfinite(target).all() and target.min() >= 0 and target.max() <= 1):
        raise DataError(
            f"the target reaches from {np.min(target):g} to {np.max(target):g}; it must be a share from 0 to 1: divide per cent by 100"
        )


def _sigmoid_through(
    capability_MS: Floats, target_M: Floats, near: Floats | None = None, *, ridge: float = RIDGE
) -> Found:
    count, spread_S = capability_MS.shape[1], capability_MS.std(0)

    def residual(x: Floats) -> Floats:
        return np.concatenate([_at(x, capability_MS) - target_M, ridge * x[2:] * spread_S])

    level = float(np.clip(target_M.mean(), 0.02, 0.98))
    spread = max(float(capability_MS[:, 0].std()), 1e-9)
    floors = (0.0, 0.9 * float(np.quantile(target_M, 0.1)))
    starts = [near] if near is not None else [
        (floor, np.log(level / (1 - level)), slope / spread, *[0.0] * (count - 1)) for floor in floors for slope in (0.3, 1.0, 3.0)
    ]  # fmt: skip
    least = max(float(target_M.min()), 1e-3)
    return solve(
        residual, starts, bounds=([0.0, *[-STEEP] * (count + 1)], [least, *[STEEP] * (count + 1)]), delta=DELTA
    )


def _at(x: Floats, capability_MS: Floats) -> Floats:
    """floor + (1 - floor) · logistic(b + w·S); `x`: floor, b, w."""
    return x[0] + (1 - x[0]) / (1 + np.exp(-np.clip(x[1] + capability_MS @ x[2:], -500, 500)))


def _by_flops(models: Models, fitted: npt.NDArray[np.bool_], ridge: float) -> Floats:
    known = np.isfinite(models.flops_M)
    out = np.full(len(models), np.nan)
    if (known & fitted).sum() > 3:
        log_flops = np.log10(models.flops_M[known]) - np.log10(models.flops_M[known & fitted]).mean()
        found = _sigmoid_through(log_flops[fitted[known], None], models.target_M[known & fitted], ridge=ridge)
        out[known] = _at(found.x, log_flops[:, None])
    return out


def _lines(models: Models, first_M: Floats) -> tuple[Line, ...]:
    found = []
    for family in dict.fromkeys(models.families):
        chosen = np.array([one == family for one in models.families]) & np.isfinite(models.flops_M)
        x, y = np.log10(models.flops_M[chosen]), first_M[chosen]
        if chosen.sum() >= LEAST_OF_FAMILY and np.ptp(x) > 0:
            slope, level = np.polyfit(x, y, 1).tolist()
            left = float(np.sum((y - slope * x - level) ** 2) / max(float(np.sum((y - y.mean()) ** 2)), 1e-30))
            found.append(Line(family=family, models=int(chosen.sum()), slope=slope, level=level, r_squared=1 - left))
    return tuple(found)
