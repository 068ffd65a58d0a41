"""Does a 95% interval cover the truth 95 times in a hundred? Simulated models of known accuracy, beside other intervals.

    python benchmarks/intervals.py [--repetitions 2000]

A model "of about .1" is one whose true accuracy is drawn from .08 to .12 (and none beyond .02 and .98), as the coverage at any single accuracy jumps with it: right
answers are whole numbers (Brown, Cai and DasGupta 2001, Statistical Science 16:101). With clusters, answers to one text are
correlated by a beta law. One JSON line a cell: the share of repetitions whose interval holds the true accuracy.
"""

import argparse
import json
from collections.abc import Iterator

import numpy as np

from dunwu.evaluate.clustered import share_interval
from dunwu.evaluate.stats import ratio_interval, wilson

QUESTIONS = (20, 50, 100, 500, 2000)
ACCURACIES = (0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98)
WIDTH = 0.02
CORRELATIONS = (0.0, 0.1, 0.3, 0.6)
CLUSTERS = {
    "5 of 5": np.full(5, 5),
    "10 of 1 to 9": 1 + np.arange(10) * 7 % 9,
    "20 of 5": np.full(20, 5),
    "60 of 4": np.full(60, 4),
    "200 of 5": np.full(200, 5),
    "10 of 20": np.full(10, 20),
}
LOW, HIGH = 0.93, 0.97
ROBUST = 300  # repetitions of the slower one


def true_accuracies(about: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Of `count` models of about an accuracy."""
    return rng.uniform(max(0.02, about - WIDTH), min(0.98, about + WIDTH), count)


def single(repetitions: int) -> Iterator[dict[str, object]]:
    """Independent questions."""
    for n in QUESTIONS:
        for about in ACCURACIES:
            rng = np.random.default_rng([n, round(100 * about)])
            true = true_accuracies(about, repetitions, rng)
            bounds = [wilson(int(k), n) for k in rng.binomial(n, true)]
            yield cell("independent", n, about, 0.0, {"ours": covered(bounds, true)})


def grouped(repetitions: int) -> Iterator[dict[str, object]]:
    """Questions in clusters; beside ours the usual robust interval."""
    for name, sizes in CLUSTERS.items():
        for correlation in CORRELATIONS:
            for about in ACCURACIES[:5:2]:  # the others mirror these
                rng = np.random.default_rng([len(sizes), round(100 * about), round(10 * correlation)])
                true = true_accuracies(about, repetitions, rng)
                ours, robust = [], []
                for p in true:
                    right = rng.binomial(sizes, shares(p, correlation, len(sizes), rng))
                    ours.append(share_interval(right, sizes)[1:3])
                    if len(robust) < ROBUST:
                        robust.append(ratio_interval(right, sizes)[1:3])
                found = {"ours": covered(ours, true), "robust t": covered(robust, true[: len(robust)])}
                yield cell(name, int(sizes.sum()), about, correlation, found)


def shares(p: float, correlation: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """The accuracy within each cluster."""
    if correlation == 0:
        return np.full(count, p)
    spread = (1 - correlation) / correlation
    return rng.beta(p * spread, (1 - p) * spread, count)


def covered(bounds: list[tuple[float, float]], true: np.ndarray) -> float:
    """The share of intervals that hold the truth."""
    low, high = np.array(bounds).T
    return round(float(((low <= true) & (true <= high)).mean()), 4)


def cell(kind: str, n: int, about: float, correlation: float, found: dict[str, float]) -> dict[str, object]:
    """A line of output."""
    return {"clusters": kind, "questions": n, "accuracy": about, "correlation": correlation, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000)
    given = parser.parse_args()
    for name, rows in (("independent", single(given.repetitions)), ("clusters", grouped(given.repetitions))):
        cells = []
        for row in rows:
            cells.append(row)
            print(json.dumps(row), flush=True)
        values = np.array([float(str(row["ours"])) for row in cells])
        inside = float(((values >= LOW) & (values <= HIGH)).mean())
        print(
            json.dumps(
                {
                    "figure": f"interval_coverage_{name}",
                    "value": round(float(values.mean()), 4),
                    "unit": "share of intervals that hold the truth",
                    "target": f"{LOW} to {HIGH}",
                    "n": given.repetitions,
                    "min": float(values.min()),
                    "max": float(values.max()),
                    "cells": len(values),
                    "cells_within": round(inside, 3),
                    "cells_below": round(float((values < LOW).mean()), 3),
                }
            )
        )


if __name__ == "__main__":
    main()
