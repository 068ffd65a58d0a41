"""What the report says of learning preferences: how often the better answer of pairs that were kept out is preferred."""

from collections.abc import Mapping

from dunwu.align.measure import NAMES
from dunwu.build.home import StageRecord
from dunwu.build.report_verdict import Finding
from dunwu.core.page.html import both, percent, shares


def preference_findings(records: Mapping[str, StageRecord]) -> list[Finding]:
    """Two sentences; none where no pairs were kept out."""
    preference = records["prefer"].facts.get("preference") if "prefer" in records else None
    if not preference:
        return []
    before, after, reward = (preference["scores"][name] for name in NAMES)
    share, limits, n = percent(reward["value"]), shares(reward["low"], reward["high"]), f"{reward['n']:,}"
    outcome = "good" if reward["low"] > 0.5 else "bad" if reward["high"] < 0.5 else "open"
    en = f"Of {n} pairs that it did not learn, the better answer gained more in {share} (95% interval {limits}; 50% would be chance)."
    zh = f"在 {n} 对没有学过的回答中，{share} 的情形里较好的回答概率升幅更大（95% 区间 {limits}；随机为 50%）。"
    change = preference["change"]
    moved = "good" if change["low"] > 0 else "bad" if change["high"] < 0 else "open"
    was, now = percent(before["value"]), percent(after["value"])
    return [
        Finding(outcome=outcome, text=both(en, zh)),
        Finding(
            outcome=moved,
            text=both(
                f"The better answer is the likelier one, token by token, in {now} of them; it was in {was} before.",
                f"按每词元概率，较好的回答更可能的比例为 {now}，之前为 {was}。",
            ),
        ),
    ]
