"""The page of `dunwu eval`: every figure with its interval, what did not fit, what the corpus held, and answers to read."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from dunwu.core.files import write_text
from dunwu.core.page.frame import framed
from dunwu.core.page.html import Html, both, el, figure, fold, interval, join, percent, table, untrusted
from dunwu.core.page.plots import span_plot
from dunwu.core.units import format_duration
from dunwu.evaluate.outcome import Exposure, Figure, Outcome, Sample, TaskOutcome, figure_named, is_finite

SHOWN = 12  # answers of a task to read: half of them right ones, where there are such
SUBJECTS = 60
SHORT = 1_500  # characters of a text that is shown


def write_evaluation_page(path: Path, outcome: Outcome, samples: Sequence[Sample]) -> Path:
    """Write the page; returns its path. Raises DiskError."""
    write_text(path, evaluation_page(outcome, samples))
    return path


def evaluation_page(outcome: Outcome, samples: Sequence[Sample]) -> str:
    """The page as a string."""
    by_task = {task.name: [sample for sample in samples if sample.task == task.name] for task in outcome.tasks}
    sections = [
        ("figures", both("Figures", "成绩"), _figures(outcome.tasks)),
        *(
            (f"task-{at}", el("span", task.name), _task(task, by_task[task.name]))
            for at, task in enumerate(outcome.tasks)
        ),
        *(
            [("unsearched", both("Not searched", "未能检索"), _unsearched(outcome.unsearched))]
            if outcome.unsearched
            else []
        ),
        ("settings", both("Settings", "设置"), _settings(outcome)),
    ]
    count = sum(task.asked for task in outcome.tasks)
    lead = both(
        f"{count:,} questions of {_tasks(len(outcome.tasks))}, asked in {format_duration(outcome.seconds)}. Every figure stands with "
        "its 95% interval: what it would be on other questions of the kind.",
        f"{len(outcome.tasks)} 项任务共 {count:,} 道题，用时 {format_duration(outcome.seconds)}。每个数字都附有 95% 区间：换一批同类题目时成绩可能落在的范围。",
    )
    return framed(
        name=outcome.model,
        kind=both("dunwu · evaluation", "dunwu · 评测"),
        lead=lead,
        sections=sections,
        footer=f"dunwu {outcome.dunwu} · {outcome.finished}",
    )


def _tasks(count: int) -> str:
    return "one task" if count == 1 else f"{count} tasks"


def _figures(tasks: Sequence[TaskOutcome]) -> Html:
    rows = [(el("span", task.name), one, task) for task in tasks for one in task.figures[:1]]
    return _figure_table([(label, one) for label, one, _ in rows])


def _figure_table(rows: Sequence[tuple[Html, Figure]]) -> Html:
    """Labels and figures; those that are shares as lines from 0 to 1."""
    cells = []
    for label, one in rows:
        score = one.score
        plot = (
            span_plot(score.value, score.low, score.high, begin=0, end=1, tone="first", mark=score.chance)
            if 0 <= score.value <= 1 and not one.as_power and score.unit != "bits/byte"
            else Html("")
        )
        note = el("small", "↓ ", both("less is better", "越低越好")) if not one.more_is_better else None
        cells.append(
            [
                join([label, Html(" "), el("small", score.name), note]),
                plot,
                _number(score.value),
                Html(f"{_number(score.low)} – {_number(score.high)}")
                if is_finite(score)
                else interval(score.low, score.high),
                "—" if score.chance is None else figure(score.chance, 2),
                f"{score.n:,}",
            ]
        )
    header = [
        both("Task and metric", "任务与指标"),
        el("span", el("span", "0"), el("span", "1"), class_="scale"),
        both("Value", "数值"),
        both("95% interval", "95% 区间"),
        both("Chance", "随机水平"),
        both("Questions", "题数"),
    ]
    return el("div", table(header, cells, numeric=(2, 3, 4, 5)), class_="plotted")


def _number(value: float) -> str:
    return figure(value) if not abs(value) >= 100_000 else f"{value:.3g}"


def _task(task: TaskOutcome, samples: Sequence[Sample]) -> Html:
    part = f" of {task.total:,}" if task.asked < task.total else ""
    part_zh = f"（共 {task.total:,} 道中的 {task.asked:,} 道）" if task.asked < task.total else f" {task.asked:,} 道"
    clusters = f"; they form {task.groups:,} groups, which the intervals count" if task.groups else ""
    clusters_zh = f"；分属 {task.groups:,} 组，区间按组计" if task.groups else ""
    how = el("span", task.solver)
    asked = both(
        join([f"{task.asked:,}{part} questions, asked by ", how, f", {task.shots} demonstrations{clusters}."]),
        join([f"题目{part_zh}，方式：", how, f"，示例 {task.shots} 个{clusters_zh}。"]),
    )
    main = task.figures[0].score.name if task.figures else ""
    subjects = [(el("span", name), one) for name, own in task.subjects.items() if (one := figure_named(own, main))]
    return join(
        [
            el("p", asked),
            _figure_table([(Html(""), one) for one in task.figures]),
            _faults(task, samples),
            _exposure(task.exposure),
            fold(both("By subject", "按科目"), _figure_table(subjects[:SUBJECTS])) if subjects else None,
            fold(
                both("The first prompt, as the model read it", "模型读到的第一个提示"),
                el("div", untrusted(_short(task.prompt)), class_="sample"),
            )
            if task.prompt
            else None,
            fold(both("Answers to read", "部分回答"), *_answers(_of_all(task), samples)) if samples else None,
        ]
    )


def _of_all(task: TaskOutcome) -> str:
    """The first metric that says of every question whether it was answered rightly."""
    names = [one.score.name for one in task.figures if one.score.n == task.asked and one.more_is_better]
    return next(iter(names), task.figures[0].score.name if task.figures else "")


def _faults(task: TaskOutcome, samples: Sequence[Sample]) -> Html | None:
    kinds = [
        (
            task.refused,
            "were not asked: longer than the context; they count as wrong",
            "道题超出上下文而未提问，计为答错",
            [one for one in samples if one.refused],
        ),
        (
            task.dropped,
            "lost demonstrations so that they fit",
            "道题为放得下而减少了示例",
            [one for one in samples if one.dropped],
        ),
        (task.cut, "lost the beginning of their prompt", "道题的提示被截去开头", [one for one in samples if one.cut]),
    ]
    found = [
        el(
            "li",
            both(f"{count:,} questions {en}", f"{count:,} {zh}"),
            ": ",
            el("small", ", ".join(one.id for one in own[:20])),
        )
        for count, en, zh, own in kinds
        if count
    ]
    return el("ul", *found) if found else None


def _exposure(told: Exposure | None) -> Html | None:
    if told is None:
        return None
    if not told.checked:
        return el(
            "p",
            both(
                "Every question is too short to be looked for in the training corpus.",
                "题目都太短，无法在训练语料中查找。",
            ),
        )
    seen = told.seen
    limits = f" [{percent(seen.low, 1)}, {percent(seen.high, 1)}]"
    whole = whole_zh = ""
    if told.whole is not None and told.dirty:
        share = percent(told.whole.value, 1)
        whole = f" Of {share} it holds nearly all that they say (four fifths of their runs of words); the rest may share wording alone."
        whole_zh = f"其中 {share} 的题目几乎全文出现（五分之四以上的词串）；其余可能只是用语相同。"
    text = el(
        "p",
        both(
            f"What the model learned from holds a run of words of {percent(seen.value, 1)}{limits} of {told.checked:,} questions that are "
            f"long enough to tell.{whole}",
            f"在 {told.checked:,} 道长度足以判断的题目中，训练文本含有 {percent(seen.value, 1)}{limits} 的题目的某段词串。{whole_zh}",
        ),
        " ",
        el("small", untrusted(told.corpus)),
    )
    parts = [(both("Not seen", "未见过"), one) for one in told.clean[:1]] + [
        (both("Seen", "见过"), one) for one in told.dirty[:1]
    ]
    return join([text, _figure_table(parts) if told.dirty else None])


def _unsearched(reasons: Sequence[str]) -> Html:
    lead = both(
        "The questions could not be looked for in all that the model learned from:",
        "题目未能在模型学过的全部文本中查找：",
    )
    return join([el("p", lead), el("ul", *(el("li", untrusted(reason)) for reason in reasons))])


def _answers(main: str, samples: Sequence[Sample]) -> Iterable[Html]:
    """Some answers, right and wrong in turn, spread over the task."""
    wrong = [one for one in samples if not one.values.get(main, math.nan) > 0.5]
    right = [one for one in samples if one.values.get(main, math.nan) > 0.5]
    chosen = [*_spread(wrong, SHOWN // 2), *_spread(right, SHOWN - SHOWN // 2)]
    for sample in sorted(chosen, key=samples.index):
        yield sample_shown(sample, main)


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    count = min(count, len(samples))
    return [samples[int((at + 0.5) * len(samples) / count)] for at in range(count)]


def sample_shown(sample: Sample, main: str) -> Html:
    """A question, what was answered, and what is right."""
    value = sample.values.get(main, math.nan)
    mark = el("span", "✓" if value > 0.5 else "✗", class_="outcome good" if value > 0.5 else "outcome bad")
    answers = [el("p", mark, " ", untrusted(_short(answer_text(sample, at)))) for at in range(len(sample.answers))]
    wanted = sample.choices[sample.right] if sample.right is not None and sample.choices else sample.target
    return el(
        "div",
        el("p", el("small", sample.id), class_="given"),
        el("p", untrusted(_short(sample.input)), class_="given"),
        *(answers or [el("p", mark, " ", el("small", sample.refused))]),
        el("p", el("small", both("right: ", "正确答案："), untrusted(_short(wanted)))) if wanted else None,
        class_="sample",
    )


def answer_text(sample: Sample, at: int = 0) -> str:
    """What was written, or the choice that was likeliest."""
    answer = sample.answers[at]
    if answer.text is not None:
        return answer.text
    if answer.chosen is not None and answer.chosen < len(sample.choices):
        return sample.choices[answer.chosen]
    return sample.refused or "—"


def _short(text: str) -> str:
    return text if len(text) <= SHORT else f"{text[: SHORT // 2]}\n…\n{text[-SHORT // 2 :]}"


def _settings(outcome: Outcome) -> Html:
    rows = [
        [el("span", key), untrusted(str(value))]
        for key, value in outcome.settings.items()
        if value is not None and key != "tasks"
    ]
    return table([both("Setting", "设置"), both("Value", "值")], rows)
