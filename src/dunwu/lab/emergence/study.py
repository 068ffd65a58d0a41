"""Everything that is to be known of a table of scores: measures with intervals, breaks, and which jumps survive partial credit."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dunwu.core.errors import DataError
from dunwu.core.progress import Progress
from dunwu.lab.emergence.breaks import Break, find_breaks
from dunwu.lab.emergence.curves import Curve, Scores
from dunwu.lab.emergence.measures import (
    FEWEST,
    MOST,
    Floats,
    bounded,
    breakthroughness,
    breakthroughnesses,
    linearities,
    linearity_share,
)
from dunwu.lab.emergence.mirage import Survival, survives

DRAWS = 400  # for the intervals of measures


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A value; its 95% interval, from the sampling errors of the scores (NaN where they are not known); and the value that 95% of
    level curves with the same noise stay below."""

    value: float
    low: float = math.nan
    high: float = math.nan
    by_chance: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Studied:
    """A curve and what was found. `by_middle`: breakthroughness by the median of absolute differences (see `measures.py`)."""

    curve: Curve
    linearity: Measure
    linearity_share: float
    breakthroughness: Measure
    breakthroughness_bounded: float
    by_middle: float
    found: Break


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One ability under an all-or-nothing metric and a graded one."""

    whole: Studied
    graded: Studied
    survival: Survival


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """All curves, all pairs, and what has no graded metric beside it (task, series)."""

    scores: Scores
    curves: tuple[Studied, ...]
    pairs: tuple[Pair, ...]
    alone: tuple[Studied, ...]
    draws: int
    seed: int


def study(
    scores: Scores, *, width: float | None = None, draws: int = 1999, seed: int = 0, progress: Progress | None = None
) -> Study:
    """Measure and search all curves with `FEWEST` points or more. Raises DataError where none has, or all are of one size."""
    sound = [curve for curve in scores.curves if len(np.unique(curve.x_R)) >= FEWEST]
    if not sound:
        most = max(scores.curves, key=lambda curve: len(np.unique(curve.x_R)))
        count = len(np.unique(most.x_R))
        told = f"all scores are of one {scores.axis}" if count == 1 else f"no curve has more than {count}"
        raise DataError(
            f"{told} ({most.task}: {_shown(most.x_R)}); give scores at {FEWEST} different values of {scores.axis} or more"
        )
    searched = [curve for curve in sound if curve.metric.kind != "no ability"]
    breaks = iter(find_breaks(searched, width=width, draws=draws, seed=seed, progress=progress))
    curves = tuple(
        _studied(curve, Break(verdict="few") if curve.metric.kind == "no ability" else next(breaks), seed)
        for curve in sound
    )
    short = len(scores.curves) - len(sound)
    if short:
        told = f"left out {short} curves with fewer than {FEWEST} different values of {scores.axis}"
        scores = Scores(curves=scores.curves, axis=scores.axis, said=(*scores.said, told))
    pairs = _pairs(curves)
    paired = {id(pair.whole) for pair in pairs}
    alone = tuple(one for one in curves if one.curve.metric.kind == "all-or-nothing" and id(one) not in paired)
    return Study(scores=scores, curves=curves, pairs=pairs, alone=alone, draws=draws, seed=seed)


def _shown(x_R: Floats) -> str:
    return ", ".join(f"{x:.3g}" for x in np.unique(x_R)[:5].tolist())


def _studied(curve: Curve, found: Break, seed: int) -> Studied:
    y = curve.ladder_R
    return Studied(
        curve=curve,
        linearity=_measure(curve, linearities, seed),
        linearity_share=linearity_share(y),
        breakthroughness=_measure(curve, breakthroughnesses, seed),
        breakthroughness_bounded=bounded(breakthroughness(y)),
        by_middle=breakthroughness(y, middle="size"),
        found=found,
    )


def _measure(curve: Curve, of: Callable[[Floats], Floats], seed: int) -> Measure:
    places, counts = np.unique(curve.x_R, return_inverse=True, return_counts=True)[1:]
    y = curve.ladder_R
    random = np.random.default_rng(seed)
    error = np.sqrt(np.bincount(places, weights=curve.error_R**2)) / counts
    noise = error if error.any() else np.ones(len(y))
    level_D = np.nan_to_num(of(noise * random.normal(size=(DRAWS, len(y)))), nan=0.0)
    chance = float(np.quantile(np.clip(level_D, 0.0, MOST), 0.95))
    value = float(of(y[None])[0])
    if not error.any() or curve.metric.as_log:
        return Measure(value=value, by_chance=chance)
    low, high = np.quantile(of(y + error * random.normal(size=(DRAWS, len(y)))), [0.025, 0.975]).tolist()
    return Measure(value=value, low=low, high=high, by_chance=chance)


def _pairs(curves: Sequence[Studied]) -> tuple[Pair, ...]:
    graded: dict[tuple[str, str], list[Studied]] = {}
    for one in curves:
        if one.curve.metric.kind == "graded":
            graded.setdefault((one.curve.task, one.curve.series), []).append(one)
    return tuple(
        Pair(whole=one, graded=other, survival=survives(one.found, other.found, one.curve.x_R))
        for one in curves
        if one.curve.metric.kind == "all-or-nothing"
        for other in graded.get((one.curve.task, one.curve.series), [])
    )
