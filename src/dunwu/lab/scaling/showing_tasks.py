"""Forecasts of tasks as an experiment, in two steps from size and tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dunwu.lab.estimates import draws_line, points, shown
from dunwu.lab.record import Cell, Experiment, Figure, Table, Words
from dunwu.lab.scaling.downstream import (
    Downstream,
    Forecast,
    Run,
    accuracy_forecast,
    held_out,
    loss_forecast,
    widening,
)
from dunwu.lab.scaling.showing_parts import FLOPS, residual_figure
from dunwu.lab.statistics import root_mean_square

CURVE = 60  # points of a drawn line
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
    facts = {task: _facts(fit, checked, targets) for task, (fit, checked) in tasks.items()}
    rows = [row for task, (_, checked) in tasks.items() for row in _checked_rows(task, checked)]
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
        findings=[
            _finding(task, label, facts[task]["targets"][label]) for task in tasks for label, _, _ in targets
        ],
        figures=[_task_figure(number, task, fit) for number, (task, (fit, _)) in enumerate(tasks.items())],
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
        facts={"notes": list(notes), "tasks": facts},
    )  # fmt: skip


def _facts(fit: Downstream, checked: Checked, targets: Sequence[Target]) -> dict[str, Any]:
    wide_loss = widening([loss.errors_off(run.end[1]) for run, loss, _ in checked])
    wide = widening([one.errors_off(_accuracy(run)) for run, _, one in checked if one is not None])
    law = {name: getattr(fit.law, name) for name in ("E", "A", "B", "alpha", "beta", "objective")}
    curve = None if fit.curve is None else {name: getattr(fit.curve, name) for name in ("floor", "k", "middle")}
    return {
        "law": law,
        "curve": curve,
        "starts": fit.solved.starts,
        "agreed": fit.solved.agreed,
        "residual_rms": root_mean_square(fit.residual_R),
        "accuracy_rms": root_mean_square(fit.spread) if len(fit.spread) else None,
        "widened": {"loss": wide_loss, "accuracy": wide},
        "held_out": len(checked),
        "targets": {label: _target_facts(fit, size, tokens, wide_loss, wide) for label, size, tokens in targets},
    }


def _target_facts(fit: Downstream, size: float, tokens: float, wide_loss: float, wide: float) -> dict[str, Any]:
    told = {"loss": _told(loss_forecast(fit, size, tokens), wide_loss)}
    if fit.curve is not None:
        told["accuracy"] = _told(accuracy_forecast(fit, size, tokens), wide, share=True)
    return told


def _told(one: Forecast, wide: float, *, share: bool = False) -> dict[str, float]:
    low, high = one.interval(wide)
    return {"value": one.value, "low": max(low, 0.0), "high": min(high, 1.0) if share else high}


def _finding(task: str, label: str, told: Mapping[str, Any]) -> Words:
    text = f"{task}, {label}: task loss {shown(told['loss'], '.3f')}"
    if "accuracy" in told:
        text += f", accuracy {shown(told['accuracy'], '.3f')}"
    return (f"{text}.", f"{text.replace('task loss', '任务损失').replace('accuracy', '准确率')}。")


def _checked_rows(task: str, checked: Checked) -> list[Sequence[Cell]]:
    rows: list[Sequence[Cell]] = []
    for run, loss, accuracy in checked:
        measured = run.end[1]
        rows.append((task, run.name, loss.value, measured, loss.value / measured - 1, *_accuracy_cells(run, accuracy)))
    return rows


def _accuracy(run: Run) -> float:
    assert run.accuracy is not None
    return float(run.accuracy[-3:].mean())


def _accuracy_cells(run: Run, one: Forecast | None) -> tuple[Cell, Cell, Cell]:
    if one is None:
        return None, None, None
    return one.value, _accuracy(run), one.value - _accuracy(run)


def _task_figure(number: int, task: str, fit: Downstream) -> Figure:
    """Accuracy by task loss; where no accuracy was measured, the residuals of the loss."""
    if fit.curve is None:
        flops = [6 * run.size * run.end[0] for run in fit.runs]
        return residual_figure(
            [points("runs", flops, fit.residual_R)],
            FLOPS,
            name=f"task_{number}",
            title=(f"{task}: residuals of log loss", f"{task}：对数损失的残差"),
            y_label=("measured over fitted, log", "实测与拟合之比的对数"),
        )
    told = [(run, run.accuracy) for run in fit.runs if run.accuracy is not None]
    x = np.linspace(0.7 * min(run.loss.min() for run, _ in told), max(run.loss.max() for run, _ in told), CURVE)
    return Figure(
        name=f"task_{number}",
        title=(f"{task}: accuracy by task loss", f"{task}：准确率随任务损失"),
        x_label=("task loss, bits a byte", "任务损失，比特/字节"),
        y_label=("accuracy", "准确率"),
        lines=[
            *(points(run.name, run.loss, accuracy) for run, accuracy in told),
            draws_line("curve", x, fit.curve.at(x), [draw.at(x) for draw in fit.curve_draws]),
        ],
    )
