"""The report's section on gain and forgetting: what going on from the base did, figure by figure, pair by pair."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dunwu.build.report_verdict import Finding, kind_label, stage_label
from dunwu.core.page.html import Html, both, el, figure, interval, join, p_value, percent, table, untrusted
from dunwu.core.page.plots import span_plot
from dunwu.core.units import format_count
from dunwu.evaluate.forgetting import DOMAIN, EXAM, GENERAL, Scorecard, ScorecardRow

_SIGNS = {"better": ("good", "▲"), "worse": ("bad", "▼"), "same": ("muted", "·")}


def forgetting_section(
    scorecard: Scorecard | None, pretrain: Mapping[str, Any], tokenizer: Mapping[str, Any]
) -> Html | None:
    """The scorecard as two tables, text and exam. `pretrain`, `tokenizer`: the facts of these stages; empty where absent."""
    if scorecard is None or not scorecard.rows:
        return None
    en = "Before is the base, after is this build's model, on the same documents and questions, none of which it learned from here. Changes are taken pair by pair."
    zh = "“之前”为基座模型，“之后”为本次构建的模型，文档与题目相同，且均未用于此处训练。变化按配对逐一计算。"
    figures = list(dict.fromkeys(row.figure for row in scorecard.rows))
    rows = sorted(scorecard.rows, key=lambda row: figures.index(row.figure))
    text = [row for row in rows if not row.figure.startswith(EXAM)]
    exam = [row for row in rows if row.figure.startswith(EXAM)]
    return join(
        [
            el("p", both("It goes on from ", "基座："), el("strong", untrusted(scorecard.base)), ". ", both(en, zh)),
            _text_table(text) if text else None,
            _exam_table(exam) if exam else None,
            _how(pretrain, tokenizer),
        ]
    )


def forgetting_findings(scorecard: Scorecard | None) -> list[Finding]:
    """What was gained on the domain and what was lost elsewhere, for the finished model."""
    if scorecard is None or not scorecard.rows:
        return []
    last = scorecard.rows[-1].stage
    found = [_text_finding(row) for row in scorecard.rows if row.stage == last and not row.figure.startswith(EXAM)]
    exam = [row for row in scorecard.rows if row.stage == last and row.figure.startswith(EXAM)]
    return [*found, _exam_finding(exam)] if exam else found


def _text_finding(row: ScorecardRow) -> Finding:
    change, before, after = row.change, figure(row.before.value), figure(row.after.value)
    limits = f" [{figure(change.low)}, {figure(change.high)}]" if math.isfinite(change.low) else ""
    share = abs(change.value) / row.before.value if row.before.value else math.nan
    domain = row.figure == DOMAIN
    where, where_zh = ("the domain's text", "领域文本") if domain else ("general text", "通用文本")
    plus = "+" if change.value > 0 else ""
    shown = f"{before} → {after} bits per byte, {plus}{figure(change.value)}{limits}"
    shown_zh = f"每字节 {before} → {after} 比特，变化 {plus}{figure(change.value)}{limits}"
    en = {
        "better": f"Against its base it predicts {where} better by {percent(share, 1)}: {shown}.",
        "worse": f"Against its base it predicts {where} worse by {percent(share, 1)}: {shown}."
        + ("" if domain else " That is what it forgot; a larger replay.share or a smaller pretrain.rewarm keeps more."),
        "same": f"On {where} {change.n} documents show no clear change against its base: {shown}.",
    }
    zh = {
        "better": f"与基座相比，对{where_zh}的预测改善 {percent(share, 1)}：{shown_zh}。",
        "worse": f"与基座相比，对{where_zh}的预测变差 {percent(share, 1)}：{shown_zh}。"
        + ("" if domain else "这就是遗忘；提高 replay.share 或降低 pretrain.rewarm 可减轻。"),
        "same": f"在{where_zh}上，{change.n} 篇文档看不出与基座的明确差别：{shown_zh}。",
    }
    outcome = {"better": "good", "worse": "bad", "same": "open" if domain else "good"}[row.direction]
    if not math.isfinite(change.low):
        outcome = "open"
    return Finding(outcome=outcome, text=both(en[row.direction], zh[row.direction]))  # pyright: ignore[reportArgumentType]


def _exam_finding(rows: Sequence[ScorecardRow]) -> Finding:
    better, worse = (sum(row.direction == side for row in rows) for side in ("better", "worse"))
    en = f"Of {len(rows)} kinds of exam question, {better} went better than with the base and {worse} worse."
    zh = f"{len(rows)} 类考题中，{better} 类好于基座，{worse} 类变差。"
    return Finding(outcome="bad" if worse else "good" if better else "open", text=both(en, zh))


def _text_table(rows: Sequence[ScorecardRow]) -> Html:
    reach = _reach(rows)
    header = [
        both("Held-out text", "留出文本"),
        _scale(reach, both("better", "变好"), both("worse", "变差")),
    ]
    header += [both("before", "之前"), both("after", "之后"), both("change", "变化"), both("95% interval", "95% 区间")]
    header += [both("documents", "文档数"), "p"]
    body = [
        [
            _text_label(row),
            _plot(row, reach),
            figure(row.before.value),
            figure(row.after.value),
            _marked(row, figure(row.change.value)),
            interval(row.change.low, row.change.high),
            f"{row.change.n:,}",
            p_value(row.change.p_value),
        ]
        for row in rows
    ]
    unit = both("Bits per byte: fewer is better, whatever the vocabulary.", "每字节比特数，越少越好，与词表无关。")
    grid = el("div", table(header, body, numeric=range(2, 8)), class_="plotted gain")
    return join([grid, el("p", unit, class_="muted")])


def _exam_table(rows: Sequence[ScorecardRow]) -> Html:
    reach = _reach(rows)
    header = [both("Exam", "考试"), _scale(reach, both("worse", "变差"), both("better", "变好"))]
    header += [
        both("before", "之前"),
        both("after", "之后"),
        both("change, points", "变化（百分点）"),
        both("95% interval", "95% 区间"),
    ]
    header += [both("questions", "题数"), "p"]
    body = [
        [
            join([el("strong", kind_label(row.figure.removeprefix(EXAM))), _after(row)]),
            _plot(row, reach),
            percent(row.before.value),
            percent(row.after.value),
            _marked(row, figure(100 * row.change.value, 0)),
            interval(100 * row.change.low, 100 * row.change.high, 0),
            f"{row.change.n:,}",
            p_value(row.change.p_value),
        ]
        for row in rows
    ]
    note = both(
        "Exact tests on the same questions (McNemar), adjusted for the number of kinds (Holm).",
        "同一批题的精确检验（McNemar），已按类型数校正（Holm）。",
    )
    grid = el("div", table(header, body, numeric=range(2, 8)), class_="plotted gain")
    return join([grid, el("p", note, class_="muted")])


def _text_label(row: ScorecardRow) -> Html:
    names = {DOMAIN: ("domain", "领域", "first"), GENERAL: ("general", "通用", "second")}
    en, zh, tone = names[row.figure]
    return join([el("span", el("span", both(en, zh)), class_=f"key {tone}"), _after(row)])


def _after(row: ScorecardRow) -> Html:
    return el("small", both("after ", ""), stage_label(row.stage), both("", "之后"))


def _plot(row: ScorecardRow, reach: float) -> Html:
    tone = {DOMAIN: "first", GENERAL: "second"}.get(row.figure, "third")
    change = row.change
    return span_plot(change.value, change.low, change.high, begin=-reach, end=reach, tone=tone, mark=0.0)


def _reach(rows: Sequence[ScorecardRow]) -> float:
    """How far from no change the axis goes, both ways alike."""
    ends = [abs(x) for row in rows for x in (row.change.value, row.change.low, row.change.high) if math.isfinite(x)]
    return 1.08 * max(ends, default=1.0) or 1.0


def _scale(reach: float, left: Html, right: Html) -> Html:
    return el("span", el("span", "◂ ", left), el("span", "0"), el("span", right, " ▸"), class_="scale")


def _marked(row: ScorecardRow, shown: str) -> Html:
    class_, sign = _SIGNS[row.direction]
    plus = "+" if row.change.value > 0 else ""
    return el("span", f"{sign} {plus}{shown}", class_=class_)


def _how(pretrain: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> Html | None:
    """How the base was trained further: tokens, replay, new tokens, frozen parameters."""
    if not pretrain:
        return None
    en = [f"{format_count(pretrain['tokens'])} tokens were learned"]
    zh = [f"学习 {format_count(pretrain['tokens'])} 个词元"]
    if replayed := pretrain.get("replayed_tokens"):
        en.append(f"{replayed / pretrain['tokens']:.0%} of them replayed general text")
        zh.append(f"其中 {replayed / pretrain['tokens']:.0%} 为重放的通用文本")
    if added := tokenizer.get("added_tokens"):
        en.append(f"{added:,} tokens were added to the vocabulary ({_bytes_a_token(tokenizer)} bytes a token)")
        zh.append(f"词表新增 {added:,} 个词元（每词元字节数：{_bytes_a_token(tokenizer)}）")
    if frozen := pretrain.get("frozen"):
        en.append(f"{format_count(frozen)} of {format_count(pretrain['parameters'])} parameters were frozen")
        zh.append(f"{format_count(pretrain['parameters'])} 个参数中冻结 {format_count(frozen)} 个")
    return el("p", both("; ".join(en) + ".", "；".join(zh) + "。"), class_="muted")


def _bytes_a_token(tokenizer: Mapping[str, Any]) -> str:
    before, after = tokenizer.get("base_bytes_per_token_by_language", {}), tokenizer["bytes_per_token_by_language"]
    return ", ".join(
        f"{language or '?'} {before[language]:.2f} → {value:.2f}"
        for language, value in after.items()
        if language in before
    )
