"""A fitted law in words, and as what JSON holds."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from dunwu.lab.estimates import shown
from dunwu.lab.record import Experiment
from dunwu.lab.scaling.parametric import DELTA, Fit, Law
from dunwu.lab.scaling.points import FLOPS_PER_PARAMETER_AND_TOKEN
from dunwu.lab.scaling.showing_parts import best_words
from dunwu.lab.statistics import root_mean_square

DRIVERS = 5  # runs named that move the fit most
FARTHER = 10.0  # times the compute of the largest run: farther than that a law is a guess
COEFFICIENTS = ("E", "A", "B", "alpha", "beta", "a")


def facts_of(fit: Fit, budgets: tuple[float, ...]) -> dict[str, Any]:
    """Everything that was found, with 95% intervals."""
    points = fit.points
    return {
        "form": "loss = E + A / size^alpha + B / tokens^beta, nats a token",
        "runs": len(points),
        "notes": list(points.said),
        "objective": {"name": f"sum of Huber losses (delta {DELTA:g}) of log loss", "value": fit.law.objective},
        "resamples": len(fit.draws),
        "coefficients": {name: fit.estimate(lambda law, name=name: float(getattr(law, name))) for name in COEFFICIENTS},
        "residuals": {
            "root_mean_square": root_mean_square(fit.residual_R),
            "largest": float(np.abs(fit.residual_R).max()),
        },
        "drivers": [
            {
                "place": points.places[at],
                "size": float(points.size_R[at]),
                "tokens": float(points.tokens_R[at]),
                "loss": float(points.loss_R[at]),
                "moves": float(fit.influence_R[at]),
            }
            for at in np.argsort(-fit.influence_R)[:DRIVERS].tolist()
        ],
        "largest_flops": float(points.flops_R.max()),
        "forecasts": [_forecast(fit, flops) for flops in budgets],
        "draws": [asdict(law) for law in fit.draws],
    }


def lines_of(facts: dict[str, Any]) -> Iterator[str]:
    """The same for a person."""
    yield from facts["notes"]
    yield f"{facts['form']}; {facts['objective']['name']} = {facts['objective']['value']:.6g}"
    for name, one in facts["coefficients"].items():
        meaning = "  (the best size grows as compute^a)" if name == "a" else ""
        yield f"  {name:<6} {one['value']:.5g}  [{one['low']:.5g}, {one['high']:.5g}]{meaning}"
    residuals = facts["residuals"]
    yield (
        f"residuals of log loss: {residuals['root_mean_square']:.2%} root mean square, {residuals['largest']:.2%} at most; "
        f"intervals are 95%, from {facts['resamples']} draws of {facts['runs']} runs"
    )
    yield "runs that move it most, in standard errors of E, alpha or beta where they are left out:"
    for one in facts["drivers"]:
        yield f"  {one['place']}  {one['size']:.3g} parameters, {one['tokens']:.3g} tokens, loss {one['loss']:.4g}: {one['moves']:.2f}"
    for one in facts["forecasts"]:
        farther = one["times_largest"]
        warning = f"; {farther:.0f} times the largest run, which is far" if farther > FARTHER else ""
        yield f"{best_words(one)[0]}, loss {shown(one['loss'])} nats{warning}"


def _forecast(fit: Fit, flops: float) -> dict[str, Any]:
    def tokens(law: Law) -> float:
        return flops / FLOPS_PER_PARAMETER_AND_TOKEN / law.best_size(flops)

    return {
        "flops": flops,
        "times_largest": flops / float(fit.points.flops_R.max()),
        "size": fit.estimate(lambda law: law.best_size(flops)),
        "tokens": fit.estimate(tokens),
        "loss": fit.estimate(lambda law: law.best_loss(flops)),
    }


def lines_of_experiment(experiment: Experiment) -> Iterator[str]:
    """What an experiment's page says, for a terminal."""
    yield experiment.title[0]
    yield experiment.method[0]
    yield f"n: {experiment.n}"
    yield from (f"  {english}" for english, _ in experiment.findings)
    for table in experiment.tables:
        yield f"{table.title[0]}:"
        yield "  " + "  ".join(table.columns)
        yield from ("  " + "  ".join(_cell(cell) for cell in row) for row in table.rows)


def _cell(cell: str | float | int | None) -> str:
    return "-" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)
