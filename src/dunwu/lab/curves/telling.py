"""What the curves of one run or several say, as an experiment and in lines for a terminal."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from dunwu.core.page.html import p_value
from dunwu.lab.curves.measuring import Settings
from dunwu.lab.estimates import Mark, estimates_line, shown
from dunwu.lab.experiment import Experiment, Figure, Line, Table, Words

HEADS = 6  # of a run that get a line of their own
PLACES = 5  # of a run whose loss by position is drawn
FORMED = 0.5  # prefix matching from which a head is called an induction head
ALPHA = 0.05
MEMORY: Sequence[tuple[str, str, Mark]] = (("learned", "training text", "both"), ("heldout", "held-out text", "dashed"))
TOKENS: Words = ("tokens learned from", "已学习的词元数")

Found = Mapping[str, Any]


def curves_experiment(runs: Sequence[Found], settings: Settings) -> Experiment:
    """The whole experiment of what `measure_run` found."""
    return Experiment(
        name="curves",
        title=("What the loss curve hides", "损失曲线背后"),
        method=_method(settings),
        n="; ".join(_n(run, settings) for run in runs),
        seeds=[settings.seed],
        failure=(
            "An in-context score that stays at 0; no head above chance; training text continued word for word no more often than "
            "held-out text (then nothing says that it was memorised); loss that does not fall with repeats.",
            "上下文学习得分始终为 0；没有任何注意力头高于随机水平；逐字续写训练文本的比例不高于未见文本（即无法说明记住了什么）；"
            "损失不随重复次数下降。",
        ),
        findings=[words for run in runs for words in _findings(run, several=len(runs) > 1)],
        figures=[figure for figure in _figures(runs) if figure.lines],
        tables=[table for table in _tables(runs) if table.rows],
        facts={"settings": asdict(settings), "runs": list(runs)},
    )


def lines_of(runs: Sequence[Found]) -> Iterator[str]:
    """For a person."""
    for run in runs:
        yield f"{run['name']}"
        yield from (f"  note: {note}" for note in run["notes"])
        yield "  tokens      in-context score       best head           memorised: training, held-out       loss: training, held-out"
        for point in run["points"]:
            head, memory = _best(point), point["memorised"]
            score = "-" if point["in_context"] is None else shown(point["in_context"], "+.3f")
            yield (
                f"  {point['tokens']:<11,} {score:<22} {head['value']:.3f} (layer {head['layer']}, head {head['head']})  "
                f"{shown(memory['learned'], '.1%')}, {shown(memory['heldout'], '.1%')}   "
                f"{point['loss']['learned']:.3f}, {point['loss']['heldout']:.3f}"
            )
        yield from (f"  {english}" for english, _ in _findings(run, several=False))


def _method(settings: Settings) -> Words:
    passage = settings.prompt + settings.continuation
    return (
        "In-context score: loss of held-out text late in a context less early in it (arXiv:2209.11895; places 500 and 50 of 512, scaled to "
        "the context). Prefix matching: a head's attention from a token to what followed it before, on 25 random tokens four times over "
        "(same source; weights on all followers added up); chance is attention spread evenly. Memorised: passages of "
        f"{passage} tokens whose last {settings.continuation} greedy decoding gives exactly after the first {settings.prompt} "
        "(arXiv:2202.07646), on training text and, as a control, held-out text. Repeats: the same passages by how often the run had "
        "learned from them, which follows from the seed of its data order; copies elsewhere in the corpus count. Intervals are 95%, "
        "over documents; those of heads over sequences.",
        "上下文学习得分：未见文本在上下文后段的损失减去前段的损失（arXiv:2209.11895，512 中的第 500 与第 50 位，按上下文长度缩放）。前缀匹配：在重复"
        "四遍的 25 个随机词元上，注意力头从某词元看向其先前出现之后的词元的权重（同一来源；各次出现的权重相加）；随机水平指注意力均匀分布。记忆：长 "
        f"{passage} 个词元的片段，给出前 {settings.prompt} 个后贪心解码恰好得到后 {settings.continuation} 个"
        "（arXiv:2202.07646），在训练文本与作为对照的未见文本上测量。重复：同样的片段按训练已学习的次数分组，次数由数据顺序的种子推出，语料中其他副本"
        "也计入。区间为 95%，按文档计；注意力头按序列计。",
    )


def _n(run: Found, settings: Settings) -> str:
    passages, documents = run["passages"], run["documents"]
    return (
        f"{run['name']}: {len(run['points'])} checkpoints, {run['texts']} texts of {run['context']} tokens, {settings.sequences} random "
        f"sequences, {passages['learned']} passages of {documents['learned']} training documents and {passages['heldout']} of "
        f"{documents['heldout']} held-out ones"
    )


# ------------------------------------------------------------------------------------------------------------ findings


def _findings(run: Found, *, several: bool) -> Iterator[Words]:
    start, start_zh = (f"{run['name']}: ", f"{run['name']}：") if several else ("", "")
    for english, chinese in (*_about_heads(run), *_about_context(run), *_about_memory(run), *_about_repeats(run)):
        yield start + english, start_zh + chinese


def _about_heads(run: Found) -> Iterator[Words]:
    formed = next((point for point in run["points"] if _best(point)["value"] >= FORMED), None)
    if formed is None:
        best = _best(run["points"][-1])
        yield (
            f"No induction head formed: the best head matches {best['value']:.2f} of prefixes at the end (chance {run['chance']:.3f}).",
            f"没有形成归纳头：最后最好的注意力头的前缀匹配为 {best['value']:.2f}（随机水平 {run['chance']:.3f}）。",
        )
        return
    count = sum(head["value"] >= FORMED for head in run["points"][-1]["heads"])
    yield (
        f"An induction head (prefix matching of {FORMED} or more) is there at {formed['tokens']:,} tokens, layer {_best(formed)['layer']}; "
        f"at the end there {'is' if count == 1 else 'are'} {count}.",
        f"在 {formed['tokens']:,} 个词元时已有归纳头（前缀匹配不低于 {FORMED}），位于第 {_best(formed)['layer']} 层；最后共有 {count} 个。",
    )


def _about_context(run: Found) -> Iterator[Words]:
    scored = [point for point in run["points"] if point["in_context"] is not None]
    if scored:
        last = scored[-1]["in_context"]
        lowest = min(scored, key=lambda point: point["in_context"]["value"])
        yield (
            f"At the end a late token of a context costs {shown(last, '+.3f')} nats against an early one; the lowest, "
            f"{lowest['in_context']['value']:+.3f}, was at {lowest['tokens']:,} tokens.",
            f"最后，上下文后段词元的损失比前段相差 {shown(last, '+.3f')} 奈特；最低值 {lowest['in_context']['value']:+.3f} 出现在 "
            f"{lowest['tokens']:,} 个词元时。",
        )


def _about_memory(run: Found) -> Iterator[Words]:
    memory = run["points"][-1]["memorised"]
    apart, chance = memory["p_value"] < ALPHA, p_value(memory["p_value"])
    p = f"p {chance}" if chance.startswith("<") else f"p = {chance}"
    yield (
        f"Of training passages {shown(memory['learned'], '.1%')} are continued word for word, of held-out ones "
        f"{shown(memory['heldout'], '.1%')} ({p}, whole documents exchanged)"
        + ("." if apart else ": not clearly more, so nothing is shown to be memorised."),
        f"训练片段中有 {shown(memory['learned'], '.1%')} 被逐字续写，未见片段为 {shown(memory['heldout'], '.1%')}（{p}，整篇文档置换）"
        + ("。" if apart else "：两者没有明显差别，不能说明记住了什么。"),
    )


def _about_repeats(run: Found) -> Iterator[Words]:
    effects = _effects(run)
    if effects:
        point, one = effects[-1]
        yield (
            f"At {point['tokens']:,} tokens, passages learned from {_times(one)} times cost {shown(one['difference'], '+.3f')} nats a token "
            f"against those learned from at most {one['than']} times{' in the same documents' if one['matched'] else ''}.",
            f"在 {point['tokens']:,} 个词元时，学习过 {_times(one)} 次的片段与{'同一文档中' if one['matched'] else ''}最多学习过 {one['than']} 次的片段"
            f"相比，每词元损失相差 {shown(one['difference'], '+.3f')} 奈特。",
        )


def _effects(run: Found) -> list[tuple[Found, Found]]:
    """Of each point that has several classes of repeats, the most repeated one."""
    classes = [(point, point["repeats"][-1]) for point in run["points"] if point["repeats"]]
    return [(point, one) for point, one in classes if one["difference"] is not None]


# ------------------------------------------------------------------------------------------------------------ figures


def _figures(runs: Sequence[Found]) -> list[Figure]:
    return [
        Figure(
            name="in_context",
            title=("In-context learning score", "上下文学习得分"),
            x_label=TOKENS,
            y_label=("late less early loss, nats a token", "后段减前段损失（奈特/词元）"),
            x_log=True,
            lines=[line for run in runs for line in _score_line(run, runs)],
            rules=[("y", 0.0, "no use of context")],
        ),
        Figure(
            name="loss_by_place",
            title=("Loss by place in the context", "上下文各位置的损失"),
            x_label=("place in the context, tokens", "上下文中的位置（词元）"),
            y_label=("nats a token", "奈特/词元"),
            x_log=True,
            lines=[line for run in runs for line in _place_lines(run, runs)],
        ),
        Figure(
            name="induction",
            title=("Induction heads", "归纳头"),
            x_label=TOKENS,
            y_label=("prefix matching", "前缀匹配"),
            x_log=True,
            lines=[line for run in runs for line in _head_lines(run, runs)],
            rules=[("y", value, "chance") for value in sorted({run["chance"] for run in runs})],
        ),
        Figure(
            name="memorised",
            title=("Continued word for word", "逐字续写的比例"),
            x_label=TOKENS,
            y_label=("share of passages", "片段比例"),
            x_log=True,
            lines=[
                _line(_label(run, runs, name), run["points"], lambda point, key=key: point["memorised"][key], mark)
                for run in runs
                for key, name, mark in MEMORY
            ],
        ),
        Figure(
            name="repeats",
            title=("Loss by times learned from", "损失随学习次数的变化"),
            x_label=("times learned from, middle of the class; 0.5 stands for never", "学习次数（组中值；0.5 表示从未）"),
            y_label=("nats a token", "奈特/词元"),
            x_log=True,
            lines=[line for run in runs for line in _repeat_lines(run, runs)],
        ),
        Figure(
            name="repeat_effect",
            title=("What having been learned from did", "学习过与否的差别"),
            x_label=TOKENS,
            y_label=("most less least repeated, nats a token", "重复最多减最少（奈特/词元）"),
            x_log=True,
            lines=[line for run in runs for line in _effect_line(run, runs)],
            rules=[("y", 0.0, "no difference")],
        ),
    ]  # fmt: skip


def _score_line(run: Found, runs: Sequence[Found]) -> Iterator[Line]:
    points = [point for point in run["points"] if point["in_context"] is not None]
    if points:
        yield _line(_label(run, runs, "score"), points, lambda point: point["in_context"], "both")


def _place_lines(run: Found, runs: Sequence[Found]) -> Iterator[Line]:
    for point in _spread([point for point in run["points"] if point["by_place"]], PLACES):
        places = point["by_place"]
        yield Line(
            label=_label(run, runs, f"{point['tokens']:,} tokens"),
            x=[one["place"] for one in places],
            y=[one["nats"] for one in places],
        )


def _head_lines(run: Found, runs: Sequence[Found]) -> Iterator[Line]:
    last = run["points"][-1]["heads"]
    order = sorted(range(len(last)), key=lambda at: -last[at]["value"])
    for at in order[:HEADS]:
        name = f"layer {last[at]['layer']}, head {last[at]['head']}"
        yield _line(_label(run, runs, name), run["points"], lambda point, at=at: point["heads"][at], "line")
    means = [sum(head["value"] for head in point["heads"]) / len(last) for point in run["points"]]
    tokens = [point["tokens"] for point in run["points"]]
    yield Line(label=_label(run, runs, "mean of all heads"), x=tokens, y=means, mark="dashed")


def _repeat_lines(run: Found, runs: Sequence[Found]) -> Iterator[Line]:
    for point in _spread([point for point in run["points"] if point["repeats"]], PLACES):
        classes = point["repeats"]
        middles = [math.sqrt(max(0.5, one["least"]) * max(0.5, one["most"])) for one in classes]
        label = _label(run, runs, f"at {point['tokens']:,} tokens")
        yield estimates_line(label, middles, [one["nats"] for one in classes], "both")


def _effect_line(run: Found, runs: Sequence[Found]) -> Iterator[Line]:
    effects = [{"tokens": point["tokens"], "difference": one["difference"]} for point, one in _effects(run)]
    if effects:
        yield _line(_label(run, runs, "difference"), effects, lambda one: one["difference"], "both")


def _line(label: str, points: Sequence[Found], of: Callable[[Found], Found], mark: Mark) -> Line:
    return estimates_line(label, [point["tokens"] for point in points], map(of, points), mark)


# ------------------------------------------------------------------------------------------------------------- tables


def _tables(runs: Sequence[Found]) -> list[Table]:
    heads = [
        [run["name"], head["layer"], head["head"], head["value"], head["low"], head["high"]]
        for run in runs
        for head in sorted(run["points"][-1]["heads"], key=lambda head: -head["value"])[: 2 * HEADS]
    ]
    repeats = [
        [
            run["name"], point["tokens"], _times(one), one["passages"], one["nats"]["value"],
            *([None] * 3 if one["difference"] is None else [one["difference"][key] for key in ("value", "low", "high")]),
            "" if one["difference"] is None else "yes" if one["matched"] else "no", one["memorised"]["value"],
        ]
        for run in runs for point in run["points"] for one in point["repeats"] or []
    ]  # fmt: skip
    return [
        Table(
            name="heads",
            title=("Heads at the end", "最后的注意力头"),
            columns=["run", "layer", "head", "prefix matching", "low", "high"],
            rows=heads,
        ),
        Table(
            name="repeats_table",
            title=("Loss by times learned from", "按学习次数的损失"),
            columns=[
                "run", "tokens", "times", "passages", "nats", "against the least", "low", "high", "same documents", "memorised",
            ],
            rows=repeats,
        ),
    ]  # fmt: skip


# -------------------------------------------------------------------------------------------------------- small things


def _best(point: Found) -> Found:
    return max(point["heads"], key=lambda head: head["value"])


def _label(run: Found, runs: Sequence[Found], name: str) -> str:
    return name if len(runs) == 1 else f"{run['name']}: {name}"


def _spread(points: Sequence[Found], count: int) -> list[Found]:
    """At most `count` of them, the first and the last among them."""
    if len(points) <= count:
        return list(points)
    return [points[round(at * (len(points) - 1) / (count - 1))] for at in range(count)]


def _times(one: Found) -> str:
    return f"{one['least']}" if one["least"] == one["most"] else f"{one['least']} to {one['most']}"
