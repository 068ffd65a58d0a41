"""What the report says of a reward model: how often it is right on what it did not learn, how well it knows when, and what
length does to it."""

from collections.abc import Mapping, Sequence
from typing import Any

from dunwu.build.home import StageRecord
from dunwu.build.report_verdict import Finding, Outcome
from dunwu.core.page.html import Child, Html, both, el, figure, interval, join, percent, shares, table
from dunwu.core.page.plots import span_plot

SETS = {
    "held_out_measures": ("kept out", "留出"),
    "exam_measures": ("questions of the exam", "考试问题"),
}
ROWS = {
    "accuracy": ("right", "正确"),
    "accuracy_chosen_longer": ("right, the better answer being longer", "较好回答更长时正确"),
    "accuracy_chosen_shorter": ("right, the better answer being shorter", "较好回答更短时正确"),
    "accuracy_as_long": ("right, both as long", "两者等长时正确"),
    "first_error": ("the first error found", "找到第一处错误"),
}


def reward_findings(records: Mapping[str, StageRecord]) -> list[Finding]:
    """How often it is right, whether length misleads it, and whether its probabilities can be believed; none without pairs."""
    measures = records["reward"].facts.get("held_out_measures") if "reward" in records else None
    if not measures:
        return []
    scores = measures["scores"]
    found = [_accuracy_finding(scores["accuracy"], chance=scores["accuracy"]["chance"])]
    longer, shorter = scores.get("accuracy_chosen_longer"), scores.get("accuracy_chosen_shorter")
    return [*found, _length_finding(longer, shorter)] if longer and shorter else found


def _accuracy_finding(share: Mapping[str, Any], chance: float | None) -> Finding:
    value, limits, n = percent(share["value"]), shares(share["low"], share["high"]), f"{share['n']:,}"
    outcome: Outcome = "open"
    if chance is not None:
        outcome = "good" if share["low"] > chance else "bad" if share["high"] < chance else "open"
    beside_en = "; 50% would be chance" if chance is not None else ""
    beside_zh = "；随机为 50%" if chance is not None else ""
    return Finding(
        outcome=outcome,
        text=both(
            f"The reward model is right on {value} of {n} judgements that it did not learn (95% interval {limits}{beside_en}).",
            f"在 {n} 个没有学过的判断上，奖励模型的正确率为 {value}（95% 区间 {limits}{beside_zh}）。",
        ),
    )


def _length_finding(longer: Mapping[str, Any], shorter: Mapping[str, Any]) -> Finding:
    """Whether it prefers long or short answers: the intervals of the two accuracies must be apart to say so."""
    a, b = percent(longer["value"]), percent(shorter["value"])
    if longer["low"] > shorter["high"]:
        outcome: Outcome = "bad"
        en, zh = "it favours long answers", "它偏爱长回答"
    elif shorter["low"] > longer["high"]:
        outcome, en, zh = "bad", "it favours short answers", "它偏爱短回答"
    else:
        outcome, en, zh = "open", "length was not seen to mislead it", "未见长度误导它"
    return Finding(
        outcome=outcome,
        text=both(
            f"Where the better answer is longer it is right in {a}, where it is shorter in {b}: {en}.",
            f"较好的回答更长时正确率 {a}，更短时 {b}：{zh}。",
        ),
    )


def reward_section(records: Mapping[str, StageRecord]) -> Html | None:
    """Accuracy, calibration and length bias, with intervals; None without a reward model."""
    facts = records["reward"].facts if "reward" in records else {}
    sets = [(name, facts[name]) for name in SETS if facts.get(name)]
    if not sets:
        return None
    rows = [row for name, measures in sets for row in _rows(name, measures)]
    header: list[Child] = [both("judgements", "判断"), "", both("share", "比例"), "95%", "n"]
    learned = both(
        f"It learned from {facts['judgements']:,} judgements ({facts['ties']:,} ties). Share of those that it did not learn:",
        f"从 {facts['judgements']:,} 个判断中学习（其中平局 {facts['ties']:,} 个）。以下为未学过的判断上的比例：",
    )
    parts = [el("p", learned), table(header, rows, numeric=(2, 3, 4)), *_calibration(sets[0][1]), _spread(sets)]
    return el("div", *parts, class_="plotted")


def _rows(name: str, measures: Mapping[str, Any]) -> list[Sequence[Child]]:
    scores = measures["scores"]
    return [
        [
            both(f"{SETS[name][0]}: {label[0]}", f"{SETS[name][1]}：{label[1]}"),
            _plot(score, score["chance"]),
            percent(score["value"]),
            shares(score["low"], score["high"]),
            f"{score['n']:,}",
        ]
        for key, label in ROWS.items()
        if (score := scores.get(key)) is not None
    ]


def _calibration(measures: Mapping[str, Any]) -> list[Html]:
    """How often it is right, by how sure it is: a tick marks how sure, which the dot should meet."""
    error = measures["scores"].get("calibration_error")
    said = (
        both(
            f"How often it is right, by how sure it says it is (expected calibration error {figure(error['value'])}, "
            f"95% interval {interval(error['low'], error['high'])}; 0 is perfect):",
            f"按它自称的把握，实际正确的比例（期望校准误差 {figure(error['value'])}，95% 区间 "
            f"{interval(error['low'], error['high'])}；0 为完美）：",
        )
        if error
        else both("How often it is right, by how sure it says it is:", "按它自称的把握，实际正确的比例：")
    )
    rows: list[Sequence[Child]] = [
        [
            percent(row["predicted"]),
            _plot({**row, "value": row["share"]}, row["predicted"]),
            percent(row["share"]),
            shares(row["low"], row["high"]),
            f"{row['n']:,}",
        ]
        for row in measures["calibration"]
    ]
    header: list[Child] = [both("sure", "把握"), "", both("right", "正确"), "95%", "n"]
    return [el("p", said), table(header, rows, numeric=(2, 3, 4))]


def _plot(share: Mapping[str, Any], mark: float | None) -> Html:
    return span_plot(share["value"], share["low"], share["high"], begin=0, end=1, tone="third", mark=mark)


def _spread(sets: Sequence[tuple[str, Mapping[str, Any]]]) -> Html | None:
    """Mean and spread of the scores, and what they have to do with length."""
    said: list[Html] = []
    for name, measures in sets:
        if "mean" not in measures:
            continue
        en, zh = SETS[name]
        mean, deviation = measures["mean"], measures["deviation"]
        correlation = measures["scores"].get("length_correlation")
        r = figure(correlation["value"], 2) if correlation else "—"
        limits = interval(correlation["low"], correlation["high"], 2) if correlation else Html("—")
        better, worse = (f"{figure(mean[s], 2)} ± {figure(deviation[s], 2)}" for s in ("chosen", "rejected"))
        said.append(
            el(
                "p",
                both(
                    join(
                        [
                            f"Scores ({en}): {better} for better answers, {worse} for worse ones; correlation with length "
                            f"{r} (",
                            limits,
                            ").",
                        ]
                    ),
                    join(
                        [f"分数（{zh}）：较好回答 {better}，较差回答 {worse}；与长度的相关系数 {r}（", limits, "）。"]
                    ),
                ),
            )
        )
    return join(said) if said else None
