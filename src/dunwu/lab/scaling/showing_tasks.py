"""Forecasts of tasks as experiments: in two steps from size and tokens, and from the public scores of other models."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dunwu.lab.record import Cell, Experiment, Figure, Line, Table, Words
from dunwu.lab.scaling.downstream import (
    Downstream,
    Forecast,
    Run,
    accuracy_forecast,
    held_out,
    loss_forecast,
    widening,
)
from dunwu.lab.scaling.observed import Observed

CURVE = 60
Target = tuple[str, float, float]  # a label, parameters, tokens
Checked = list[tuple[Run, Forecast, Forecast | None]]


def check_on_largest(runs: Sequence[Run], *, resamples: int, seed: int) -> Checked:
    """Forecasts of the runs of the largest size from all others; none where these are too few."""
    size = np.array([run.size for run in runs])
    left = size == size.max()
    rest = [run for run, out in zip(runs, left, strict=True) if not out]
    if len(rest) <= 5 or len({run.size for run in rest}) < 2:
        return []
    return held_out(runs, left, resamples=resamples, seed=seed)


def downstream(
    tasks: Mapping[str, tuple[Downstream, Checked]], targets: Sequence[Target], notes: Sequence[str], seed: int
) -> Experiment:
    """All tasks of a table."""
    facts: dict[str, Any] = {"notes": list(notes), "tasks": {}}
    findings: list[Words] = []
    figures: list[Figure] = []
    rows: list[Sequence[Cell]] = []
    for number, (task, (fit, checked)) in enumerate(tasks.items()):
        wide_loss = widening([loss.errors_off(run.end[1]) for run, loss, _ in checked])
        wide = widening([one.errors_off(_accuracy(run)) for run, _, one in checked if one is not None])
        told = facts["tasks"][task] = _facts(fit, checked, wide_loss, wide)
        for label, size, tokens in targets:
            loss = loss_forecast(fit, size, tokens)
            row = told["targets"][label] = {"loss": _told(loss, wide_loss)}
            text = f"{task}, {label}: task loss {_shown(row['loss'])}"
            if fit.curve is not None:
                row["accuracy"] = _told(accuracy_forecast(fit, size, tokens), wide, share=True)
                text += f", accuracy {_shown(row['accuracy'])}"
            findings.append((f"{text}.", f"{text.replace('task loss', '任务损失').replace('accuracy', '准确率')}。"))
        for run, loss, accuracy in checked:
            rows.append(
                (task, run.name, loss.value, run.end[1], loss.value / run.end[1] - 1, *_accuracy_cells(run, accuracy))
            )
        figures.append(_task_figure(number, task, fit))
    return Experiment(
        name="downstream",
        title=("Tasks forecast in two steps", "分两步预测任务"),
        method=(
            "Task loss = E + A/size^alpha + B/tokens^beta over finished runs, then accuracy = floor + (1 - floor) / (1 + exp(k (loss - middle))) over all "
            "rows but the first tenth of each run (after arXiv:2412.04403); Huber losses (delta 0.02), many starts. Intervals are for what would be "
            "measured, 95%: residuals drawn again for the first step, whole runs for the second, a residual of each added; stretched by the root mean "
            "square of the errors on the held-out largest size, in standard errors, where that is above 1.",
            "先对完成的训练拟合任务损失 = E + A/规模^alpha + B/词元^beta，再以 S 形曲线由损失得准确率；Huber 损失，多个起点。"
            "区间针对将被测得的值：第一步重抽残差，第二步重抽整次训练，并加上各自的残差；若留出的最大规模误差更大，则按其均方根放宽。",
        ),
        n=f"{len(tasks)} tasks, {len(next(iter(tasks.values()))[0].runs)} runs",
        seeds=[seed],
        failure=(
            "More than one in twenty of the targets outside of their intervals would count as failure.",
            "若超过二十分之一的目标落在区间之外，即为失败。",
        ),
        findings=findings,
        figures=figures,
        tables=[
            Table(
                name="held_out",
                title=("The largest size, forecast from all smaller ones", "由较小规模预测最大规模"),
                columns=("task", "run", "loss forecast", "loss measured", "off", "accuracy forecast", "accuracy measured", "off by"),
                rows=rows,
            )
        ]
        if rows
        else [],
        facts=facts,
    )  # fmt: skip


def _facts(fit: Downstream, checked: Checked, wide_loss: float, wide: float) -> dict[str, Any]:
    law = {name: getattr(fit.law, name) for name in ("E", "A", "B", "alpha", "beta", "objective")}
    curve = None if fit.curve is None else {name: getattr(fit.curve, name) for name in ("floor", "k", "middle")}
    return {
        "law": law,
        "curve": curve,
        "starts": fit.solved.starts,
        "agreed": fit.solved.agreed,
        "residual_rms": float(np.sqrt(np.mean(fit.residual_R**2))),
        "accuracy_rms": float(np.sqrt(np.mean(fit.spread**2))) if len(fit.spread) else None,
        "widened": {"loss": wide_loss, "accuracy": wide},
        "held_out": len(checked),
        "targets": {},
    }


def _told(one: Forecast, wide: float, *, share: bool = False) -> dict[str, float]:
    low, high = one.interval(wide)
    return {"value": one.value, "low": max(low, 0.0), "high": min(high, 1.0) if share else high}


def _shown(one: dict[str, float]) -> str:
    return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


def _accuracy(run: Run) -> float:
    assert run.accuracy is not None
    return float(run.accuracy[-3:].mean())


def _accuracy_cells(run: Run, one: Forecast | None) -> tuple[Cell, Cell, Cell]:
    if one is None:
        return None, None, None
    return one.value, _accuracy(run), one.value - _accuracy(run)


def _task_figure(number: int, task: str, fit: Downstream) -> Figure:
    if fit.curve is None:
        residual = fit.residual_R
        flops = [6 * run.size * run.end[0] for run in fit.runs]
        return Figure(
            name=f"task_{number}",
            title=(f"{task}: residuals of log loss", f"{task}：对数损失的残差"),
            x_label=("FLOPs of training", "训练的 FLOPs"),
            y_label=("measured over fitted, log", "实测与拟合之比的对数"),
            x_log=True,
            lines=[Line(label="runs", x=flops, y=residual.tolist(), mark="points")],
            rules=[("y", 0.0, "fit")],
        )
    told = [run for run in fit.runs if run.accuracy is not None]
    lines = [
        Line(
            label=run.name, x=run.loss.tolist(), y=[] if run.accuracy is None else run.accuracy.tolist(), mark="points"
        )
        for run in told
    ]
    x = np.linspace(0.7 * min(run.loss.min() for run in told), max(run.loss.max() for run in told), CURVE)
    low, high = np.quantile([draw.at(x) for draw in fit.curve_draws], [0.025, 0.975], axis=0)
    curve = Line(label="curve", x=x.tolist(), y=fit.curve.at(x).tolist(), low=low.tolist(), high=high.tolist())
    return Figure(
        name=f"task_{number}",
        title=(f"{task}: accuracy by task loss", f"{task}：准确率随任务损失"),
        x_label=("task loss, bits a byte", "任务损失，比特/字节"),
        y_label=("accuracy", "准确率"),
        lines=[*lines, curve],
    )


def observed(fit: Observed, target: str, below: float | None, seed: int) -> Experiment:
    """The target's score of every model, from its other scores."""
    models, fitted = fit.models, fit.fitted_M
    inside, out = fit.covered
    facts: dict[str, Any] = {
        "target": target,
        "notes": list(models.said),
        "models": len(models),
        "fitted": int(fitted.sum()),
        "below": below,
        "variance": fit.components.share_S,
        "weights": {name: fit.components.weights_SK[:, at] for at, name in enumerate(models.score_names)},
        "sigmoid": {"floor": fit.solved.x[0], "intercept": fit.solved.x[1], "weights": fit.solved.x[2:]},
        "starts": fit.solved.starts,
        "agreed": fit.solved.agreed,
        "families": {line.family: {"models": line.models, "slope": line.slope, "r_squared": line.r_squared} for line in fit.lines},
        "error": {
            "fitted": fit.error(fit.forecast_M, fitted=True),
            "fitted_by_flops": fit.error(fit.by_flops_M, fitted=True),
            "held_out": fit.error(fit.forecast_M, fitted=False),
            "held_out_by_flops": fit.error(fit.by_flops_M, fitted=False),
        },
        "inside": inside,
        "held_out": out,
        "mean_width": fit.width,
    }  # fmt: skip
    error = facts["error"]
    findings: list[Words] = [
        (
            f"{fit.components.share_S[0]:.0%} of the variance of {len(models.score_names)} scores lies on one component.",
            f"{len(models.score_names)} 项分数的方差有 {fit.components.share_S[0]:.0%} 在一个主成分上。",
        ),
        (
            f"Mean error on the {int(fitted.sum())} fitted models: {error['fitted']:.3f} from capability, {error['fitted_by_flops']:.3f} from FLOPs alone.",
            f"对 {int(fitted.sum())} 个拟合模型的平均误差：由能力 {error['fitted']:.3f}，仅由 FLOPs {error['fitted_by_flops']:.3f}。",
        ),
    ]
    if out:
        findings.append(
            (
                f"On the {out} others: {error['held_out']:.3f} from capability, {error['held_out_by_flops']:.3f} from FLOPs alone; {inside} of {out} inside of their 95% intervals, which are {fit.width:.2f} wide on average.",
                f"对其余 {out} 个：由能力 {error['held_out']:.3f}，仅由 FLOPs {error['held_out_by_flops']:.3f}；{out} 个中有 {inside} 个在 95% 区间内，区间平均宽 {fit.width:.2f}。",
            )
        )
    first = fit.capability_MS[:, 0]
    order = np.argsort(first)
    rows: list[Sequence[Cell]] = []
    for at in order.tolist():
        told = (models.flops_M, first, models.target_M, fit.forecast_M, fit.low_M, fit.high_M)
        rows.append(
            (models.names[at], models.families[at], *(float(one[at]) for one in told), "yes" if fitted[at] else "no")
        )
    return Experiment(
        name="observe",
        title=(f"{target} from public scores of many models", f"由许多模型的公开分数预测 {target}"),
        method=(
            f"{len(fit.components.share_S)} principal components of {', '.join(models.score_names)} (arXiv:2405.10938; not scaled, gaps filled by the components), "
            "then a sigmoid of them with a floor, Huber losses (delta 0.05) from several starts. Within a family the first component is a line in log FLOPs. "
            f"Intervals, 95%: {fit.draws} bootstrap draws over families, a residual added. "
            + " ".join(f"{note}." for note in models.said),
            f"取 {', '.join(models.score_names)} 的 {len(fit.components.share_S)} 个主成分，再以带下限的 S 形曲线得目标。区间：对模型家族做 {fit.draws} 次自助抽样并加残差，95%。",
        ),
        n=f"{len(models)} models of {len(set(models.families))} families, {int(fitted.sum())} fitted",
        seeds=[seed],
        failure=(
            "Held-out models outside of their intervals more often than one in twenty, or errors no smaller than from FLOPs alone, count as failure.",
            "若留出模型落在区间外超过二十分之一，或误差不小于仅由 FLOPs 的预测，即为失败。",
        ),
        findings=findings,
        figures=[
            Figure(
                name="target",
                title=("Measured, and forecast with intervals", "实测，以及带区间的预测"),
                x_label=("capability (first component)", "能力（第一主成分）"),
                y_label=(target, target),
                lines=[
                    Line(label="fitted", x=first[fitted].tolist(), y=models.target_M[fitted].tolist(), mark="points"),
                    Line(
                        label="held out", x=first[~fitted].tolist(), y=models.target_M[~fitted].tolist(), mark="points"
                    ),
                    Line(
                        label="forecast",
                        x=first[order].tolist(),
                        y=fit.forecast_M[order].tolist(),
                        low=np.minimum(fit.low_M, fit.forecast_M)[order].tolist(),
                        high=np.maximum(fit.high_M, fit.forecast_M)[order].tolist(),
                        mark="dashed",
                    ),
                ],
            ),
            Figure(
                name="families",
                title=("Capability by FLOPs within families", "各家族内能力随 FLOPs 的变化"),
                x_label=("FLOPs of training", "训练的 FLOPs"),
                y_label=("capability (first component)", "能力（第一主成分）"),
                x_log=True,
                lines=[
                    Line(
                        label=line.family,
                        x=models.flops_M[chosen].tolist(),
                        y=first[chosen].tolist(),
                        mark="both",
                    )
                    for line in fit.lines
                    for chosen in [_in_order(models.families, line.family, models.flops_M)]
                ],
            ),
        ],
        tables=[
            Table(
                name="models",
                title=("Models", "模型"),
                columns=("model", "family", "FLOPs", "capability", "measured", "forecast", "low", "high", "fitted"),
                rows=rows,
            )
        ],
        facts=facts,
    )


def _in_order(families: Sequence[str], family: str, flops: Any) -> Any:
    chosen = np.array([at for at, one in enumerate(families) if one == family and np.isfinite(flops[at])])
    return chosen[np.argsort(flops[chosen], kind="stable")]
