"""The report's sections on learning from judgements: the alignment card, the curves of reinforcement learning, the doctor's findings."""

from collections.abc import Mapping, Sequence
from typing import Any

from dunwu.align.card.record import AlignmentCard, CardRow, meaning
from dunwu.align.doctor.finding import Finding as Seen
from dunwu.build.report_charts import thin_series
from dunwu.build.report_verdict import Finding, Outcome, kind_label, stage_label
from dunwu.core.page.html import Html, both, el, figure, interval, join, p_value, percent, shares, table, untrusted

FIGURES_ZH: Mapping[str, str] = {
    "reward": "留出提示上的奖励",
    "win_rate": "胜率",
    "refusal.sound": "拒答合理问题",
    "refusal.false_premise": "接受错误前提",
    "refusal.by_words": "像拒答的回答",
    "bits_per_byte": "留出文本每字节比特",
    "diversity.distinct_1": "同一提示各回答中不同词元的比例",
    "diversity.distinct_2": "其中不同词元对的比例",
    "diversity.edit_distance": "其间的编辑距离",
    "diversity.entropy": "采样时的熵",
    "length": "回答长度",
    "ended": "自行结束的回答",
}
GROUPS: Sequence[tuple[str, str, str]] = (
    ("reward", "Reward", "奖励"),
    ("win_rate", "Against the model before", "与之前模型相比"),
    ("refusal", "Refusals", "拒答"),
    ("exam", "Exam", "考试"),
    ("bits_per_byte", "The tax: plain text", "代价：普通文本"),
    ("diversity", "Diversity of sampled answers", "采样回答的多样性"),
    ("form", "Form", "形式"),
)
UNITS_ZH = {"share": "比例", "points": "分", "tokens": "词元", "bits/byte": "比特/字节", "nats/token": "奈特/词元"}
JUDGES_ZH = {"the exam's rules": "考试规则", "the reward": "奖励"}
REFUSALS_ZH = {"rules of the small world": "小世界的规则", "words of refusal": "拒答用语"}

SEVERITIES = {"note": ("note", "提示"), "warning": ("warning", "警告"), "lost": ("lost", "无法挽回")}
NAMES_ZH: Mapping[str, str] = {
    "not finite": "非有限值",
    "groups without variance": "组内无差异",
    "collapsed entropy": "熵塌缩",
    "exploding entropy": "熵爆炸",
    "rising length": "回答变长",
    "falling length": "回答变短",
    "missing end of turn": "缺少结束符",
    "KL runs away": "KL 失控",
    "reward up, held-out score down": "奖励升而留出分数降",
    "one part of the reward against another": "奖励分项此消彼长",
    "engine and trainer differ": "引擎与训练器不一致",
    "ratios too wide": "概率比过大",
    "value function explains nothing": "价值函数无解释力",
    "learning rate too high": "学习率过高",
    "no learning": "没有学到东西",
    "reward falls": "奖励下降",
    "reward saturated": "奖励饱和",
    "batches skipped": "跳过批次",
}
CHARTS: Sequence[tuple[str, str, str]] = (
    ("reward", "Mean reward; dots: prompts that were kept out", "平均奖励；圆点为留出提示"),
    ("kl", "Divergence from the reference, nats an answer", "与参考模型的 KL（奈特/回答）"),
    ("entropy", "Entropy, nats a token", "熵（奈特/词元）"),
    ("answer_tokens", "Length of an answer, tokens", "回答长度（词元）"),
    ("ended", "Share of answers that end by themselves", "自行结束的回答比例"),
    ("groups_without_variance", "Share of prompts whose answers all score alike", "各回答得分相同的提示比例"),
    ("ratio_clipped", "Share of tokens that were clipped", "被裁剪的词元比例"),
    ("explained_variance", "Variance that the value function explains", "价值函数解释的方差"),
)
_TONES = {"better": "good", "worse": "bad"}


# ------------------------------------------------------------------------------------------------------------ the card


def card_section(card: AlignmentCard | None) -> Html | None:
    """A line a figure, a column a model, each later one beside the first."""
    if card is None or not card.rows:
        return None
    header = ["", *(stage_label(stage) for stage in card.stages)]
    header += [both("change", "变化"), both("95% interval", "95% 区间"), "p", "n"]
    rows: list[list[Html | str]] = []
    for key, en, zh in GROUPS:
        names = [name for name in card.figures if _group(name) == key]
        rows += [[el("strong", both(en, zh)), *[""] * (len(header) - 1)]] if names else []
        rows += [_figure_row(card, name) for name in names]
    grid = table(header, rows, numeric=range(1, len(header)))
    return join([el("p", _how(card)), el("div", grid, class_="card")])


def _group(name: str) -> str:
    return "form" if name in ("length", "ended") else name.partition(".")[0]


def _how(card: AlignmentCard) -> Html:
    against = stage_label(card.against)
    en = [
        f"Each model answered the same {card.prompts:,} prompts; changes since ",
        against,
        " are paired, and their p-values adjusted for looking at all figures of a model. ",
        f"Who wins is decided by {card.judge}; a tie counts one half. " if card.judge else "",
        f"Refusals are told by {card.refusals_by}. "
        f"Diversity: {card.samples} answers at temperature 1 to each of {card.sampled:,} prompts.",
    ]
    zh = [
        f"各模型回答相同的 {card.prompts:,} 个提示；相对",
        against,
        "的变化为配对比较，p 值已按每个模型的全部指标校正。",
        f"胜负由{JUDGES_ZH.get(card.judge, card.judge)}判定，平局计一半。" if card.judge else "",
        f"拒答按{REFUSALS_ZH.get(card.refusals_by, card.refusals_by)}判定。"
        f"多样性：对 {card.sampled:,} 个提示各以温度 1 采样 {card.samples} 个回答。",
    ]
    return both(join(en), join(zh))


def _figure_row(card: AlignmentCard, name: str) -> list[Html | str]:
    found = [card.row(name, stage) for stage in card.stages]
    last = next(row for row in reversed(found) if row is not None)
    change = last.change
    return [
        join([_label(name), el("small", " ", _unit(last.score.unit))]),
        *(_cell(row) for row in found),
        _changed(last),
        "" if change is None else interval(change.low, change.high, _digits(last)),
        "" if change is None else p_value(change.p_value),
        f"{last.score.n:,}",
    ]


def _label(name: str) -> Html:
    if name.startswith("exam."):
        return kind_label(name.removeprefix("exam."))
    if name.startswith("reward."):
        part = untrusted(name.removeprefix("reward."))
        return both(join(["its part ", part]), join(["分项 ", part]))
    return both(meaning(name)[0], FIGURES_ZH.get(name, name))


def _unit(unit: str) -> Html:
    return both(unit, UNITS_ZH.get(unit, unit))


def _digits(row: CardRow) -> int:
    return 1 if row.score.unit == "tokens" else 3


def _cell(row: CardRow | None) -> Html:
    if row is None:
        return Html("")
    limits = interval(row.score.low, row.score.high, _digits(row))
    value = el("span", figure(row.score.value, _digits(row)), class_=_TONES.get(row.direction))
    return join([value, el("small", limits, class_="limits")])


def _changed(row: CardRow) -> Html | str:
    if row.change is None:
        return ""
    value = figure(row.change.value, _digits(row))
    return el("span", value if value.startswith("−") else f"+{value}", class_=_TONES.get(row.direction))


# --------------------------------------------------------------------------------------------------------- the verdict


def card_findings(card: AlignmentCard | None, seen: Sequence[Seen]) -> list[Finding]:
    """Who wins, what it cost, what is refused, and whether a run was lost."""
    found = [_lost(one) for one in seen if one.severity == "lost"]
    if card is None or not card.stages:
        return found
    last = card.stages[-1]
    rows = {name: row for name in card.figures if (row := card.row(name, last)) is not None and row.change is not None}
    found += [_won(rows["win_rate"], card)] if "win_rate" in rows else []
    found += [_tax(rows["bits_per_byte"])] if "bits_per_byte" in rows else []
    wrong = [row for name, row in rows.items() if name.startswith("refusal.") and row.direction == "worse"]
    return found + [_refused(row) for row in wrong]


def _lost(one: Seen) -> Finding:
    name, name_zh = one.name, NAMES_ZH.get(one.name, one.name)
    return Finding(
        outcome="bad",
        text=both(
            join([f"Reinforcement learning was stopped, {name} since step {one.step:,}: ", untrusted(one.says)]),
            join([f"强化学习已停止（{name_zh}，自第 {one.step:,} 步起）：", untrusted(one.says)]),
        ),
    )


def _outcome(row: CardRow, same: Outcome = "open") -> Outcome:
    if row.direction == "better":
        return "good"
    return "bad" if row.direction == "worse" else same


def _won(row: CardRow, card: AlignmentCard) -> Finding:
    share, limits = percent(row.score.value, 1), shares(row.score.low, row.score.high)
    en = join(
        [f"Its answers win {share} (95% interval {limits}; 50% is a tie) against those after ", stage_label(card.against),
         f", by {card.judge}, over {row.score.n:,} questions."]
    )  # fmt: skip
    zh = join(
        ["与", stage_label(card.against), f"之后的回答相比，胜率 {share}（95% 区间 {limits}；50% 为平局），由"
         f"{JUDGES_ZH.get(card.judge, card.judge)}判定，共 {row.score.n:,} 题。"]
    )  # fmt: skip
    return Finding(outcome=_outcome(row), text=both(en, zh))


def _tax(row: CardRow) -> Finding:
    assert row.change is not None
    limits = f"[{figure(row.change.low)}, {figure(row.change.high)}]"
    change = figure(row.change.value)
    en = {
        "worse": f"Learning from judgements cost it {change} bits a byte on plain text {limits}: the alignment tax.",
        "better": f"Learning from judgements cost it nothing on plain text: {change} bits a byte {limits}.",
    }
    zh = {
        "worse": f"从评判中学习使普通文本每字节多用 {change} 比特 {limits}：即对齐税。",
        "better": f"从评判中学习未损害普通文本：每字节 {change} 比特 {limits}。",
    }
    plain = (
        f"What learning from judgements cost on plain text cannot be told from nothing: {change} bits a byte {limits}."
    )
    plain_zh = f"从评判中学习对普通文本的影响看不出来：每字节 {change} 比特 {limits}。"
    return Finding(
        outcome=_outcome(row, "good"), text=both(en.get(row.direction, plain), zh.get(row.direction, plain_zh))
    )


def _refused(row: CardRow) -> Finding:
    value = percent(row.score.value, 1)
    en = f"More often than before it is wrong in this: {meaning(row.figure)[0]}, {value} now."
    zh = f"此类错误比之前更多：{FIGURES_ZH[row.figure]}，现为 {value}。"
    return Finding(outcome="bad", text=both(en, zh))


# ---------------------------------------------------------------------------------------------------------- the curves


def rl_section(steps: Sequence[Mapping[str, Any]], seen: Sequence[Seen], facts: Mapping[str, Any]) -> Html | None:
    """Curves over the steps, the doctor's findings marked on them, and what became of the prompts that were kept out."""
    if not steps:
        return None
    parts = [name for name in _names(steps) if name.startswith("reward.")]
    charts = [*CHARTS[:1], *((name, name, name) for name in (parts if len(parts) > 1 else [])), *CHARTS[1:]]
    plots = [
        el(
            "figure",
            el("figcaption", both(en, zh) if en != name else untrusted(name.removeprefix("reward."))),
            el(
                "div",
                class_="chart",
                data_stage="rl",
                data_series=name,
                data_dots="held_out_score" if name == "reward" else f"held_out_{name}" if name in parts else None,
                role="img",
                aria_label=f"rl: {en}",
            ),
            class_="chart-loss" if name == "reward" else None,
        )
        for name, en, zh in charts
        if any(name in row for row in steps)
    ]
    hint = both(
        "Over steps. The band holds every step, the line is its mean; numbers mark what the doctor found.",
        "横轴为步数。色带包含每一步，线为均值；数字标出诊断结果。",
    )
    return join([_kept(facts), el("p", hint), el("div", *plots, class_="charts"), _findings_list(seen)])


def rl_curves(steps: Sequence[Mapping[str, Any]], seen: Sequence[Seen]) -> dict[str, Any]:
    """What the page's script draws."""
    names = [name for name in _names(steps) if name.startswith(("reward", "held_out")) or name in _DRAWN]
    marks = [{"step": one.step, "severity": one.severity, "number": number} for number, one in enumerate(seen, 1)]
    return {**thin_series(steps, names), "marks": marks}


_DRAWN = {name for name, _, _ in CHARTS}


def _names(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in steps for name in row))


def _kept(facts: Mapping[str, Any]) -> Html | None:
    held_out = facts.get("held_out")
    if not held_out:
        return None
    change, before, after = held_out["change"], figure(held_out["before"]), figure(held_out["after"])
    limits = "" if change["low"] is None else f" [{figure(change['low'])}, {figure(change['high'])}]"
    kept, kept_step = facts["kept"] == "best", f"{facts['kept_step']:,}"
    en = f"On {change['n']:,} prompts that were kept out the reward went {before} → {after}, change {figure(change['value'])}{limits}. "
    en += (
        f"The weights kept are the best, those of step {kept_step}."
        if kept
        else f"The weights kept are the last, of step {kept_step}."
    )
    zh = f"在 {change['n']:,} 个留出提示上，奖励 {before} → {after}，变化 {figure(change['value'])}{limits}。"
    zh += f"保留的是最好的权重（第 {kept_step} 步）。" if kept else f"保留的是最后的权重（第 {kept_step} 步）。"
    return el("p", both(en, zh))


def _findings_list(seen: Sequence[Seen]) -> Html:
    if not seen:
        return el("p", both("The doctor found nothing.", "诊断未发现问题。"))
    items = [
        el(
            "li",
            el("strong", both(one.name, NAMES_ZH.get(one.name, one.name))),
            el("span", both(*SEVERITIES[one.severity]), class_=f"severity {one.severity}"),
            el("small", both(f"since step {one.step:,}", f"自第 {one.step:,} 步")),
            el("p", untrusted(one.says), " ", el("span", untrusted(one.try_), class_="muted")),
        )
        for one in seen
    ]
    return join([el("h3", both("What the doctor found", "诊断结果")), el("ol", *items, class_="found")])
