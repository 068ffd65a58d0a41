"""A forecast as an experiment's page: its ladder, the law, and what it says of other sizes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dunwu.core.units import format_count
from dunwu.lab.ladder.answer import Oracle
from dunwu.lab.ladder.forecast import CONFIDENCE, Answers, words_of
from dunwu.lab.ladder.plan import Ladder
from dunwu.lab.record import Experiment, Figure, Line, Table, Words

POINTS = 40


def forecast_page(name: str, ladder: Ladder, oracle: Oracle, answers: Answers, facts: Mapping[str, Any]) -> Experiment:
    """Figures of loss over compute and over size, and tables of rungs and laws."""
    words = words_of(ladder, oracle.fit, answers, memory_bytes=facts["memory_bytes"], price=facts["price_an_hour"])
    rungs = ladder.rungs
    return Experiment(
        name="forecast",
        title=(f"What {name} will give", f"{name} 将会得到什么"),
        method=(
            "Small models are trained on the same corpus and vocabulary, each a finished run with its own warm-up and decay, and scored "
            "on the held-out text of the build's report. Laws of several bends go through them; a bend weighs by how well it foretells "
            "the upper rungs from the lower. Intervals: draws of the rungs' noise, the noise of the target's own seed, and the drift "
            "seen in foretelling, grown with the distance.",
            "在同一语料与词表上训练一组小模型，每个都是完整训练（各自预热与衰减），并在构建报告所用的保留文本上评分。用几种弯曲度的规律拟合，"
            "按“由低处预测高处”的误差加权。区间包含：各级噪声的重抽样、目标自身种子的噪声，以及随外推距离增大的漂移。",
        ),
        n=f"{len(rungs)} rungs",
        seeds=sorted({rung.seed for rung in rungs}),
        failure=(
            f"The target, once trained, outside the {CONFIDENCE:.0%} interval, or more than 2% from the value.",
            f"目标训练之后落在 {CONFIDENCE:.0%} 区间之外，或与预测值相差超过 2%。",
        ),
        findings=[_finding(answers), *words],
        figures=[_by_compute(ladder, oracle, answers), _by_size(ladder, oracle, answers)],
        tables=[_rungs(ladder), _laws(oracle)],
        facts=dict(facts),
    )


def _finding(answers: Answers) -> Words:
    bits, size = answers.bits, answers.split.size
    return (
        f"Expect {bits.value:.4g} bits per byte of held-out text, between {bits.low:.4g} and {bits.high:.4g}; for so much compute the best "
        f"size is {format_count(size.value)}, between {format_count(size.low)} and {format_count(size.high)}.",
        f"预计保留文本每字节 {bits.value:.4g} 比特，区间 {bits.low:.4g} 至 {bits.high:.4g}；同等算力下最佳规模为 "
        f"{format_count(size.value)} 参数，区间 {format_count(size.low)} 至 {format_count(size.high)}。",
    )


def _by_compute(ladder: Ladder, oracle: Oracle, answers: Answers) -> Figure:
    target = answers.target
    least = min(rung.flops for rung in ladder.rungs)
    flops = np.geomspace(least, 10 * target.flops, POINTS).tolist()
    sizes = [ladder.family.size_for(one, target.tokens / target.size) for one in flops]
    said = [
        oracle.loss(size, one / ladder.family.flops_per_token(size)) for size, one in zip(sizes, flops, strict=True)
    ]
    return Figure(
        name="loss_by_compute",
        title=("The ladder and its target", "阶梯与目标"),
        x_label=("FLOPs of training", "训练 FLOPs"),
        y_label=("held-out loss, nats a token", "保留文本损失，nat/词元"),
        x_log=True,
        lines=[
            Line(
                label=f"the law at {target.tokens / target.size:.3g} tokens a parameter",
                x=flops,
                y=[one.value for one in said],
                low=[one.low for one in said],
                high=[one.high for one in said],
            ),
            Line(
                label="rungs",
                x=[rung.flops for rung in ladder.rungs],
                y=[rung.loss for rung in ladder.rungs],
                mark="points",
            ),
            Line(
                label="target",
                x=[target.flops],
                y=[answers.loss.value],
                low=[answers.loss.low],
                high=[answers.loss.high],
                mark="points",
            ),
        ],
    )


def _by_size(ladder: Ladder, oracle: Oracle, answers: Answers) -> Figure:
    flops, best = answers.target.flops, answers.split.size.value
    sizes = np.geomspace(best / 20, best * 20, POINTS).tolist()
    said = [oracle.loss_alone(size, flops / ladder.family.flops_per_token(size)) for size in sizes]
    split = answers.split.size
    words: Words = ("Sizes for the target's compute", "目标算力下的模型规模")
    return Figure(
        name="loss_by_size",
        title=words,
        x_label=("parameters", "参数量"),
        y_label=("held-out loss, nats a token", "保留文本损失，nat/词元"),
        x_log=True,
        lines=[Line(label=f"{flops:.3g} FLOPs", x=sizes, y=said)],
        rules=[
            ("x", split.low, format_count(split.low)),
            ("x", split.value, format_count(split.value)),
            ("x", split.high, format_count(split.high)),
        ],
    )


def _rungs(ladder: Ladder) -> Table:
    names = (
        "hidden_size", "layers", "parameters", "tokens", "batch_tokens", "steps", "seed", "flops", "loss", "bits_per_byte", "seconds",
    )  # fmt: skip
    return Table(
        name="rungs",
        title=("Rungs", "各级训练"),
        columns=names,
        rows=[[getattr(rung, name) for name in names] for rung in ladder.rungs],
    )


def _laws(oracle: Oracle) -> Table:
    names = ("bend", "level", "slope", "power", "share", "size", "tokens")
    return Table(
        name="laws",
        title=("Laws", "规律"),
        columns=[*names, "error", "weight"],
        rows=[
            [
                *(getattr(trial.law, name) for name in names),
                trial.error if np.isfinite(trial.error) else None,
                trial.weight,
            ]
            for trial in oracle.fit.trials
        ],
    )
