"""What the report says of a base that was tuned as it is: how many numbers learned, and what that did to answers."""

from collections.abc import Mapping

from dunwu.build.home import StageRecord
from dunwu.build.report_verdict import Finding
from dunwu.core.page.html import Html, both, figure, join, untrusted
from dunwu.core.units import format_count


def tuning_findings(records: Mapping[str, StageRecord]) -> list[Finding]:
    """The change in what answers cost that were kept out of tuning; empty where none were."""
    facts = records["evaluate"].facts if "evaluate" in records else {}
    if "answers" not in facts:
        return []
    change = facts["answers"]
    before, after = (figure(facts["scores"][f"{stage} answers"]["value"]) for stage in ("base", "sft"))
    limits = f"[{figure(change['low'])}, {figure(change['high'])}]"
    outcome = "good" if change["high"] < 0 else "bad" if change["low"] > 0 else "open"
    shown = f"{before} → {after}"
    en = f"Answers that it did not learn cost {shown} bits a token, change {figure(change['value'])} {limits} over {change['n']} conversations"
    zh = f"没有学过的回答：每词元 {shown} 比特，变化 {figure(change['value'])} {limits}，共 {change['n']} 段对话"
    ends = {
        "good": (".", "。"),
        "bad": (": tuning made them worse. A lower sft.lr_adamw, fewer epochs or more conversations help.", "：微调使其变差。可降低 sft.lr_adamw、减少轮数或增加对话。"),
        "open": (": no difference can be told.", "：看不出差别。"),
    }  # fmt: skip
    return [Finding(outcome=outcome, text=both(en + ends[outcome][0], zh + ends[outcome][1]))]


def tuned_in_short(records: Mapping[str, StageRecord]) -> tuple[Html, Html] | None:
    """What learned on which base, in English and in Chinese; None for a build that has a corpus."""
    if "base" not in records or "sft" not in records or "pretrain" in records:
        return None
    name, facts = untrusted(records["base"].facts["name"]), records["sft"].facts
    conversations = f"{facts['conversations']:,}"
    how, how_zh = "all its weights", "全部权重"
    if "delta" in facts:
        count, method = format_count(facts["tuned_parameters"]), facts["delta"]["method"]
        how, how_zh = f"{count} numbers ({method})", f"{count} 个参数（{method}）"
    return (
        join([", made of ", name, f" by tuning {how} on {conversations} conversations"]),
        join(["，以 ", name, f" 为基座，用 {conversations} 段对话微调{how_zh}而成"]),
    )
