"""How often a jump is found: in curves that are smooth (it should not be), at the very limit (5%), and in jumps.

    python benchmarks/emergence.py > results.jsonl

Scores of 12 models from 10^7 to 10^11 parameters, of 500 questions each, and of 8 models over 2.2 decades. The shares are of single
searches, without adjustment for their number, at p < .05. Nobody else's program is beside it. One JSON line a figure.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dunwu.core.devices import prepare_cpu
from dunwu.evaluate.stats import wilson
from dunwu.lab.emergence.breaks import find_break
from dunwu.lab.emergence.curves import curve_of
from dunwu.lab.emergence.measures import Floats
from dunwu.lab.emergence.metrics import metric_of

QUESTIONS = 500
LADDERS = {"12_models": np.geomspace(1e7, 1e11, 12), "8_models": np.geomspace(7e7, 1.2e10, 8)}
Shape = Callable[[Floats], Floats]


def logistic(middle: float, width: float) -> Shape:
    return lambda u: 0.1 + 0.7 / (1 + np.exp(-(u - middle) * 2 * math.log(9) / width))


SHAPES: dict[str, tuple[str, Shape]] = {
    "line": ("<= 0.05", lambda u: 0.2 + 0.15 * (u - 7)),
    "power_law": ("<= 0.05", lambda u: 1 - 0.8 * 10 ** (-0.3 * (u - 7))),
    "accelerating": ("<= 0.05", lambda u: 0.1 + 0.8 * 10 ** (0.5 * (u - 11))),
    "wide_2_decades": ("<= 0.05", logistic(9, 2.0)),
    "level": ("<= 0.05", lambda u: 0.25 + 0 * u),
    "at_the_limit": ("about 0.05", logistic(9, 1.0)),
    "jump_half_a_decade": ("higher is better", logistic(9, 0.5)),
    "jump_a_third_of_a_decade": ("higher is better", logistic(9, 0.33)),
}


def searched(ladder: str, name: str, repetitions: int) -> dict[str, Any]:
    target, shape = SHAPES[name]
    sizes = LADDERS[ladder]
    share = np.clip(shape(np.log10(sizes)), 0, 1)
    jumps = 0
    for seed in range(repetitions):
        scores = np.random.default_rng(seed).binomial(QUESTIONS, share) / QUESTIONS
        smooth = (scores * QUESTIONS + 0.5) / (QUESTIONS + 1)
        errors = np.sqrt(smooth * (1 - smooth) / QUESTIONS).tolist()
        points = [(x, y, "") for x, y in zip(sizes.tolist(), scores.tolist(), strict=True)]
        found = find_break(curve_of(name, metric_of("acc"), "", "size", points, errors=errors), draws=199, seed=seed)
        jumps += found.verdict == "jump"
    low, high = wilson(jumps, repetitions)
    return {
        "figure": f"emergence_jumps_found_{name}_{ladder}",
        "value": round(jumps / repetitions, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "n": repetitions,
        "unit": "share of searches",
        "target": target,
        "device": "cpu",
    }


def figures(repetitions: int) -> Iterator[dict[str, Any]]:
    for ladder in LADDERS:
        for name in SHAPES:
            yield searched(ladder, name, repetitions)


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=300)
    arguments = parser.parse_args()
    prepare_cpu()
    for figure in figures(arguments.repetitions):
        print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()
