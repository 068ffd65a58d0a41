"""IsoFLOP parabolas and envelopes as experiments: the best size, and how it grows with compute."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dunwu.lab.estimates import estimates_line, points, shown
from dunwu.lab.record import Experiment, Figure, Line, Table, Words
from dunwu.lab.scaling.envelope import Envelope
from dunwu.lab.scaling.isoflop import IsoFlop, tokens_for
from dunwu.lab.scaling.points import Points
from dunwu.lab.scaling.showing_parts import FLOPS, SIZE, best_words, loss_label, residual_figure, sentences
from dunwu.lab.statistics import estimate, root_mean_square

CURVE = 60  # points of a drawn line

# ------------------------------------------------------------------------------------------------------------ parabolas


def isoflop(fit: IsoFlop, known: Points, budgets: Sequence[float], seed: int) -> Experiment:
    """Parabolas, their lowest points, and the line through these."""
    facts = _isoflop_facts(fit, known, budgets)
    return Experiment(
        name="isoflop",
        title=("IsoFLOP parabolas: the best size for a compute", "等算力抛物线：每一算力的最优规模"),
        method=(
            "For each compute a parabola of loss in log size (arXiv:2203.15556, section 3.2), then a line of log best size in log compute. Intervals: "
            f"95% percentiles of {len(fit.draws_a)} draws of each group's residuals, grown by sqrt(n/(n-3)). "
            + sentences(known.said),
            f"对每一算力拟合损失对规模对数的抛物线，再拟合最优规模对算力的直线。区间：对各组残差重抽 {len(fit.draws_a)} 次的 95% 分位数。",
        ),
        n=f"{sum(len(one.runs) for one in fit.groups)} runs in {len(fit.groups)} groups",
        seeds=[seed],
        failure=(
            "Groups without a lowest point inside, or an exponent that one group alone decides, would have counted as failure.",
            "若多数组内没有最低点，或指数由单独一组决定，即为失败。",
        ),
        findings=[_exponent(facts["a"], len(fit.skipped)), *_forecast_words(facts)],
        figures=[
            _parabolas(fit, known),
            _best_figure(
                estimates_line(
                    "best size",
                    [one["flops"] for one in facts["groups"]],
                    [one["best_size"] for one in facts["groups"]],
                    "points",
                ),
                fit,
                float(known.flops_R.max()),
            ),
            _parabola_residuals(fit, known),
        ],
        tables=[_groups_table(facts["groups"])],
        facts=facts,
    )


def _isoflop_facts(fit: IsoFlop, known: Points, budgets: Sequence[float]) -> dict[str, Any]:
    return {
        "form": "loss = a parabola in log size, for each compute; best size = k compute^a",
        "runs": len(known),
        "notes": list(known.said),
        "a": estimate(fit.a, fit.draws_a),
        "groups": [
            {
                "flops": one.flops,
                "runs": len(one.runs),
                "best_size": estimate(float(np.exp(one.log_best)), np.exp(fit.draws_log_best[:, at])),
                "best_loss": one.best_loss,
                "moves": moves,
                "residual_rms": root_mean_square(residual),
            }
            for at, (one, residual, moves) in enumerate(zip(fit.groups, fit.residuals, fit.moves, strict=True))
        ],
        "skipped": [{"flops": one.flops, "runs": len(one.runs)} for one in fit.skipped],
        "forecasts": _forecasts(fit, budgets),
    }


def _exponent(a: Mapping[str, float], skipped: int) -> Words:
    left = f" {skipped} groups have no lowest point among their sizes and are not used." if skipped else ""
    return (f"best size ∝ compute^a, a = {shown(a)}.{left}", f"最优规模正比于算力的 a 次方，a = {shown(a)}。")


def _parabolas(fit: IsoFlop, known: Points) -> Figure:
    lines: list[Line] = []
    for one in fit.groups:
        runs, x = np.array(one.runs), np.linspace(*one.least, CURVE)
        y = np.polyval(one.curve, x - one.middle)
        lines += [
            points(f"{one.flops:.2g}", known.size_R[runs], known.loss_R[runs]),
            Line(label=f"{one.flops:.2g} fit", x=np.exp(x).tolist(), y=y.tolist()),
        ]
    return Figure(
        name="parabolas",
        title=("Loss by size, for each compute", "各算力下损失随规模的变化"),
        x_label=SIZE,
        y_label=loss_label(known),
        x_log=True,
        lines=lines,
    )


def _parabola_residuals(fit: IsoFlop, known: Points) -> Figure:
    lines = [
        points(f"{one.flops:.2g}", known.size_R[np.array(one.runs)], residual)
        for one, residual in zip(fit.groups, fit.residuals, strict=True)
    ]
    title = ("Residuals of the parabolas", "抛物线的残差")
    return residual_figure(lines, SIZE, title=title, y_label=loss_label(known))


def _groups_table(groups: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        name="groups",
        title=(
            "Groups of one compute; moves: of a without it, in standard errors",
            "各等算力组；moves：去掉该组后 a 的移动（标准误）",
        ),
        columns=("FLOPs", "runs", "best size", "low", "high", "loss there", "moves"),
        rows=[
            (
                one["flops"],
                one["runs"],
                *(one["best_size"][part] for part in ("value", "low", "high")),
                one["best_loss"],
                one["moves"],
            )
            for one in groups
        ],
    )


# ------------------------------------------------------------------------------------------------------------- envelope


def envelope(fit: Envelope, known: Points, budgets: Sequence[float], seed: int) -> Experiment:
    """Curves, the least loss at each compute, and whose it is."""
    frontier, facts = fit.frontier, _envelope_facts(fit, known, budgets)
    a, inside = shown(facts["a"]), f"{np.mean(frontier.inside):.0%}"
    return Experiment(
        name="envelope",
        title=("The envelope of training curves", "训练曲线的包络"),
        method=(
            f"At each of {len(frontier.flops)} computes the run with the least loss, curves read by straight lines in log compute "
            "(arXiv:2203.15556, section 3.1); computes led by the smallest or the largest size are left out of the exponent. "
            f"Intervals: 95% percentiles of {len(fit.draws)} bootstrap draws over runs. " + sentences(known.said),
            f"在 {len(frontier.flops)} 个算力上取损失最低的训练；由最小或最大规模领先的算力不参与指数。区间：对训练做 {len(fit.draws)} 次自助抽样的 95% 分位数。",
        ),
        n=f"{len(fit.curves)} runs, {sum(len(curve.loss) for curve in fit.curves)} rows",
        seeds=[seed],
        failure=(
            "Curves on schedules whose learning rate has not fallen stand above what a run of that length would reach: the envelope then "
            "misleads. An exponent that one run decides would have counted as failure.",
            "学习率尚未下降的曲线高于同样长度的完整训练，包络会因此误导；若指数由单独一次训练决定，即为失败。",
        ),
        findings=[
            (
                f"best size ∝ compute^a, a = {a}; {inside} of the computes are led by a size between the ends.",
                f"最优规模正比于算力的 a 次方，a = {a}；{inside} 的算力由中间规模领先。",
            ),
            *_forecast_words(facts),
        ],
        figures=[
            _curves_figure(fit, known),
            _best_figure(points("best size", frontier.flops, frontier.size), fit, float(known.flops_R.max())),
        ],
        tables=[_runs_table(fit)],
        facts=facts,
    )


def _envelope_facts(fit: Envelope, known: Points, budgets: Sequence[float]) -> dict[str, Any]:
    frontier = fit.frontier
    return {
        "form": "best size = k compute^a along the envelope of training curves",
        "runs": len(fit.curves),
        "notes": list(known.said),
        "a": estimate(fit.a, fit.draws[:, 0]),
        "frontier": {"flops": frontier.flops, "size": frontier.size, "loss": frontier.loss, "inside": frontier.inside},
        "forecasts": _forecasts(fit, budgets),
    }


def _curves_figure(fit: Envelope, known: Points) -> Figure:
    frontier = fit.frontier
    return Figure(
        name="curves",
        title=("Training curves and their envelope", "训练曲线及其包络"),
        x_label=FLOPS,
        y_label=loss_label(known),
        x_log=True,
        lines=[
            *(Line(label=one.run, x=np.exp(one.log_flops).tolist(), y=one.loss.tolist()) for one in fit.curves),
            Line(label="envelope", x=frontier.flops.tolist(), y=frontier.loss.tolist(), mark="dashed"),
        ],
    )


def _runs_table(fit: Envelope) -> Table:
    return Table(
        name="runs",
        title=("Runs; moves: of a without it, in standard errors", "各次训练；moves：去掉后 a 的移动（标准误）"),
        columns=("run", "size", "rows", "moves"),
        rows=[(one.run, one.size, len(one.loss), moves) for one, moves in zip(fit.curves, fit.moves, strict=True)],
    )


# ------------------------------------------------------------------------------------------------------------- of both


def _forecasts(fit: IsoFlop | Envelope, budgets: Sequence[float]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for flops in budgets:
        size, draws = fit.best_size(flops)
        tokens = estimate(float(tokens_for(flops, size)), tokens_for(flops, draws))
        found.append({"flops": flops, "size": estimate(size, draws), "tokens": tokens})
    return found


def _forecast_words(facts: Mapping[str, Any]) -> list[Words]:
    return [(f"{english}.", f"{chinese}。") for english, chinese in map(best_words, facts["forecasts"])]


def _best_figure(sizes: Line, fit: IsoFlop | Envelope, most: float) -> Figure:
    """The best size of each compute, and the line through these, ten times beyond the largest run."""
    x = np.geomspace(min(sizes.x), 10 * most, CURVE)
    return Figure(
        name="best_size",
        title=("The best size by compute", "最优规模随算力的变化"),
        x_label=FLOPS,
        y_label=SIZE,
        x_log=True,
        y_log=True,
        lines=[sizes, estimates_line(f"compute^{fit.a:.3g}", x, [estimate(*fit.best_size(one)) for one in x])],
    )
