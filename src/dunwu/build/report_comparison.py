"""The page of `dunwu compare`: each task's paired difference, what it could have shown, and the questions that changed."""

import math
from collections.abc import Sequence
from pathlib import Path

from dunwu.build.report_evaluation import answer_text
from dunwu.core.files import write_text
from dunwu.core.page.frame import framed
from dunwu.core.page.html import Html, both, el, figure, fold, interval, join, p_value, table, untrusted
from dunwu.core.page.plots import span_plot
from dunwu.evaluate.comparing import Change, Comparison, TaskComparison, Turned

SHOWN = 20
_VERDICTS = {
    "better": ("better", "更好", "good"),
    "worse": ("worse", "更差", "bad"),
    "same": ("unclear", "不明显", ""),
}


def write_comparison_page(path: Path, comparison: Comparison) -> Path:
    """Write the page; returns its path. Raises DiskError."""
    write_text(path, comparison_page(comparison))
    return path


def comparison_page(comparison: Comparison) -> str:
    """The page as a string."""
    lead = both(
        join(
            [
                untrusted(comparison.after),
                " against ",
                untrusted(comparison.before),
                ": the same questions, paired. A difference counts where its p-value, adjusted for the number of tasks (Holm), is below .05.",
            ]
        ),
        join(
            [
                untrusted(comparison.after),
                " 对比 ",
                untrusted(comparison.before),
                "：同一批题目逐题配对。经 Holm 按任务数校正后 p 值低于 0.05 才算有差异。",
            ]
        ),
    )
    sections = [
        (
            "differences",
            both("Differences", "差异"),
            _changes([(el("span", task.task), task.main) for task in comparison.tasks]),
        ),
        *((f"task-{at}", el("span", task.task), _task(task)) for at, task in enumerate(comparison.tasks)),
    ]
    return framed(
        name=f"{comparison.before} → {comparison.after}",
        kind=both("dunwu · comparison", "dunwu · 对比"),
        lead=lead,
        sections=sections,
        footer="dunwu",
    )


def _changes(rows: Sequence[tuple[Html, Change]]) -> Html:
    reach = max(
        [abs(bound) for _, one in rows for bound in (one.difference.low, one.difference.high) if math.isfinite(bound)],
        default=1.0,
    )
    cells = []
    for label, one in rows:
        change = one.difference
        en, zh, tone = _VERDICTS[one.verdict]
        cells.append(
            [
                join([label, Html(" "), el("small", one.name)]),
                span_plot(change.value, change.low, change.high, begin=-reach, end=reach, tone="first", mark=0.0),
                f"{figure(one.before)} → {figure(one.after)}",
                figure(change.value),
                interval(change.low, change.high),
                p_value(one.holm),
                f"{change.n:,}",
                el("span", both(en, zh), class_=tone or None),
            ]
        )
    header = [
        both("Task and metric", "任务与指标"),
        el("span", el("span", figure(-reach, 2)), el("span", "0"), el("span", figure(reach, 2)), class_="scale"),
        both("Before → after", "之前 → 之后"),
        both("Difference", "差值"),
        both("95% interval", "95% 区间"),
        both("p (Holm)", "p（Holm）"),
        both("Questions", "题数"),
        both("Verdict", "结论"),
    ]
    return el("div", table(header, cells, numeric=(2, 3, 4, 5, 6)), class_="plotted changes")


def _task(task: TaskComparison) -> Html:
    lines = [*_moved(task.main), *_power(task.main)]
    if task.only_before or task.only_after:
        lines.append(
            both(
                f"{task.only_before:,} questions were asked before only and {task.only_after:,} after only; they are left out.",
                f"{task.only_before:,} 道题只在之前问过，{task.only_after:,} 道只在之后问过，均未计入。",
            )
        )
    lines += [el("span", both("Not alike: ", "设置不同："), remark) for remark in task.remarks]
    return join(
        [
            el("ul", *(el("li", line) for line in lines)),
            _changes([(Html(""), one) for one in task.others]) if task.others else None,
            fold(both("By subject", "按科目"), _changes([(Html(""), one) for one in task.subjects]))
            if task.subjects
            else None,
            fold(
                both(f"Questions that changed ({len(task.turned):,})", f"答案有变的题目（{len(task.turned):,}）"),
                *(_turned(one) for one in _both_ends(task.turned)),
            )
            if task.turned and task.main.gained is not None
            else None,
        ]
    )


def _moved(change: Change) -> list[Html]:
    if change.gained is None:
        return []
    return [
        both(
            f"{change.gained:,} questions turned right, {change.lost:,} turned wrong.",
            f"{change.gained:,} 道题由错变对，{change.lost:,} 道由对变错。",
        )
    ]


def _power(change: Change) -> list[Html]:
    lines: list[Html] = []
    if change.smallest is not None:
        lines.append(
            both(
                f"So many questions show a difference of {figure(change.smallest)} or more in four of five cases.",
                f"这么多题目在五次中有四次能显示出 {figure(change.smallest)} 以上的差异。",
            )
        )
    if change.needed is not None and change.verdict == "same":
        lines.append(
            both(
                f"Were the difference as found, {change.needed:,} questions would show it in four of five cases.",
                f"如果差异确如所见，需要 {change.needed:,} 道题才能在五次中有四次显示出来。",
            )
        )
    return lines


def _both_ends(turned: Sequence[Turned]) -> Sequence[Turned]:
    """The greatest losses and the greatest gains."""
    return turned if len(turned) <= SHOWN else [*turned[: SHOWN // 2], *turned[-SHOWN // 2 :]]


def _turned(one: Turned) -> Html:
    wanted = (
        one.before.choices[one.before.right]
        if one.before.right is not None and one.before.choices
        else one.before.target
    )
    return el(
        "div",
        el("p", el("small", one.before.id), class_="given"),
        el("p", untrusted(one.before.input[:1500]), class_="given"),
        el("p", el("small", both("before: ", "之前：")), untrusted(answer_text(one.before)[:800])),
        el("p", el("small", both("after: ", "之后：")), untrusted(answer_text(one.after)[:800])),
        el("p", el("small", both("right: ", "正确答案："), untrusted(wanted))) if wanted else None,
        class_="sample",
    )
