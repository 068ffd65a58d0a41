"""Fits of laws as experiments: the parametric form, power laws, repeated text. Figures of residuals, tables of what drives a fit."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dunwu.lab.record import Cell, Experiment, Figure, Line, Table, Words
from dunwu.lab.scaling.parametric import Fit
from dunwu.lab.scaling.points import BITS_PER_BYTE, Floats, Pairs, Points
from dunwu.lab.scaling.power import PowerFit
from dunwu.lab.scaling.repeated import RepeatedFit
from dunwu.lab.scaling.solving import estimate

DRIVERS = 10
CURVE = 80  # points of a drawn line
FLOPS: Words = ("FLOPs of training", "训练的 FLOPs")
RESIDUAL: Words = ("measured over fitted loss, log", "实测与拟合损失之比的对数")
ROWS_DRAWN: Words = ("percentiles of a bootstrap over rows", "对行做自助抽样的分位数")
LAW_FAILS: Words = (
    "The form would have failed if the residuals bent with size or compute, if descents from many starts ended at different optima, "
    "or if runs left out of the fit lay outside of their intervals.",
    "若残差随规模或算力弯曲、多个起点的下降止于不同的最优点，或留出的训练落在区间之外，这一形式即为失败。",
)


def shown(one: dict[str, float], digits: int = 4) -> str:
    """An estimate with its interval."""
    return f"{one['value']:.{digits}g} [{one['low']:.{digits}g}, {one['high']:.{digits}g}]"


def loss_label(points: Points) -> Words:
    """The axis of a loss in its unit."""
    return (
        ("loss, bits a byte", "损失，比特/字节")
        if points.unit == BITS_PER_BYTE
        else ("loss, nats a token", "损失，奈特/词元")
    )


def residual_figure(x: Floats, residual: Floats, label: Words = FLOPS) -> Figure:
    """Residuals against `x`, on a log axis."""
    return Figure(
        name="residuals",
        title=("Residuals", "残差"),
        x_label=label,
        y_label=RESIDUAL,
        x_log=True,
        lines=[Line(label="runs", x=x.tolist(), y=residual.tolist(), mark="points")],
        rules=[("y", 0.0, "fit")],
    )


def drivers_table(places: Sequence[str], residual: Floats, moves: Floats) -> Table:
    """The rows that move a fit most."""
    rows: list[Sequence[Cell]] = []
    for at in map(int, np.argsort(-moves)[:DRIVERS]):
        rows.append((places[at], float(residual[at]), float(moves[at])))
    return Table(
        name="drivers",
        title=(
            "Rows that move the fit most, in standard errors where they are left out",
            "去掉后最能移动拟合的行（以标准误计）",
        ),
        columns=("row", "residual of log", "moves"),
        rows=rows,
    )


def parametric(fit: Fit, facts: dict[str, Any], seed: int) -> Experiment:
    """L(N, D) = E + A/N^α + B/D^β."""
    points, law = fit.points, fit.law
    flops = np.geomspace(points.flops_R.min(), 10 * points.flops_R.max(), CURVE)
    best = [law.best_loss(one) for one in flops]
    low, high = np.quantile([[draw.best_loss(one) for one in flops] for draw in fit.draws], [0.025, 0.975], axis=0)
    held = "" if fit.floor is None else f" E was stated, {fit.floor:g}."
    named = ", ".join(f"{name} {shown(facts['coefficients'][name])}" for name in ("E", "alpha", "beta", "a"))
    findings: list[Words] = [
        (f"{named}; best size ∝ compute^a.", f"{named}；最优规模正比于算力的 a 次方。"),
        (
            f"{facts['objective']['name']} = {law.objective:.6g} over {len(points)} runs; "
            f"{fit.agreed} of {fit.starts} descents ended there.{held}",
            f"{len(points)} 次训练的目标值 {law.objective:.6g}；{fit.starts} 次下降中 {fit.agreed} 次止于此。",
        ),
    ]
    for one in facts["forecasts"]:
        told = f"{one['flops']:.3g} FLOPs: {shown(one['size'])} parameters, {shown(one['tokens'])} tokens, loss {shown(one['loss'])}"
        chinese = f"{one['flops']:.3g} FLOPs：{shown(one['size'])} 参数，{shown(one['tokens'])} 词元，损失 {shown(one['loss'])}"
        findings.append(
            (
                f"{told} ({one['times_largest']:.3g} times the largest run).",
                f"{chinese}（最大训练的 {one['times_largest']:.3g} 倍）。",
            )
        )
    return Experiment(
        name="scaling",
        title=("A scaling law of size and tokens", "规模与词元的定律"),
        method=(
            f"loss = E + A/size^alpha + B/tokens^beta, by the sum of Huber losses (delta 0.001) of log loss, BFGS from the best {fit.starts} "
            f"starts of a grid (arXiv:2203.15556, arXiv:2404.10102). Intervals: 95% percentiles of {len(fit.draws)} bootstrap draws over runs. "
            + " ".join(f"{note}." for note in points.said),
            f"损失 = E + A/规模^alpha + B/词元^beta；对数损失的 Huber 损失之和，从网格中最好的 {fit.starts} 个起点用 BFGS 求解。"
            f"区间：对训练做 {len(fit.draws)} 次自助抽样的 95% 分位数。",
        ),
        n=f"{len(points)} runs, {len(np.unique(points.size_R))} sizes",
        seeds=[seed],
        failure=LAW_FAILS,
        findings=findings,
        figures=[
            Figure(
                name="law",
                title=(
                    "Runs, and the least loss that the law gives for a compute",
                    "各次训练，以及定律给出的每一算力的最低损失",
                ),
                x_label=FLOPS,
                y_label=loss_label(points),
                x_log=True,
                lines=[
                    Line(label="runs", x=points.flops_R.tolist(), y=points.loss_R.tolist(), mark="points"),
                    Line(label="least loss", x=flops.tolist(), y=best, low=low.tolist(), high=high.tolist()),
                ],
            ),
            residual_figure(points.flops_R, fit.residual_R),
            Figure(
                name="residuals_by_size",
                title=("Residuals by size", "按规模的残差"),
                x_label=("parameters", "参数量"),
                y_label=RESIDUAL,
                x_log=True,
                lines=[Line(label="runs", x=points.size_R.tolist(), y=fit.residual_R.tolist(), mark="points")],
                rules=[("y", 0.0, "fit")],
            ),
        ],
        tables=[drivers_table(points.places, fit.residual_R, fit.influence_R)],
        facts=facts,
    )


def power(pairs: Pairs, plain: PowerFit, floored: PowerFit | None, at: Sequence[float], seed: int) -> Experiment:
    """One quantity against another, without and with a floor."""
    fits = {"without floor": plain} | ({} if floored is None else {"with floor": floored})
    facts: dict[str, Any] = {
        "form": "y = E + A / x^alpha",
        "rows": len(pairs.x_R),
        "x": pairs.x_name,
        "y": pairs.y_name,
        "fits": {},
    }
    findings: list[Words] = []
    for name, fit in fits.items():
        facts["fits"][name] = one = _power_facts(fit, at)
        held = "" if fit.held_out is None else f"; held-out largest quarter: {fit.held_out:.2%} off"
        told = f"alpha {shown(one['alpha'])}, A {shown(one['A'])}, E {shown(one['E'])}"
        ends = f"{fit.found.agreed}/{fit.found.starts}"
        chinese = {"without floor": "无下限", "with floor": "有下限"}[name]
        findings.append(
            (
                f"{name}: {told}; {ends} starts agree{held}.",
                f"{chinese}：{told}；{ends} 个起点一致{_off(fit.held_out)}。",
            )
        )
        findings += [
            (
                f"{name}, {pairs.x_name} {x['x']:.3g}: {shown(x)}.",
                f"{chinese}，{pairs.x_name} {x['x']:.3g}：{shown(x)}。",
            )
            for x in one["forecasts"]
        ]
    x = np.geomspace(pairs.x_R.min(), max(float(pairs.x_R.max()), *at) if at else 10 * float(pairs.x_R.max()), CURVE)
    lines = [Line(label="rows", x=pairs.x_R.tolist(), y=pairs.y_R.tolist(), mark="points")]
    for name, fit in fits.items():
        low, high = np.quantile([draw.at(x) for draw in fit.draws], [0.025, 0.975], axis=0)
        lines.append(Line(label=name, x=x.tolist(), y=fit.law.at(x).tolist(), low=low.tolist(), high=high.tolist()))
    last = floored or plain
    return Experiment(
        name="power",
        title=(f"A power law of {pairs.y_name} in {pairs.x_name}", f"{pairs.y_name} 对 {pairs.x_name} 的幂律"),
        method=(
            f"y = A/x^alpha and y = E + A/x^alpha, Huber losses (delta 0.001) of log y by least_squares from several starts. Intervals: 95% {ROWS_DRAWN[0]}, "
            f"{len(last.draws)} draws. " + " ".join(f"{note}." for note in pairs.said),
            f"y = A/x^alpha 与 y = E + A/x^alpha；log y 的 Huber 损失，多个起点。区间：95%，{ROWS_DRAWN[1]}，{len(last.draws)} 次。",
        ),
        n=f"{len(pairs.x_R)} rows",
        seeds=[seed],
        failure=(
            "A law fails that is further off on the held-out quarter with the largest x than within the rows that it was fitted to.",
            "若对留出的最大四分之一 x 的误差远大于拟合行内的误差，该定律即为失败。",
        ),
        findings=findings,
        figures=[
            Figure(
                name="power",
                title=("Rows and fits", "数据与拟合"),
                x_label=(pairs.x_name, pairs.x_name),
                y_label=(pairs.y_name, pairs.y_name),
                x_log=True,
                y_log=True,
                lines=lines,
            ),
            residual_figure(pairs.x_R, last.residual_R, (pairs.x_name, pairs.x_name)),
        ],
        tables=[drivers_table(pairs.places, last.residual_R, last.moves_R)],
        facts=facts,
    )


def _off(held_out: float | None) -> str:
    return "" if held_out is None else f"；留出的最大四分之一偏差 {held_out:.2%}"


def _power_facts(fit: PowerFit, at: Sequence[float]) -> dict[str, Any]:
    return {
        "alpha": estimate(fit.law.alpha, [draw.alpha for draw in fit.draws]),
        "A": estimate(fit.law.A, [draw.A for draw in fit.draws]),
        "E": estimate(fit.law.E, [draw.E for draw in fit.draws]),
        "objective": fit.found.objective,
        "starts": fit.found.starts,
        "agreed": fit.found.agreed,
        "residual_rms": float(np.sqrt(np.mean(fit.residual_R**2))),
        "held_out": fit.held_out,
        "forecasts": [
            {"x": x, **estimate(float(fit.law.at(x)), [float(draw.at(x)) for draw in fit.draws])} for x in at
        ],
    }


def repeated(fit: RepeatedFit, seed: int) -> Experiment:
    """What repeating text is worth."""
    found, points, draws = fit.found, fit.points, fit.draws
    assert points.unique_R is not None
    stars = {"R_D*": estimate(found.data, [draw.data for draw in draws])}
    if np.isfinite(found.parameters):
        stars["R_N*"] = estimate(found.parameters, [draw.parameters for draw in draws])
    half = estimate(found.epochs_until(0.5), [draw.epochs_until(0.5) for draw in draws])
    law = {
        name: estimate(getattr(found.law, name), [getattr(draw.law, name) for draw in draws])
        for name in ("E", "A", "B", "alpha", "beta")
    }
    facts = {
        "form": "loss = E + A/N'^alpha + B/D'^beta, D' = U + U R* (1 - exp(-(D/U - 1) / R*))",
        "runs": len(points),
        "notes": list(points.said),
        "coefficients": law | stars,
        "epochs_until_half": half,
        "worth": {epochs: found.worth(epochs) for epochs in (2, 4, 8, 16, 32)},
        "objective": fit.solved.objective,
        "starts": fit.solved.starts,
        "agreed": fit.solved.agreed,
        "residual_rms": float(np.sqrt(np.mean(fit.residual_R**2))),
        "residual_rms_without": fit.plain,
    }
    epochs = np.linspace(1, max(40.0, float((points.tokens_R / points.unique_R).max())), CURVE)
    told = ", ".join(f"{name} {shown(one)}" for name, one in stars.items())
    no_size = "" if "R_N*" in stars else " No run is larger than its unique text asks for: R_N* is not told."
    return Experiment(
        name="repeated",
        title=("What repeated text is worth", "重复文本值多少"),
        method=(
            "The data-constrained form of arXiv:2305.16264, its parameters fitted together by Huber losses (delta 0.001) of log loss, "
            f"least_squares from {fit.solved.starts} starts ({fit.solved.agreed} agree). Intervals: 95% {ROWS_DRAWN[0]}, {len(draws)} draws. "
            + " ".join(f"{note}." for note in points.said),
            f"arXiv:2305.16264 的受限数据形式，所有参数一起拟合；{fit.solved.starts} 个起点（{fit.solved.agreed} 个一致）。区间：95%，{ROWS_DRAWN[1]}，{len(draws)} 次。",
        ),
        n=f"{len(points)} runs, {int((points.tokens_R > points.unique_R * 1.01).sum())} with repeats",
        seeds=[seed],
        failure=(
            "The form fails if it leaves residuals no smaller than the law that counts repeats as fresh text.",
            "若其残差不小于把重复当作新文本的定律，该形式即为失败。",
        ),
        findings=[
            (f"{told}.{no_size}", f"{told}。"),
            (
                f"A token read again is worth half a fresh one after {shown(half, 3)} passes.",
                f"读过 {shown(half, 3)} 遍后，再读一次的词元只值新词元的一半。",
            ),
            (
                f"Residuals of log loss: {facts['residual_rms']:.2%} root mean square; {fit.plain:.2%} where repeats count as fresh.",
                f"对数损失残差均方根 {facts['residual_rms']:.2%}；把重复当作新文本时 {fit.plain:.2%}。",
            ),
        ],
        figures=[
            Figure(
                name="worth",
                title=("Fresh passes that so many passes are worth", "若干遍相当于多少遍新文本"),
                x_label=("passes over the text", "遍数"),
                y_label=("fresh passes", "新文本遍数"),
                lines=[
                    Line(
                        label="worth", x=epochs.tolist(), y=[float(found.effective_tokens(one, 1.0)) for one in epochs]
                    ),
                    Line(label="if all were fresh", x=epochs.tolist(), y=epochs.tolist(), mark="dashed"),
                ],
            ),
            residual_figure(points.tokens_R / points.unique_R, fit.residual_R, ("passes over the text", "遍数")),
        ],
        facts=facts,
    )
