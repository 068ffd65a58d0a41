"""Forecasts of a task from the public scores of many models, as an experiment."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dunwu.lab.estimates import points
from dunwu.lab.record import Cell, Experiment, Figure, Line, Table, Words
from dunwu.lab.scaling.observed import Models, Observed
from dunwu.lab.scaling.showing_parts import FLOPS, sentences

CAPABILITY: Words = ("capability (first component)", "能力（第一主成分）")


def observed(fit: Observed, target: str, below: float | None, seed: int) -> Experiment:
    """The target's score of every model, from its other scores."""
    models, facts, count = fit.models, _facts(fit, target, below), len(fit.components.share_S)
    names = ", ".join(models.score_names)
    return Experiment(
        name="observe",
        title=(f"{target} from public scores of many models", f"由许多模型的公开分数预测 {target}"),
        method=(
            f"{count} principal components of {names} (arXiv:2405.10938; not scaled, gaps filled by the components), "
            "then a sigmoid of them with a floor, Huber losses (delta 0.05) from several starts. Within a family the first component is a line in log FLOPs. "
            f"Intervals, 95%: {fit.draws} bootstrap draws over families, a residual added. " + sentences(models.said),
            f"取 {names} 的 {count} 个主成分，再以带下限的 S 形曲线得目标。区间：对模型家族做 {fit.draws} 次自助抽样并加残差，95%。",
        ),
        n=f"{len(models)} models of {len(set(models.families))} families, {int(fit.fitted_M.sum())} fitted",
        seeds=[seed],
        failure=(
            "Held-out models outside of their intervals more often than one in twenty, or errors no smaller than from FLOPs alone, count as failure.",
            "若留出模型落在区间外超过二十分之一，或误差不小于仅由 FLOPs 的预测，即为失败。",
        ),
        findings=_findings(fit, facts["error"]),
        figures=[_target_figure(fit, target), _families_figure(fit)],
        tables=[_models_table(fit)],
        facts=facts,
    )


def _facts(fit: Observed, target: str, below: float | None) -> dict[str, Any]:
    models = fit.models
    inside, out = fit.covered
    return {
        "target": target,
        "notes": list(models.said),
        "models": len(models),
        "fitted": int(fit.fitted_M.sum()),
        "below": below,
        "variance": fit.components.share_S,
        "weights": {name: fit.components.weights_SK[:, at] for at, name in enumerate(models.score_names)},
        "sigmoid": {"floor": fit.solved.x[0], "intercept": fit.solved.x[1], "weights": fit.solved.x[2:]},
        "starts": fit.solved.starts,
        "agreed": fit.solved.agreed,
        "families": {
            line.family: {"models": line.models, "slope": line.slope, "r_squared": line.r_squared} for line in fit.lines
        },
        "error": {
            "fitted": fit.error(fit.forecast_M, fitted=True),
            "fitted_by_flops": fit.error(fit.by_flops_M, fitted=True),
            "held_out": fit.error(fit.forecast_M, fitted=False),
            "held_out_by_flops": fit.error(fit.by_flops_M, fitted=False),
        },
        "inside": inside,
        "held_out": out,
        "mean_width": fit.width,
    }


def _findings(fit: Observed, error: Mapping[str, float]) -> list[Words]:
    scores, fitted = len(fit.models.score_names), int(fit.fitted_M.sum())
    inside, out = fit.covered
    findings: list[Words] = [
        (
            f"{fit.components.share_S[0]:.0%} of the variance of {scores} scores lies on one component.",
            f"{scores} 项分数的方差有 {fit.components.share_S[0]:.0%} 在一个主成分上。",
        ),
        (
            f"Mean error on the {fitted} fitted models: {error['fitted']:.3f} from capability, {error['fitted_by_flops']:.3f} from FLOPs alone.",
            f"对 {fitted} 个拟合模型的平均误差：由能力 {error['fitted']:.3f}，仅由 FLOPs {error['fitted_by_flops']:.3f}。",
        ),
    ]
    if out:
        findings.append(
            (
                f"On the {out} others: {error['held_out']:.3f} from capability, {error['held_out_by_flops']:.3f} from FLOPs alone; {inside} of {out} inside of their 95% intervals, which are {fit.width:.2f} wide on average.",
                f"对其余 {out} 个：由能力 {error['held_out']:.3f}，仅由 FLOPs {error['held_out_by_flops']:.3f}；{out} 个中有 {inside} 个在 95% 区间内，区间平均宽 {fit.width:.2f}。",
            )
        )
    return findings


def _target_figure(fit: Observed, target: str) -> Figure:
    measured, fitted, first = fit.models.target_M, fit.fitted_M, fit.capability_MS[:, 0]
    order = np.argsort(first)
    return Figure(
        name="target",
        title=("Measured, and forecast with intervals", "实测，以及带区间的预测"),
        x_label=CAPABILITY,
        y_label=(target, target),
        lines=[
            points("fitted", first[fitted], measured[fitted]),
            points("held out", first[~fitted], measured[~fitted]),
            Line(
                label="forecast",
                x=first[order].tolist(),
                y=fit.forecast_M[order].tolist(),
                low=np.minimum(fit.low_M, fit.forecast_M)[order].tolist(),
                high=np.maximum(fit.high_M, fit.forecast_M)[order].tolist(),
                mark="dashed",
            ),
        ],
    )


def _families_figure(fit: Observed) -> Figure:
    flops, first = fit.models.flops_M, fit.capability_MS[:, 0]
    lines: list[Line] = []
    for line in fit.lines:
        own = _in_order(fit.models, line.family)
        lines.append(Line(label=line.family, x=flops[own].tolist(), y=first[own].tolist(), mark="both"))
    return Figure(
        name="families",
        title=("Capability by FLOPs within families", "各家族内能力随 FLOPs 的变化"),
        x_label=FLOPS,
        y_label=CAPABILITY,
        x_log=True,
        lines=lines,
    )


def _in_order(models: Models, family: str) -> npt.NDArray[np.int64]:
    """The places of a family's models whose FLOPs are known, the smallest first."""
    flops = models.flops_M
    chosen = np.array([at for at, one in enumerate(models.families) if one == family and np.isfinite(flops[at])])
    return chosen[np.argsort(flops[chosen], kind="stable")]


def _models_table(fit: Observed) -> Table:
    """Every model, the least capable first."""
    models, first = fit.models, fit.capability_MS[:, 0]
    numbers = (models.flops_M, first, models.target_M, fit.forecast_M, fit.low_M, fit.high_M)
    rows: list[Sequence[Cell]] = []
    for at in np.argsort(first).tolist():
        told = (float(one[at]) for one in numbers)
        rows.append((models.names[at], models.families[at], *told, "yes" if fit.fitted_M[at] else "no"))
    return Table(
        name="models",
        title=("Models", "模型"),
        columns=("model", "family", "FLOPs", "capability", "measured", "forecast", "low", "high", "fitted"),
        rows=rows,
    )
