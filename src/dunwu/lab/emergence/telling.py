"""What was found of emergence, as JSON holds it, in words, and as an experiment with figures and tables."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dunwu.evaluate.stats import Estimate
from dunwu.lab.emergence.breaks import Break
from dunwu.lab.emergence.curves import Curve
from dunwu.lab.emergence.forecast import Forecast
from dunwu.lab.emergence.graded import Rare
from dunwu.lab.emergence.measures import Floats
from dunwu.lab.emergence.study import Pair, Studied, Study
from dunwu.lab.estimates import estimates_line
from dunwu.lab.record import Cell, Experiment, Figure, Line, Table, Words

SHOWN = 40  # rows that the terminal shows
DRAWN = 6  # curves that have a figure
TOLD = 8  # pairs that the page's head tells of
AXES: dict[str, Words] = {
    "size": ("parameters", "参数量"),
    "flops": ("training compute, FLOPs", "训练算力（FLOPs）"),
    "step": ("training step", "训练步数"),
}
VERDICTS: dict[str, str] = {
    "jump": "jump",
    "smooth": "smooth",
    "rise": "rises, width not told",
    "level": "level",
    "few": "too few points to search",
}

SURVIVES: dict[str, Words] = {
    "yes": ("the jump survives partial credit", "给部分分之后跃升仍在"),
    "no": ("the jump does not survive partial credit", "给部分分之后跃升消失"),
    "undecided": ("whether the jump survives partial credit is undecided", "给部分分之后跃升是否仍在，未能判定"),
    "no jump": ("no jump", "没有跃升"),
}

CURVE_COLUMNS = (
    *(
        "task",
        "metric",
        "series",
        "points",
        "questions",
        "linearity",
        "linearity_low",
        "linearity_high",
        "linearity_share",
    ),
    *("breakthroughness", "breakthroughness_low", "breakthroughness_high", "breakthroughness_bounded"),
    *("breakthroughness_by_chance", "verdict", "gain", "at", "at_low", "at_high"),
    *("factor", "factor_low", "factor_high", "p_rise", "p_jump", "p_jump_adjusted"),
)
PAIR_COLUMNS = ("task", "series", "all_or_nothing", "graded", "verdict", "verdict_graded", "survives", "early", "early_low", "early_high")  # fmt: skip
RARE_COLUMNS = ("task", "series", "model", "size", "questions", "draws", "rate", "rate_low", "rate_high", "resolution")
FORECAST_COLUMNS = ("task", "metric", "by", "model", "x", "actual", "forecast", "low", "high")


def facts_of(study: Study, forecasts: Sequence[tuple[str, Forecast]] = (), rare: Sequence[Rare] = ()) -> dict[str, Any]:
    """All numbers."""
    return {
        "axis": study.scores.axis,
        "notes": list(study.scores.said),
        "draws": study.draws,
        "seed": study.seed,
        "limit_factor": 10 ** next((one.found.limit for one in study.curves if one.found.verdict != "few"), math.nan),
        "curves": [dict(zip(CURVE_COLUMNS, _curve_row(one), strict=True)) | _points(one.curve) for one in study.curves],
        "pairs": [dict(zip(PAIR_COLUMNS, _pair_row(one), strict=True)) for one in study.pairs],
        "without_graded_metric": sorted({one.curve.task for one in study.alone}),
        "forecasts": [_forecast_facts(by, one) for by, one in forecasts],
        "rare": [
            dict(zip(RARE_COLUMNS, _rare_row(one), strict=True))
            | {"pass": {str(k): _interval(value) for k, value in one.passed.items()}}
            for one in rare
        ],
    }


def lines_of(study: Study, forecasts: Sequence[tuple[str, Forecast]] = (), rare: Sequence[Rare] = ()) -> Iterator[str]:
    """The same for a person."""
    yield from study.scores.said
    counts = {
        name: sum(one.found.verdict == key for one in study.curves if one.curve.metric.kind != "no ability")
        for key, name in VERDICTS.items()
    }
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    limits = [one.found.limit for one in study.curves if one.found.verdict != "few"]
    rule = " (six are needed)"
    if limits:
        rule = f"; a jump is a rise from 10% to 90% within a factor of {10 ** limits[0]:.3g}, p < .05 after Holm's adjustment"
    yield told + rule
    yield f"{'task':<34} {'metric':<14} {'L/(n-1)':>8} {'B':>7} {'(chance)':>8}  what is found"
    for one in _most_striking(study)[:SHOWN]:
        yield (
            f"{_named(one.curve)[:34]:<34} {one.curve.metric.name[:14]:<14} {one.linearity_share:>8.2f} {one.breakthroughness.value:>7.1f} "
            f"{one.breakthroughness.by_chance:>8.1f}  {_told(one.found)}"
        )
    if len(study.curves) > SHOWN:
        yield f"… and {len(study.curves) - SHOWN} more; --out or --json has all"
    for one in study.pairs:
        yield _told_pair(one)
    if study.alone:
        names = sorted({one.curve.task for one in study.alone})
        yield f"no graded metric in the table for {', '.join(names[:8])}{f' and {len(names) - 8} more' if len(names) > 8 else ''}"
    for by, one in forecasts:
        yield _told_forecast(by, one)
    for one in rare:
        passed = ", ".join(f"pass@{k} {value.value:.3f}" for k, value in one.passed.items())
        yield (
            f"{one.task} [{one.series}] {one.name} ({one.size:.3g}): {one.rate.value:.4f} [{one.rate.low:.4f}, {one.rate.high:.4f}] "
            f"right a draw, {one.questions} questions × {one.draws} draws; {passed}"
        )


def experiment_of(
    study: Study, forecasts: Sequence[tuple[str, Forecast]] = (), rare: Sequence[Rare] = (), *, source: str
) -> Experiment:
    """With a figure of each of the most striking curves, of each forecast, and of rare successes by size."""
    factor = 10 ** next((one.found.limit for one in study.curves if one.found.verdict != "few"), 1.0)
    tables = [Table(name="curves", title=("Every curve", "每条曲线"), columns=CURVE_COLUMNS, rows=[_curve_row(one) for one in study.curves])]  # fmt: skip
    if study.pairs:
        title = ("Does a jump survive partial credit?", "给部分分之后跃升还在吗？")
        tables.append(
            Table(name="pairs", title=title, columns=PAIR_COLUMNS, rows=[_pair_row(one) for one in study.pairs])
        )
    if forecasts:
        rows = [row for by, one in forecasts for row in _forecast_rows(by, one)]
        tables.append(Table(name="forecasts", title=("Forecasts", "预测"), columns=FORECAST_COLUMNS, rows=rows))
    if rare:
        title = ("Rare successes, by drawing many answers", "多次采样见到的罕见成功")
        tables.append(Table(name="rare", title=title, columns=RARE_COLUMNS, rows=[_rare_row(one) for one in rare]))
    return Experiment(
        name="emergence",
        title=(f"Emergence in {source}", f"涌现：{source}"),
        method=_method(factor),
        n=f"{len(study.curves)} curves, {min(len(one.curve.x_R) for one in study.curves)} to {max(len(one.curve.x_R) for one in study.curves)} points each; {study.draws} or more draws",
        seeds=[study.seed],
        failure=(
            "Jumps found in curves that are smooth by construction more often than in 5% of searches; a jump of an all-or-nothing score "
            "called real although partial credit rises smoothly in the same data.",
            "在按构造是平滑的曲线里，超过 5% 的搜索报出跃升；或者部分分平滑上升，却把“全对才算”的跃升说成真的。",
        ),
        findings=_findings(study, forecasts),
        figures=[
            *_pair_figures(study.pairs),
            *_curve_figures(study),
            *_forecast_figures(forecasts),
            *_rare_figures(rare),
        ],
        tables=tables,
        facts=facts_of(study, forecasts, rare),
    )


# --------------------------------------------------------------------------------------------------------------- rows


def _curve_row(one: Studied) -> tuple[Cell, ...]:
    found = one.found
    at_low, at_high = (10**u for u in found.interval(found.middle_D))
    low, high = (10**u for u in found.interval(found.width_D))
    searched = found.verdict != "few" and one.curve.metric.kind != "no ability"
    line, step = one.linearity, one.breakthroughness
    return (
        *(one.curve.task, one.curve.metric.name, one.curve.series, len(one.curve.x_R), one.curve.questions),
        *(line.value, line.low, line.high, one.linearity_share),
        *(step.value, step.low, step.high, one.breakthroughness_bounded, step.by_chance),
        "not searched" if one.curve.metric.kind == "no ability" else VERDICTS[found.verdict],
        *((found.gain, 10**found.middle, at_low, at_high) if searched else (None,) * 4),
        *((10**found.width, low, high) if searched else (None,) * 3),
        *((found.p_rise, found.p_jump, found.p_jump_adjusted) if searched else (None,) * 3),
    )


def _pair_row(one: Pair) -> tuple[Cell, ...]:
    return (
        *(one.whole.curve.task, one.whole.curve.series, one.whole.curve.metric.name, one.graded.curve.metric.name),
        *(VERDICTS[one.whole.found.verdict], VERDICTS[one.graded.found.verdict], one.survival.verdict),
        *(one.survival.early, one.survival.low, one.survival.high),
    )


def _rare_row(one: Rare) -> tuple[Cell, ...]:
    return (
        *(one.task, one.series, one.name, one.size, one.questions, one.draws),
        *(one.rate.value, one.rate.low, one.rate.high, one.resolution),
    )


def _forecast_rows(by: str, one: Forecast) -> Iterator[tuple[Cell, ...]]:
    for at in range(len(one.x_P)):
        values = (float(part[at]) for part in (one.x_P, one.actual_P, one.value_P, one.low_P, one.high_P))
        yield (one.task, one.metric, by, one.names[at], *values)


def _forecast_facts(by: str, one: Forecast) -> dict[str, Any]:
    return {
        "task": one.task,
        "metric": one.metric,
        "by": by,
        "border": one.border,
        "fitted": one.fitted,
        "forecast": len(one.x_P),
        "error": one.error,
        "bias": one.bias,
        "naive_error": one.naive_error,
        "covered": one.covered,
        "models": [dict(zip(FORECAST_COLUMNS, row, strict=True)) for row in _forecast_rows(by, one)],
    }


def _points(curve: Curve) -> dict[str, Any]:
    return {
        "x": curve.x_R.tolist(),
        "y": curve.y_R.tolist(),
        "error": curve.error_R.tolist(),
        "models": list(curve.names),
    }


def _interval(value: Estimate) -> dict[str, float]:
    return {"value": value.value, "low": value.low, "high": value.high}


# -------------------------------------------------------------------------------------------------------------- words


def _most_striking(study: Study) -> list[Studied]:
    """Pairs first, then jumps, then by how far breakthroughness exceeds chance."""
    paired = {id(half) for pair in study.pairs for half in (pair.whole, pair.graded)}

    def key(one: Studied) -> tuple[bool, bool, bool, float]:
        above = one.breakthroughness.value / max(one.breakthroughness.by_chance, 1e-9)
        no_ability = one.curve.metric.kind == "no ability"
        return (no_ability, one.found.verdict != "jump", id(one) not in paired, -above if math.isfinite(above) else 0.0)

    return sorted(study.curves, key=key)


def _named(curve: Curve) -> str:
    return curve.task + (f" [{curve.series}]" if curve.series else "")


def _told(found: Break) -> str:
    if found.verdict in ("few", "level"):
        return VERDICTS[found.verdict]
    (at_low, at_high), (low, high) = (found.interval(values) for values in (found.middle_D, found.width_D))
    return (
        f"{VERDICTS[found.verdict]}: +{found.gain:.3g}, half at {10**found.middle:.2g} [{10**at_low:.2g}, {10**at_high:.2g}], within a "
        f"factor of {10**found.width:.3g} [{10**low:.3g}, {10**high:.3g}]; p {found.p_jump_adjusted:.3g}"
    )


def _told_pair(one: Pair) -> str:
    whole, graded = one.whole.curve, one.graded.curve
    early = ""
    if math.isfinite(one.survival.early):
        early = f"; {one.survival.early:.0%} [{one.survival.low:.0%}, {one.survival.high:.0%}] of the graded gain comes before {whole.metric.name} begins to rise"
    return f"{_named(whole)}: jump of {whole.metric.name} survives {graded.metric.name}: {one.survival.verdict}{early}"


def _told_forecast(by: str, one: Forecast) -> str:
    return (
        f"forecast of {one.task} ({one.metric}) by {by}: {len(one.x_P)} models from {one.fitted}; error {one.error:.3f} on average "
        f"(bias {one.bias:+.3f}; without growth {one.naive_error:.3f}), {one.covered} of {len(one.x_P)} within 95%"
    )


def _findings(study: Study, forecasts: Sequence[tuple[str, Forecast]]) -> list[Words]:
    searched = [one for one in study.curves if one.found.verdict != "few" and one.curve.metric.kind != "no ability"]
    jumps = [one for one in searched if one.found.verdict == "jump"]
    names = ", ".join(f"{_named(one.curve)} ({one.curve.metric.name})" for one in jumps[:5])
    found: list[Words] = [
        (
            f"{len(jumps)} of {len(searched)} curves that could be searched jump" + (f": {names}." if jumps else "."),
            f"可检验的 {len(searched)} 条曲线中，{len(jumps)} 条有跃升" + (f"：{names}。" if jumps else "。"),
        )
    ]
    found += [
        (
            f"{_named(one.whole.curve)}: {one.whole.curve.metric.name} beside {one.graded.curve.metric.name}: {SURVIVES[one.survival.verdict][0]}.",
            f"{_named(one.whole.curve)}：{one.whole.curve.metric.name} 对照 {one.graded.curve.metric.name}，{SURVIVES[one.survival.verdict][1]}。",
        )
        for one in [pair for pair in study.pairs if pair.survival.verdict != "no jump"][:TOLD]
    ]
    if not any(one.found.verdict == "jump" and one not in study.alone for one in study.curves) and study.pairs:
        found.append(("No score with a graded metric beside it jumps.", "有部分分可对照的分数都没有跃升。"))
    for by, one in forecasts:
        found.append(
            (
                _told_forecast(by, one) + ".",
                f"按{by}预测 {one.task}（{one.metric}）：平均误差 {one.error:.3f}，{one.covered}/{len(one.x_P)} 落在 95% 区间内。",
            )
        )
    return found


def _method(factor: float) -> Words:
    return (
        "Linearity and breakthroughness as in arXiv:2206.04615, appendix B. A break: the best logistic curve in log x of any width, against "
        f"the best whose rise from 10% to 90% takes a factor of {factor:.3g} or more; p by parametric bootstrap, Holm over all curves. "
        "Graded: the share of the graded gain that lies before the all-or-nothing score begins to rise. See docs/emergence.md.",
        f"线性度与突破度按 arXiv:2206.04615 附录 B。断点：以 log x 的任意宽度 logistic 曲线，对照 10% 到 90% 至少跨 {factor:.3g} 倍的最佳曲线；"
        "p 值由参数自助法得出，对全部曲线作 Holm 校正。部分分：全对分数开始上升之前，部分分已得到的增益份额。见 docs/emergence.md。",
    )


# ------------------------------------------------------------------------------------------------------------- figures


def _pair_figures(pairs: Sequence[Pair]) -> Iterator[Figure]:
    """Both scores of a pair as shares of what they gain, jumps first."""
    order = sorted(pairs, key=lambda one: one.survival.verdict == "no jump")
    for number, one in enumerate(order[: DRAWN // 2], 1):
        lines = [
            Line(label=half.metric.name, x=half.x_R.tolist(), y=_gained(half).tolist(), mark="both")
            for half in (one.whole.curve, one.graded.curve)
        ]
        name = f"{_named(one.whole.curve)}: {one.whole.curve.metric.name}, {one.graded.curve.metric.name}"
        english, chinese = SURVIVES[one.survival.verdict]
        yield Figure(
            name=f"pair-{number}",
            title=(f"{name}: {english}", f"{name}：{chinese}"),
            x_label=AXES[one.whole.curve.axis],
            y_label=("share of its gain", "占自身增益的份额"),
            lines=lines,
            x_log=True,
        )


def _gained(curve: Curve) -> Floats:
    y = curve.judged_R
    return (y - y.min()) / max(float(np.ptp(y)), 1e-12)


def _curve_figures(study: Study) -> Iterator[Figure]:
    for number, one in enumerate(_most_striking(study)[:DRAWN], 1):
        curve = one.curve
        name = f"{curve.task}, {curve.metric.name}" + (f", {curve.series}" if curve.series else "")
        lines = [_measured(curve)]
        if one.found.verdict not in ("few", "level"):
            x = np.geomspace(curve.x_R.min(), curve.x_R.max(), 80)
            y = one.found.fitted(x) * (1 if curve.metric.more_is_better else -1)
            y = np.exp(y) if curve.metric.as_log else y
            lines.append(Line(label="best curve", x=x.tolist(), y=y.tolist(), mark="dashed"))
        yield Figure(
            name=f"curve-{number}",
            title=(name, name),
            x_label=AXES[curve.axis],
            y_label=(curve.metric.name, curve.metric.name),
            lines=lines,
            x_log=True,
            y_log=curve.metric.as_log,
        )


def _measured(curve: Curve) -> Line:
    x, y = curve.x_R.tolist(), curve.y_R.tolist()
    if not curve.error_R.any():
        return Line(label="measured", x=x, y=y, mark="points")
    reach = 1.96 * curve.error_R
    return Line(
        label="measured",
        x=x,
        y=y,
        low=np.maximum(curve.y_R - reach, curve.metric.low).tolist(),
        high=np.minimum(curve.y_R + reach, curve.metric.high).tolist(),
        mark="points",
    )


def _forecast_figures(forecasts: Sequence[tuple[str, Forecast]]) -> Iterator[Figure]:
    for number, (by, one) in enumerate(forecasts, 1):
        order = np.argsort(one.x_P, kind="stable")
        x = one.x_P[order].tolist()
        yield Figure(
            name=f"forecast-{number}",
            title=(f"Forecast of {one.task} by {by}", f"按{by}预测 {one.task}"),
            x_label=(by, by),
            y_label=(one.metric, one.metric),
            lines=[
                Line(
                    label="forecast",
                    x=x,
                    y=one.value_P[order].tolist(),
                    low=one.low_P[order].tolist(),
                    high=one.high_P[order].tolist(),
                ),
                Line(label="measured", x=x, y=one.actual_P[order].tolist(), mark="points"),
            ],
            x_log=by != "capability",
        )


def _rare_figures(rare: Sequence[Rare]) -> Iterator[Figure]:
    kinds = dict.fromkeys((one.task, one.series) for one in rare)
    for number, (task, series) in enumerate(list(kinds)[:DRAWN], 1):
        own = [one for one in rare if (one.task, one.series) == (task, series)]
        ks = sorted({k for one in own for k in one.passed})
        name = f"{task}, {series}" if series else task
        yield Figure(
            name=f"rare-{number}",
            title=(f"{name}: right in one of k draws", f"{name}：k 次采样中至少一次答对"),
            x_label=AXES["size"],
            y_label=("share of questions", "题目占比"),
            lines=[
                estimates_line(
                    f"k = {k}",
                    [one.size for one in own if k in one.passed],
                    [one.passed[k] for one in own if k in one.passed],
                    "both",
                )
                for k in ks
            ],
            x_log=True,
        )
