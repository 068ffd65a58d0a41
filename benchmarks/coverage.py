"""How often do the 95% intervals of a scaling law hold the truth? Simulated runs of a known law, fitted and drawn again.

    python benchmarks/coverage.py [--repetitions 100] [--resamples 100] [--design grid] [--seconds 120]

Designs: `grid`, 5 sizes × 5 numbers of tokens; `small`, 4 × 4; `large`, 8 × 8. Noise: log loss off by a normal of 0.5%. Stops early
after `--seconds`. One JSON line a quantity: the share of repetitions whose percentile interval holds the truth, with Wilson's interval.
"""

import argparse
import json
import time

import numpy as np

from dunwu.evaluate.stats import wilson
from dunwu.lab.scaling.at_once import law_and_draws
from dunwu.lab.scaling.parametric import Law
from dunwu.lab.scaling.points import Points

TRUE = Law(A=480.0, B=2085.0, E=1.82, alpha=0.348, beta=0.366, objective=0.0)
DESIGNS = {"small": 4, "grid": 5, "large": 8}
NOISE = 0.005
FAR = 1e22  # FLOPs of a forecast: 20 times the largest run's
QUANTITIES = {
    "E": lambda law: law.E,
    "alpha": lambda law: law.alpha,
    "beta": lambda law: law.beta,
    "a": lambda law: law.a,
    "best_loss_far": lambda law: law.best_loss(FAR),
    "log_best_size_far": lambda law: np.log(law.best_size(FAR)),
}


def simulated(side: int, random: np.random.Generator) -> Points:
    """Runs on a grid of sizes and tokens, with noise."""
    size, tokens = (one.ravel() for one in np.meshgrid(np.geomspace(5e7, 4e9, side), np.geomspace(1e9, 2e10, side)))
    loss = TRUE.loss(size, tokens) * np.exp(NOISE * random.normal(size=len(size)))
    return Points(size_R=size, tokens_R=tokens, loss_R=loss, places=tuple(map(str, range(len(size)))))


def coverage(design: str, repetitions: int, resamples: int, seconds: float) -> dict[str, tuple[int, int]]:
    """By quantity: intervals that hold the truth, and how many there are."""
    held = dict.fromkeys(QUANTITIES, 0)
    began, done = time.monotonic(), 0
    for seed in range(repetitions):
        points = simulated(DESIGNS[design], np.random.default_rng([DESIGNS[design], seed]))
        _, draws = law_and_draws(points, TRUE, resamples=resamples, seed=seed, steps=80)
        if len(draws) < 0.8 * resamples:  # refused, as the command would
            continue
        done += 1
        for name, of in QUANTITIES.items():
            low, high = np.quantile([of(draw) for draw in draws], [0.025, 0.975])
            held[name] += bool(low <= of(TRUE) <= high)
        if time.monotonic() - began > seconds:
            break
    return {name: (count, done) for name, count in held.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--resamples", type=int, default=100)
    parser.add_argument("--design", choices=sorted(DESIGNS), default="grid")
    parser.add_argument("--seconds", type=float, default=120)
    given = parser.parse_args()
    for name, (held, n) in coverage(given.design, given.repetitions, given.resamples, given.seconds).items():
        low, high = wilson(held, n)
        line = {
            "figure": f"scaling_coverage_{given.design}_{name}",
            "value": round(held / n, 3),
            "unit": "share of intervals that hold the truth",
        }
        print(
            json.dumps(
                line | {"n": n, "low": round(low, 3), "high": round(high, 3), "target": "0.95 inside of low to high"}
            )
        )


if __name__ == "__main__":
    main()
