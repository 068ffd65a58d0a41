"""Accuracy of a task from size and tokens, in two steps as the OLMo ladder takes them (arXiv:2412.04403).

First the task's loss, in bits a byte of the right answer: E + A/N^α + B/D^β over finished runs (each the mean of its last rows). Then
accuracy from that loss, over all rows but the first tenth of each run: floor + (1 - floor) / (1 + exp(k (loss - middle))), so that a loss
of nothing means all right. Both by Huber losses (of log loss, of accuracy) from many starts.

Intervals are for what would be measured: residuals of the first step are drawn again (grown for the parameters that they paid for, the
design stays), whole runs for the second, and a residual of each step is added. `calibrated` holds out the largest runs, forecasts them, and
says how many standard errors off that was.

Shapes: `R` finished runs, `P` rows.
"""

# ruff: noqa: N815 (shape suffixes of fields are upper case)

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dunwu.core.errors import DataError
from dunwu.lab.scaling.parametric import Law
from dunwu.lab.scaling.points import Floats
from dunwu.lab.scaling.solving import Found, solve

LAW_DELTA, ACCURACY_DELTA = 0.02, 0.02
LAST = 3  # rows whose mean is a run's end
SKIPPED = 0.1  # of a run's rows, at its start
EXPONENTS, SHARES = (0.1, 0.3, 0.6), (0.3, 0.7, 0.9)
STEEPNESS = (2.0, 5.0, 12.0)
GOOD = 1.959963984540054  # standard errors of a 95% interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training: parameters, and its rows in order: tokens, the task's loss, accuracy (None: loss alone)."""

    name: str
    size: float
    tokens: Floats
    loss: Floats
    accuracy: Floats | None

    @property
    def end(self) -> tuple[float, float]:
        """Tokens, and the mean loss of the last rows."""
        return float(self.tokens[-1]), float(self.loss[-LAST:].mean())

    @property
    def late(self) -> slice:
        """Rows without the first tenth."""
        return slice(int(SKIPPED * len(self.tokens)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sigmoid:
    """Accuracy from a loss."""

    floor: float
    k: float
    middle: float

    def at(self, loss: Floats | float) -> Floats:
        """Accuracy there."""
        from_middle = np.clip(self.k * (np.asarray(loss) - self.middle), -500, 500)
        return self.floor + (1.0 - self.floor) / (1.0 + np.exp(from_middle))


@dataclass(frozen=True, slots=True, kw_only=True)
class Downstream:
    """Both steps. `residual_R`: of log loss; `spread`: of accuracies at the runs' ends about the curve, `[R]`."""

    runs: tuple[Run, ...]
    law: Law
    solved: Found
    draws: tuple[Law, ...]
    residual_R: Floats
    curve: Sigmoid | None
    curve_solved: Found | None
    curve_draws: tuple[Sigmoid, ...]
    spread: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What would be measured: the estimate, and draws of it."""

    value: float
    draws: Floats

    def interval(self, widen: float = 1.0) -> tuple[float, float]:
        """95%, its halves stretched by `widen`."""
        low, high = np.quantile(self.draws, [0.025, 0.975])
        return self.value - widen * (self.value - float(low)), self.value + widen * (float(high) - self.value)

    def errors_off(self, truth: float) -> float:
        """How many standard errors the truth lies off, on its side: 1.96 is the end of the interval."""
        low, high = self.interval()
        half = (high - self.value) if truth > self.value else (self.value - low)
        return GOOD * abs(truth - self.value) / max(half, 1e-12)


def fit_downstream(runs: Sequence[Run], *, resamples: int = 300, seed: int = 0) -> Downstream:
    """Both steps; the second only where rows have accuracies. Raises DataError where the runs cannot tell them."""
    check(runs)
    size, tokens, loss = _ends(runs)
    solved = _law_through(size, tokens, loss)
    law = _law(solved)
    residual = np.log(loss) - np.log(law.loss(size, tokens))
    random = np.random.default_rng(seed)
    grown = (residual - residual.mean()) * np.sqrt(len(runs) / (len(runs) - 5))
    draws = []
    for _ in range(resamples):
        again = law.loss(size, tokens) * np.exp(random.choice(grown, len(runs)))
        draws.append(_law(_law_through(size, tokens, again, near=solved.x)))
    curve_solved, curve_draws, spread = None, [], np.zeros(0)
    told = [run for run in runs if run.accuracy is not None]
    if told:
        curve_solved = _curve_through(told)
        for _ in range(resamples):
            chosen = [told[at] for at in random.integers(0, len(told), len(told)).tolist()]
            curve_draws.append(_curve(_curve_through(chosen, near=curve_solved.x)))
        spread = _end_accuracy(told) - _curve(curve_solved).at(np.array([run.end[1] for run in told]))
    return Downstream(
        runs=tuple(runs),
        law=law,
        solved=solved,
        draws=tuple(draws),
        residual_R=residual,
        curve=None if curve_solved is None else _curve(curve_solved),
        curve_solved=curve_solved,
        curve_draws=tuple(curve_draws),
        spread=spread,
    )


def check(runs: Sequence[Run]) -> None:
    """Raises DataError where runs cannot tell a law of size and tokens."""
    if len(runs) <= 5:
        raise DataError(
            f"{len(runs)} finished runs cannot tell the 5 parameters of E + A/N^α + B/D^β; give more than 5"
        )
    if len({run.size for run in runs}) < 2:
        raise DataError(f"all runs have one size ({runs[0].size:.3g}); add runs of another")
    if len({round(float(np.log(run.tokens[-1])), 2) for run in runs}) < 2:
        raise DataError(f"all runs have one number of tokens ({runs[0].tokens[-1]:.3g}); add longer or shorter ones")
    for run in runs:
        if not (np.isfinite(run.loss).all() and run.loss.min() > 0):
            raise DataError(f"run {run.name!r} has a task loss of {np.min(run.loss):g}; losses must be above 0")
        if run.accuracy is not None and not (0 <= run.accuracy.min() <= run.accuracy.max() <= 1):
            raise DataError(
                f"run {run.name!r} has an accuracy of {run.accuracy.max():g}; accuracies are shares from 0 to 1: divide per cent by 100"
            )


def loss_forecast(fit: Downstream, size: float, tokens: float, *, seed: int = 1) -> Forecast:
    """The task's loss of a model that is not in the table."""
    random = np.random.default_rng(seed)
    drawn = np.array([float(law.loss(size, tokens)) for law in fit.draws])
    return Forecast(
        value=float(fit.law.loss(size, tokens)), draws=drawn * np.exp(random.choice(fit.residual_R, len(drawn)))
    )


def accuracy_forecast(fit: Downstream, size: float, tokens: float, *, seed: int = 1) -> Forecast:
    """Its accuracy: laws and curves of the bootstrap paired at random, and what single measurements scatter."""
    assert fit.curve is not None
    random = np.random.default_rng(seed)
    drawn = np.array([
        float(curve.at(float(law.loss(size, tokens)) * np.exp(random.choice(fit.residual_R))))
        for law, curve in zip(fit.draws, fit.curve_draws, strict=True)
    ])  # fmt: skip
    value = float(fit.curve.at(float(fit.law.loss(size, tokens))))
    return Forecast(value=value, draws=np.clip(drawn + random.choice(fit.spread, len(drawn)), 0, 1))


def widening(errors_off: Sequence[float] | Floats) -> float:
    """By how much intervals must be stretched for the errors of held-out runs to be those of their size: their root mean square, in
    standard errors, and never less than 1."""
    return max(1.0, float(np.sqrt(np.mean(np.square(errors_off))))) if len(errors_off) else 1.0


def _ends(runs: Sequence[Run]) -> tuple[Floats, Floats, Floats]:
    ends = np.array([(run.size, *run.end) for run in runs], np.float64)
    return ends[:, 0], ends[:, 1], ends[:, 2]


def _end_accuracy(runs: Sequence[Run]) -> Floats:
    return np.array([float(run.accuracy[-LAST:].mean()) for run in runs if run.accuracy is not None])


SIZE_UNIT, TOKENS_UNIT = 1e9, 1e11  # of the exponents' bases: near the data, so that A and B are of its order


def _law_through(size: Floats, tokens: Floats, loss: Floats, near: Floats | None = None) -> Found:
    log_n, log_d, log_loss = np.log(size / SIZE_UNIT), np.log(tokens / TOKENS_UNIT), np.log(loss)

    def residual(x: Floats) -> Floats:
        return np.logaddexp(np.logaddexp(x[0] - x[3] * log_n, x[1] - x[4] * log_d), x[2]) - log_loss

    least = float(loss.min())
    starts = [near] if near is not None else [
        (*np.log([least * (1 - share) / 2] * 2), np.log(least * share), alpha, beta)
        for alpha, beta, share in itertools.product(EXPONENTS, EXPONENTS, SHARES)
    ]  # fmt: skip
    return solve(residual, starts, bounds=([-15] * 3 + [0.01] * 2, [15] * 3 + [2.0] * 2), delta=LAW_DELTA)


def _law(found: Found) -> Law:
    a, b, E, alpha, beta = found.x
    return Law(
        A=float(np.exp(a + alpha * np.log(SIZE_UNIT))),
        B=float(np.exp(b + beta * np.log(TOKENS_UNIT))),
        E=float(np.exp(E)),
        alpha=float(alpha),
        beta=float(beta),
        objective=found.objective,
    )


def _curve_through(runs: Sequence[Run], near: Floats | None = None) -> Found:
    loss = np.concatenate([run.loss[run.late] for run in runs])
    accuracy = np.concatenate([run.accuracy[run.late] for run in runs if run.accuracy is not None])

    def residual(x: Floats) -> Floats:
        return Sigmoid(floor=x[0], k=x[1], middle=x[2]).at(loss) - accuracy

    low, typical = float(np.quantile(accuracy, 0.05)), float(np.median(loss))
    starts = [near] if near is not None else [
        (floor, k, middle)
        for floor, k, middle in itertools.product((0.5 * low, 0.95 * low), STEEPNESS, (0.5 * typical, 0.9 * typical))
    ]  # fmt: skip
    return solve(residual, starts, bounds=([0.0, 0.05, -5.0], [0.99, 100.0, 10.0]), delta=ACCURACY_DELTA)


def _curve(found: Found) -> Sigmoid:
    return Sigmoid(floor=float(found.x[0]), k=float(found.x[1]), middle=float(found.x[2]))


def held_out(
    runs: Sequence[Run], left: npt.NDArray[np.bool_], *, resamples: int = 200, seed: int = 0
) -> list[tuple[Run, Forecast, Forecast | None]]:
    """Forecasts of the runs in `left`, each from a fit to the others."""
    fit = fit_downstream([run for run, out in zip(runs, left, strict=True) if not out], resamples=resamples, seed=seed)
    return [
        (
            run,
            loss_forecast(fit, run.size, run.end[0]),
            None if fit.curve is None else accuracy_forecast(fit, run.size, run.end[0]),
        )
        for run, out in zip(runs, left, strict=True)
        if out
    ]
