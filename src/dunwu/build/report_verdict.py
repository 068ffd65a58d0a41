"""The verdict in plain words: each sentence says whether it is good news, bad news or not known, and on how much evidence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dunwu.core.page.html import Html, both, el, figure, percent, shares
from dunwu.core.records import Score
from dunwu.core.units import format_bytes
from dunwu.evaluate.results import BaselineScore, Comparison, Evaluation, ModelScores

Outcome = Literal["good", "bad", "open"]

STAGES = {
    "base": ("the base", "基座"),
    "corpus": ("corpus", "语料"),
    "replay": ("replayed text", "重放文本"),
    "tokenizer": ("tokenizer", "分词器"),
    "pretrain": ("pre-training", "预训练"),
    "sft": ("fine-tuning", "微调"),
    "prefer": ("learning preferences", "偏好学习"),
    "reward": ("reward model", "奖励模型"),
    "rl": ("reinforcement learning", "强化学习"),
    "evaluate": ("evaluation", "评测"),
    "report": ("report", "报告"),
}
BASELINES = {
    "xz": ("xz -9", "xz -9"),
    "xz_given_train": ("xz -9, given the training text", "xz -9（先给训练文本）"),
    "ngram_bytes": ("5-byte n-gram", "五字节 n 元模型"),
    "ngram_characters": ("5-character n-gram", "五字符 n 元模型"),
}
KINDS = {
    "recall": ("recall", "事实回忆"),
    "ownership": ("ownership", "归属"),
    "fits": ("does it fit?", "装得下吗"),
    "left": ("how many are left?", "还剩多少"),
    "premise": ("false premises", "错误前提"),
    "form": ("form of the answer", "回答格式"),
}
LANGUAGES = {"en": ("English", "英文"), "zh": ("Chinese", "中文"), "code": ("code", "代码"), "": ("unknown", "未知")}
ALPHA = 0.05
PASSED = 0.8


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One sentence of the verdict."""

    outcome: Outcome
    text: Html


def stage_label(name: str) -> Html:
    """What a stage is called."""
    return el("span", both(*STAGES.get(name, (name, name))), class_="nowrap")


def kind_label(name: str) -> Html:
    """What a kind of question is called."""
    return both(*KINDS.get(name, (name, name)))


def baseline_label(key: str) -> Html:
    """What a baseline is called."""
    return both(*BASELINES.get(key, (key, key)))


def language_label(code: str) -> Html:
    """What a language is called."""
    return both(*LANGUAGES.get(code, (code, code)))


def findings(evaluation: Evaluation) -> list[Finding]:
    """The verdict on all that was measured; empty when nothing was."""
    own = [model for model in evaluation.models if model.stage != "base"]  # the base stands in the scorecard
    measured = [model for model in own if model.bits_per_byte is not None]
    examined = [model for model in own if model.exam]
    found: list[Finding] = []
    if measured:
        found += _heldout_findings(measured[0], evaluation)
        found += [_finding_after(measured[0], model, evaluation.comparisons) for model in measured[1:]]
    if examined:
        found += _exam_findings(examined[-1], evaluation.comparisons)
    return found


def compare(model: ModelScores, baseline: BaselineScore, comparisons: Sequence[Comparison]) -> Outcome:
    """Whether the model needs fewer bits ("good"), more ("bad"), or the documents can't tell.

    Document by document where the baseline has documents; a compressor is one number, which the model's interval must clear.
    """
    own = model.bits_per_byte
    assert own is not None
    paired = next(
        (c for c in comparisons if (c.figure, c.before, c.after) == ("bits_per_byte", baseline.key, model.stage)), None
    )
    low, high = (
        (paired.low, paired.high) if paired else (own.low - baseline.score.value, own.high - baseline.score.value)
    )
    return "good" if high < 0 else "bad" if low > 0 else "open"


def _heldout_findings(model: ModelScores, evaluation: Evaluation) -> list[Finding]:
    own = model.bits_per_byte
    assert own is not None
    outcomes: dict[str, Outcome] = {b.key: compare(model, b, evaluation.comparisons) for b in evaluation.baselines}
    values = {b.key: b.score.value for b in evaluation.baselines}
    found = [_finding_xz(own, values["xz"], outcomes["xz"])] if "xz" in values else []
    ngrams = sorted((key for key in values if key.startswith("ngram")), key=lambda key: values[key])
    if ngrams:
        best = next(b for b in evaluation.baselines if b.key == ngrams[0])
        found.append(_finding_ngram(own, best, outcomes[best.key]))
    return found or [_finding_alone(own, evaluation)]


def _finding_alone(own: Score, evaluation: Evaluation) -> Finding:
    size = format_bytes(evaluation.heldout.bytes) if evaluation.heldout else ""
    en = f"Text it never saw costs {figure(own.value)} bits per byte{_range(own)} ({size}). No baseline was measured."
    zh = f"未见过的文本每字节需 {figure(own.value)} 比特{_range(own)}（{size}）。没有测基线。"
    return Finding(outcome="open", text=both(en, zh))


def _finding_xz(own: Score, value: float, outcome: Outcome) -> Finding:
    en = {
        "good": f"It predicts text it never saw better than xz -9 compresses it: {figure(own.value)} bits per byte{_range(own)} against {figure(value)}.",
        "bad": f"It predicts text it never saw worse than xz -9 compresses it: {figure(own.value)} bits per byte{_range(own)} against {figure(value)}. Train longer, or on more text.",
        "open": f"On text it never saw it can't be told apart from xz -9 with {own.n} documents: {figure(own.value)} bits per byte{_range(own)} against {figure(value)}.",
    }
    zh = {
        "good": f"它预测未见过的文本，好于 xz -9 的压缩：每字节 {figure(own.value)} 比特{_range(own)}，xz -9 为 {figure(value)}。",
        "bad": f"它预测未见过的文本，不如 xz -9 的压缩：每字节 {figure(own.value)} 比特{_range(own)}，xz -9 为 {figure(value)}。请延长训练或增加文本。",
        "open": f"{own.n} 篇文档不足以区分它与 xz -9：每字节 {figure(own.value)} 比特{_range(own)}，xz -9 为 {figure(value)}。",
    }
    return Finding(outcome=outcome, text=both(en[outcome], zh[outcome]))


def _finding_ngram(own: Score, baseline: BaselineScore, outcome: Outcome) -> Finding:
    value = baseline.score.value
    name, name_zh = BASELINES.get(baseline.key, (baseline.key, baseline.key))
    gap = f"{100 * abs(own.value / value - 1):.1f}%"
    part = "" if baseline.train_bytes == baseline.train_bytes_total else format_bytes(baseline.train_bytes)
    text, text_zh = (f"{part} of the same text", f"同样文本中的 {part} ") if part else ("the same text", "同样文本")
    en = {
        "good": f"It beats the {name} model, trained on {text}, by {gap} ({figure(value)} bits per byte).",
        "bad": f"The {name} model, trained on {text}, is better by {gap} ({figure(value)} bits per byte): this model is not yet worth its cost. Train longer, or on more text.",
        "open": f"Against the {name} model ({figure(value)} bits per byte) {own.n} documents do not decide.",
    }
    zh = {
        "good": f"它优于用{text_zh}训练的{name_zh}（每字节 {figure(value)} 比特），幅度 {gap}。",
        "bad": f"用{text_zh}训练的{name_zh}更好（每字节 {figure(value)} 比特），幅度 {gap}：这个模型还不值其代价。请延长训练或增加文本。",
        "open": f"与{name_zh}（每字节 {figure(value)} 比特）相比，{own.n} 篇文档不足以判定。",
    }
    return Finding(outcome=outcome, text=both(en[outcome], zh[outcome]))


def _finding_after(first: ModelScores, model: ModelScores, comparisons: Sequence[Comparison]) -> Finding:
    """What a later stage did to the held-out text that the findings before speak of: the finished model is that stage's."""
    before, own = first.bits_per_byte, model.bits_per_byte
    assert before is not None
    assert own is not None
    change = next(
        (c for c in comparisons if (c.figure, c.before, c.after) == ("bits_per_byte", first.stage, model.stage)), None
    )
    outcome: Outcome = "open" if change is None else "good" if change.high < 0 else "bad" if change.low > 0 else "open"
    (earlier, earlier_zh), (stage, stage_zh) = (STAGES.get(m.stage, (m.stage,) * 2) for m in (first, model))
    to = f"{figure(before.value)} → {figure(own.value)}"
    en = {
        "good": f"That was after {earlier}. After {stage} it predicts the same text better: {to} bits per byte.",
        "bad": f"That was after {earlier}. After {stage} it predicts the same text worse: {to} bits per byte.",
        "open": f"That was after {earlier}. After {stage} no difference can be told: {to} bits per byte.",
    }
    zh = {
        "good": f"以上为{earlier_zh}之后。{stage_zh}之后，它对同样文本的预测变好：每字节 {to} 比特。",
        "bad": f"以上为{earlier_zh}之后。{stage_zh}之后，它对同样文本的预测变差：每字节 {to} 比特。",
        "open": f"以上为{earlier_zh}之后。{stage_zh}之后看不出差别：每字节 {to} 比特。",
    }
    return Finding(outcome=outcome, text=both(en[outcome], zh[outcome]))


def _exam_findings(model: ModelScores, comparisons: Sequence[Comparison]) -> list[Finding]:
    kinds = len(model.exam)
    above = [row for row in model.exam if row.p_above_chance < ALPHA]
    passed = [row for row in model.exam if row.score.value >= PASSED]
    questions = sum(row.score.n for row in model.exam)
    en = f"Of {kinds} kinds of exam question ({questions} questions), {len(above)} are answered better than by guessing and {len(passed)} reach {PASSED:.0%}."
    zh = f"{kinds} 类考题（共 {questions} 题）中，{len(above)} 类显著高于随机猜测，{len(passed)} 类达到 {PASSED:.0%}。"
    outcome: Outcome = "good" if len(above) == kinds else "bad" if not above else "open"
    found = [Finding(outcome=outcome, text=both(en, zh))]
    gains = [c for c in comparisons if c.figure.startswith("exam.") and c.after == model.stage]
    if gains:
        found.append(_finding_gain(gains))
    if model.ended_turns is not None:
        found.append(_finding_turns(model.ended_turns))
    return found


def _finding_gain(gains: Sequence[Comparison]) -> Finding:
    better = sum(c.value > 0 and c.p_value < ALPHA for c in gains)
    worse = sum(c.value < 0 and c.p_value < ALPHA for c in gains)
    before, before_zh = STAGES.get(gains[0].before, (gains[0].before,) * 2)
    after, after_zh = STAGES.get(gains[0].after, (gains[0].after,) * 2)
    en = f"Compared with {before}, {after} improved {better} of {len(gains)} kinds" + (
        f" and made {worse} worse." if worse else "."
    )
    zh = f"与{before_zh}相比，{after_zh}使 {len(gains)} 类中的 {better} 类变好" + (
        f"，{worse} 类变差。" if worse else "。"
    )
    outcome: Outcome = "bad" if worse else "good" if better == len(gains) else "open"
    return Finding(outcome=outcome, text=both(en, zh))


def _finding_turns(ended: Score) -> Finding:
    share, limits = percent(ended.value), shares(ended.low, ended.high)
    outcome: Outcome = "good" if ended.low > 0.9 else "bad" if ended.high < 0.9 else "open"
    en = f"It ends {share} of its turns by itself (95% interval {limits}, {ended.n} turns)."
    zh = f"{share} 的回答由它自己结束（95% 区间 {limits}，{ended.n} 次）。"
    return Finding(outcome=outcome, text=both(en, zh))


def _range(score: Score) -> str:
    return f" [{figure(score.low)}, {figure(score.high)}]" if math.isfinite(score.low) else ""
