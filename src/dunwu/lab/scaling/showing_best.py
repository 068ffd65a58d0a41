"""IsoFLOP parabolas and envelopes as experiments: the best size, and how it grows with compute."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dunwu.lab.record import Experiment, Figure, Line, Table, Words
from dunwu.lab.scaling.envelope import Envelope
from dunwu.lab.scaling.isoflop import IsoFlop, tokens_for
from dunwu.lab.scaling.points import Points
from dunwu.lab.scaling.showing import FLOPS, loss_label, shown
from dunwu.lab.scaling.solving import estimate

SIZE: Words = ("parameters", "参数量")
CURVE = 60


def isoflop(fit: IsoFlop, points: Points, budgets: Sequence[float], seed: int) -> Experiment:
    """Parabolas, their lowest points, and the line through these."""
    a = estimate(fit.a, fit.draws_a)
    groups = [
        {
            "flops": one.flops,
            "runs": len(one.runs),
            "best_size": estimate(float(np.exp(one.log_best)), np.exp(fit.draws_log_best[:, at])),
            "best_loss": one.best_loss,
            "moves": moves,
            "residual_rms": float(np.sqrt(np.mean(residual**2))),
        }
        for at, (one, residual, moves) in enumerate(zip(fit.groups, fit.residuals, fit.moves, strict=True))
    ]
    forecasts = _forecasts(fit, budgets)
    facts: dict[str, Any] = {
        "form": "loss = a parabola in log size, for each compute; best size = k compute^a",
        "runs": len(points),
        "notes": list(points.said),
        "a": a,
        "groups": groups,
        "skipped": [{"flops": one.flops, "runs": len(one.runs)} for one in fit.skipped],
        "forecasts": forecasts,
    }
    lines = []
    for one in fit.groups:
        runs, x = np.array(one.runs), np.linspace(*one.least, CURVE)
        lines += [
            Line(
                label=f"{one.flops:.2g}", x=points.size_R[runs].tolist(), y=points.loss_R[runs].tolist(), mark="points"
            ),
            Line(label=f"{one.flops:.2g} fit", x=np.exp(x).tolist(), y=np.polyval(one.curve, x - one.middle).tolist()),
        ]
    skipped = (
        ""
        if not fit.skipped
        else f" {len(fit.skipped)} groups have no lowest point among their sizes and are not used."
    )
    return Experiment(
        name="isoflop",
        title=("IsoFLOP parabolas: the best size for a compute", "等算力抛物线：每一算力的最优规模"),
        method=(
            "For each compute a parabola of loss in log size (arXiv:2203.15556, section 3.2), then a line of log best size in log compute. Intervals: "
            f"95% percentiles of {len(fit.draws_a)} draws of each group's residuals, grown by sqrt(n/(n-3)). "
            + " ".join(f"{note}." for note in points.said),
            f"对每一算力拟合损失对规模对数的抛物线，再拟合最优规模对算力的直线。区间：对各组残差重抽 {len(fit.draws_a)} 次的 95% 分位数。",
        ),
        n=f"{sum(len(one.runs) for one in fit.groups)} runs in {len(fit.groups)} groups",
        seeds=[seed],
        failure=(
            "Groups without a lowest point inside, or an exponent that one group alone decides, would have counted as failure.",
            "若多数组内没有最低点，或指数由单独一组决定，即为失败。",
        ),
        findings=[
            (f"best size ∝ compute^a, a = {shown(a)}.{skipped}", f"最优规模正比于算力的 a 次方，a = {shown(a)}。"),
            *_said(forecasts),
        ],
        figures=[
            Figure(
                name="parabolas",
                title=("Loss by size, for each compute", "各算力下损失随规模的变化"),
                x_label=SIZE,
                y_label=loss_label(points),
                x_log=True,
                lines=lines,
            ),
            _best_figure(
                [one.flops for one in fit.groups], [g["best_size"] for g in groups], fit, float(points.flops_R.max())
            ),
            Figure(
                name="residuals",
                title=("Residuals of the parabolas", "抛物线的残差"),
                x_label=SIZE,
                y_label=loss_label(points),
                x_log=True,
                lines=[
                    Line(
                        label=f"{one.flops:.2g}",
                        x=points.size_R[np.array(one.runs)].tolist(),
                        y=residual.tolist(),
                        mark="points",
                    )
                    for one, residual in zip(fit.groups, fit.residuals, strict=True)
                ],
                rules=[("y", 0.0, "fit")],
            ),
        ],
        tables=[
            Table(
                name="groups",
                title=("Groups of one compute; moves: of a without it, in standard errors", "各等算力组；moves：去掉该组后 a 的移动（标准误）"),
                columns=("FLOPs", "runs", "best size", "low", "high", "loss there", "moves"),
                rows=[
                    (g["flops"], g["runs"], *(g["best_size"][k] for k in ("value", "low", "high")), g["best_loss"], g["moves"])
                    for g in groups
                ],
            )
        ],
        facts=facts,
    )  # fmt: skip


def envelope(fit: Envelope, points: Points, budgets: Sequence[float], seed: int) -> Experiment:
    """Curves, the least loss at each compute, and whose it is."""
    a = estimate(fit.a, fit.draws[:, 0])
    frontier, forecasts = fit.frontier, _forecasts(fit, budgets)
    facts: dict[str, Any] = {
        "form": "best size = k compute^a along the envelope of training curves",
        "runs": len(fit.curves),
        "notes": list(points.said),
        "a": a,
        "frontier": {"flops": frontier.flops, "size": frontier.size, "loss": frontier.loss, "inside": frontier.inside},
        "forecasts": forecasts,
    }
    return Experiment(
        name="envelope",
        title=("The envelope of training curves", "训练曲线的包络"),
        method=(
            f"At each of {len(frontier.flops)} computes the run with the least loss, curves read by straight lines in log compute "
            "(arXiv:2203.15556, section 3.1); computes led by the smallest or the largest size are left out of the exponent. "
            f"Intervals: 95% percentiles of {len(fit.draws)} bootstrap draws over runs. "
            + " ".join(f"{note}." for note in points.said),
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
                f"best size ∝ compute^a, a = {shown(a)}; {np.mean(frontier.inside):.0%} of the computes are led by a size between the ends.",
                f"最优规模正比于算力的 a 次方，a = {shown(a)}；{np.mean(frontier.inside):.0%} 的算力由中间规模领先。",
            ),
            *_said(forecasts),
        ],
        figures=[
            Figure(
                name="curves",
                title=("Training curves and their envelope", "训练曲线及其包络"),
                x_label=FLOPS,
                y_label=loss_label(points),
                x_log=True,
                lines=[
                    *(Line(label=c.run, x=np.exp(c.log_flops).tolist(), y=c.loss.tolist()) for c in fit.curves),
                    Line(label="envelope", x=frontier.flops.tolist(), y=frontier.loss.tolist(), mark="dashed"),
                ],
            ),
            _best_figure(
                frontier.flops.tolist(),
                [{"value": float(size), "low": float("nan"), "high": float("nan")} for size in frontier.size],
                fit,
                float(points.flops_R.max()),
            ),
        ],
        tables=[
            Table(
                name="runs",
                title=(
                    "Runs; moves: of a without it, in standard errors",
                    "各次训练；moves：去掉后 a 的移动（标准误）",
                ),
                columns=("run", "size", "rows", "moves"),
                rows=[(c.run, c.size, len(c.loss), m) for c, m in zip(fit.curves, fit.moves, strict=True)],
            )
        ],
        facts=facts,
    )


def _forecasts(fit: IsoFlop | Envelope, budgets: Sequence[float]) -> list[dict[str, Any]]:
    found = []
    for flops in budgets:
        size, draws = fit.best_size(flops)
        tokens = estimate(float(tokens_for(flops, size)), tokens_for(flops, draws))
        found.append({"flops": flops, "size": estimate(size, draws), "tokens": tokens})
    return found


def _said(forecasts: Sequence[dict[str, Any]]) -> list[Words]:
    return [
        (
            f"{one['flops']:.3g} FLOPs: {shown(one['size'])} parameters, {shown(one['tokens'])} tokens.",
            f"{one['flops']:.3g} FLOPs：{shown(one['size'])} 参数，{shown(one['tokens'])} 词元。",
        )
        for one in forecasts
    ]


def _best_figure(
    flops: Sequence[float], sizes: Sequence[dict[str, float]], fit: IsoFlop | Envelope, most: float
) -> Figure:
    x = np.geomspace(min(flops), 10 * most, CURVE)
    line = [estimate(*fit.best_size(one)) for one in x]
    has_bars = np.isfinite([one["low"] for one in sizes]).all()
    return Figure(
        name="best_size",
        title=("The best size by compute", "最优规模随算力的变化"),
        x_label=FLOPS,
        y_label=SIZE,
        x_log=True,
        y_log=True,
        lines=[
            Line(
                label="best size",
                x=list(flops),
                y=[one["value"] for one in sizes],
                low=[one["low"] for one in sizes] if has_bars else None,
                high=[one["high"] for one in sizes] if has_bars else None,
                mark="points",
            ),
            Line(
                label=f"compute^{fit.a:.3g}",
                x=x.tolist(),
                y=[one["value"] for one in line],
                low=[one["low"] for one in line],
                high=[one["high"] for one in line],
            ),
        ],
    )
