"""Fits of laws as experiments: the parametric form, power laws, repeated text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dunwu.lab.estimates import draws_line, points, shown
from dunwu.lab.record import Experiment, Figure, Line, Words
from dunwu.lab.scaling.parametric import Fit
from dunwu.lab.scaling.points import Pairs
from dunwu.lab.scaling.power import PowerFit
from dunwu.lab.scaling.repeated import RepeatedFit
from dunwu.lab.scaling.showing_parts import (
    FLOPS,
    SIZE,
    best_words,
    drivers_table,
    loss_label,
    residual_figure,
    sentences,
)
from dunwu.lab.statistics import estimate, root_mean_square

CURVE = 80  # points of a drawn line
PASSES: Words = ("passes over the text", "遍数")
ROWS_DRAWN: Words = ("percentiles of a bootstrap over rows", "对行做自助抽样的分位数")
LAW_FAILS: Words = (
    "The form would have failed if the residuals bent with size or compute, if descents from many starts ended at different optima, "
    "or if runs left out of the fit lay outside of their intervals.",
    "若残差随规模或算力弯曲、多个起点的下降止于不同的最优点，或留出的训练落在区间之外，这一形式即为失败。",
)

# -------------------------------------------------------------------------------------------- L(N, D) = E + A/N^α + B/D^β


def parametric(fit: Fit, facts: dict[str, Any], seed: int) -> Experiment:
    """The law, with the facts that `telling.facts_of` found."""
    known = fit.points
    return Experiment(
        name="scaling",
        title=("A scaling law of size and tokens", "规模与词元的定律"),
        method=(
            f"loss = E + A/size^alpha + B/tokens^beta, by the sum of Huber losses (delta 0.001) of log loss, BFGS from the best {fit.starts} "
            f"starts of a grid (arXiv:2203.15556, arXiv:2404.10102). Intervals: 95% percentiles of {len(fit.draws)} bootstrap draws over runs. "
            + sentences(known.said),
            f"损失 = E + A/规模^alpha + B/词元^beta；对数损失的 Huber 损失之和，从网格中最好的 {fit.starts} 个起点用 BFGS 求解。"
            f"区间：对训练做 {len(fit.draws)} 次自助抽样的 95% 分位数。",
        ),
        n=f"{len(known)} runs, {len(np.unique(known.size_R))} sizes",
        seeds=[seed],
        failure=LAW_FAILS,
        findings=_law_findings(fit, facts),
        figures=[
            _law_figure(fit),
            residual_figure([points("runs", known.flops_R, fit.residual_R)], FLOPS),
            residual_figure(
                [points("runs", known.size_R, fit.residual_R)],
                SIZE,
                name="residuals_by_size",
                title=("Residuals by size", "按规模的残差"),
            ),
        ],
        tables=[drivers_table(known.places, fit.residual_R, fit.influence_R)],
        facts=facts,
    )


def _law_findings(fit: Fit, facts: Mapping[str, Any]) -> list[Words]:
    runs = len(fit.points)
    held = "" if fit.floor is None else f" E was stated, {fit.floor:g}."
    named = ", ".join(f"{name} {shown(facts['coefficients'][name])}" for name in ("E", "alpha", "beta", "a"))
    return [
        (f"{named}; best size ∝ compute^a.", f"{named}；最优规模正比于算力的 a 次方。"),
        (
            f"{facts['objective']['name']} = {fit.law.objective:.6g} over {runs} runs; "
            f"{fit.agreed} of {fit.starts} descents ended there.{held}",
            f"{runs} 次训练的目标值 {fit.law.objective:.6g}；{fit.starts} 次下降中 {fit.agreed} 次止于此。",
        ),
        *(_law_forecast(one) for one in facts["forecasts"]),
    ]


def _law_forecast(one: Mapping[str, Any]) -> Words:
    english, chinese = best_words(one)
    loss, times = shown(one["loss"]), f"{one['times_largest']:.3g}"
    return (
        f"{english}, loss {loss} ({times} times the largest run).",
        f"{chinese}，损失 {loss}（最大训练的 {times} 倍）。",
    )


def _law_figure(fit: Fit) -> Figure:
    known = fit.points
    flops = np.geomspace(known.flops_R.min(), 10 * known.flops_R.max(), CURVE)
    best = [fit.law.best_loss(one) for one in flops]
    return Figure(
        name="law",
        title=(
            "Runs, and the least loss that the law gives for a compute",
            "各次训练，以及定律给出的每一算力的最低损失",
        ),
        x_label=FLOPS,
        y_label=loss_label(known),
        x_log=True,
        lines=[
            points("runs", known.flops_R, known.loss_R),
            draws_line("least loss", flops, best, [[draw.best_loss(one) for one in flops] for draw in fit.draws]),
        ],
    )


# ------------------------------------------------------------------------------------------------ y = A/x^α, with a floor and without


def power(pairs: Pairs, plain: PowerFit, floored: PowerFit | None, at: Sequence[float], seed: int) -> Experiment:
    """One quantity against another, without and with a floor."""
    fits = {"without floor": plain} | ({} if floored is None else {"with floor": floored})
    last = floored or plain
    facts = {
        "form": "y = E + A / x^alpha",
        "rows": len(pairs.x_R),
        "x": pairs.x_name,
        "y": pairs.y_name,
        "fits": {name: _power_facts(fit, at) for name, fit in fits.items()},
    }
    return Experiment(
        name="power",
        title=(f"A power law of {pairs.y_name} in {pairs.x_name}", f"{pairs.y_name} 对 {pairs.x_name} 的幂律"),
        method=(
            f"y = A/x^alpha and y = E + A/x^alpha, Huber losses (delta 0.001) of log y by least_squares from several starts. Intervals: 95% {ROWS_DRAWN[0]}, "
            f"{len(last.draws)} draws. " + sentences(pairs.said),
            f"y = A/x^alpha 与 y = E + A/x^alpha；log y 的 Huber 损失，多个起点。区间：95%，{ROWS_DRAWN[1]}，{len(last.draws)} 次。",
        ),
        n=f"{len(pairs.x_R)} rows",
        seeds=[seed],
        failure=(
            "A law fails that is further off on the held-out quarter with the largest x than within the rows that it was fitted to.",
            "若对留出的最大四分之一 x 的误差远大于拟合行内的误差，该定律即为失败。",
        ),
        findings=[
            words for name, fit in fits.items() for words in _power_findings(name, fit, facts["fits"][name], pairs)
        ],
        figures=[
            _power_figure(pairs, fits, at),
            residual_figure([points("runs", pairs.x_R, last.residual_R)], (pairs.x_name, pairs.x_name)),
        ],
        tables=[drivers_table(pairs.places, last.residual_R, last.moves_R)],
        facts=facts,
    )


def _power_facts(fit: PowerFit, at: Sequence[float]) -> dict[str, Any]:
    return {
        **{name: estimate(getattr(fit.law, name), [getattr(draw, name) for draw in fit.draws]) for name in ("alpha", "A", "E")},
        "objective": fit.found.objective,
        "starts": fit.found.starts,
        "agreed": fit.found.agreed,
        "residual_rms": root_mean_square(fit.residual_R),
        "held_out": fit.held_out,
        "forecasts": [
            {"x": x, **estimate(float(fit.law.at(x)), [float(draw.at(x)) for draw in fit.draws])} for x in at
        ],
    }  # fmt: skip


def _power_findings(name: str, fit: PowerFit, facts: Mapping[str, Any], pairs: Pairs) -> list[Words]:
    chinese = {"without floor": "无下限", "with floor": "有下限"}[name]
    told = ", ".join(f"{one} {shown(facts[one])}" for one in ("alpha", "A", "E"))
    ends = f"{fit.found.agreed}/{fit.found.starts}"
    off = ("", "")
    if fit.held_out is not None:
        off = (f"; held-out largest quarter: {fit.held_out:.2%} off", f"；留出的最大四分之一偏差 {fit.held_out:.2%}")
    return [
        (f"{name}: {told}; {ends} starts agree{off[0]}.", f"{chinese}：{told}；{ends} 个起点一致{off[1]}。"),
        *(
            (
                f"{name}, {pairs.x_name} {one['x']:.3g}: {shown(one)}.",
                f"{chinese}，{pairs.x_name} {one['x']:.3g}：{shown(one)}。",
            )
            for one in facts["forecasts"]
        ),
    ]


def _power_figure(pairs: Pairs, fits: Mapping[str, PowerFit], at: Sequence[float]) -> Figure:
    largest = float(pairs.x_R.max())
    x = np.geomspace(pairs.x_R.min(), max(largest, *at) if at else 10 * largest, CURVE)
    return Figure(
        name="power",
        title=("Rows and fits", "数据与拟合"),
        x_label=(pairs.x_name, pairs.x_name),
        y_label=(pairs.y_name, pairs.y_name),
        x_log=True,
        y_log=True,
        lines=[
            points("rows", pairs.x_R, pairs.y_R),
            *(draws_line(name, x, fit.law.at(x), [draw.at(x) for draw in fit.draws]) for name, fit in fits.items()),
        ],
    )


# --------------------------------------------------------------------------------------------------------------- repeated text


def repeated(fit: RepeatedFit, seed: int) -> Experiment:
    """What repeating text is worth."""
    known, facts = fit.points, _repeated_facts(fit)
    assert known.unique_R is not None
    passes_R = known.tokens_R / known.unique_R
    return Experiment(
        name="repeated",
        title=("What repeated text is worth", "重复文本值多少"),
        method=(
            "The data-constrained form of arXiv:2305.16264, its parameters fitted together by Huber losses (delta 0.001) of log loss, "
            f"least_squares from {fit.solved.starts} starts ({fit.solved.agreed} agree). Intervals: 95% {ROWS_DRAWN[0]}, {len(fit.draws)} draws. "
            + sentences(known.said),
            f"arXiv:2305.16264 的受限数据形式，所有参数一起拟合；{fit.solved.starts} 个起点（{fit.solved.agreed} 个一致）。区间：95%，{ROWS_DRAWN[1]}，{len(fit.draws)} 次。",
        ),
        n=f"{len(known)} runs, {int((known.tokens_R > known.unique_R * 1.01).sum())} with repeats",
        seeds=[seed],
        failure=(
            "The form fails if it leaves residuals no smaller than the law that counts repeats as fresh text.",
            "若其残差不小于把重复当作新文本的定律，该形式即为失败。",
        ),
        findings=_repeated_findings(facts),
        figures=[
            _worth_figure(fit, max(40.0, float(passes_R.max()))),
            residual_figure([points("runs", passes_R, fit.residual_R)], PASSES),
        ],
        facts=facts,
    )


def _repeated_facts(fit: RepeatedFit) -> dict[str, Any]:
    found, draws = fit.found, fit.draws
    law = {
        name: estimate(getattr(found.law, name), [getattr(draw.law, name) for draw in draws])
        for name in ("E", "A", "B", "alpha", "beta")
    }
    stars = {"R_D*": estimate(found.data, [draw.data for draw in draws])}
    if np.isfinite(found.parameters):
        stars["R_N*"] = estimate(found.parameters, [draw.parameters for draw in draws])
    return {
        "form": "loss = E + A/N'^alpha + B/D'^beta, D' = U + U R* (1 - exp(-(D/U - 1) / R*))",
        "runs": len(fit.points),
        "notes": list(fit.points.said),
        "coefficients": law | stars,
        "epochs_until_half": estimate(found.epochs_until(0.5), [draw.epochs_until(0.5) for draw in draws]),
        "worth": {epochs: found.worth(epochs) for epochs in (2, 4, 8, 16, 32)},
        "objective": fit.solved.objective,
        "starts": fit.solved.starts,
        "agreed": fit.solved.agreed,
        "residual_rms": root_mean_square(fit.residual_R),
        "residual_rms_without": fit.plain,
    }


def _repeated_findings(facts: Mapping[str, Any]) -> list[Words]:
    stars = {name: one for name, one in facts["coefficients"].items() if name in ("R_D*", "R_N*")}
    told = ", ".join(f"{name} {shown(one)}" for name, one in stars.items())
    no_size = "" if "R_N*" in stars else " No run is larger than its unique text asks for: R_N* is not told."
    half, own, plain = shown(facts["epochs_until_half"], ".3g"), facts["residual_rms"], facts["residual_rms_without"]
    return [
        (f"{told}.{no_size}", f"{told}。"),
        (
            f"A token read again is worth half a fresh one after {half} passes.",
            f"读过 {half} 遍后，再读一次的词元只值新词元的一半。",
        ),
        (
            f"Residuals of log loss: {own:.2%} root mean square; {plain:.2%} where repeats count as fresh.",
            f"对数损失残差均方根 {own:.2%}；把重复当作新文本时 {plain:.2%}。",
        ),
    ]


def _worth_figure(fit: RepeatedFit, most: float) -> Figure:
    passes = np.linspace(1, most, CURVE)
    worth = [float(fit.found.effective_tokens(one, 1.0)) for one in passes]
    return Figure(
        name="worth",
        title=("Fresh passes that so many passes are worth", "若干遍相当于多少遍新文本"),
        x_label=PASSES,
        y_label=("fresh passes", "新文本遍数"),
        lines=[
            Line(label="worth", x=passes.tolist(), y=worth),
            Line(label="if all were fresh", x=passes.tolist(), y=passes.tolist(), mark="dashed"),
        ],
    )
