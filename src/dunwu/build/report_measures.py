"""The report's sections on what the model can do: held-out text, exam, its own writing."""

import math
from collections.abc import Iterable, Sequence

from dunwu.build.report_verdict import STAGES, baseline_label, kind_label, language_label, stage_label
from dunwu.core.page.html import (
    Html,
    both,
    el,
    figure,
    fold,
    interval,
    join,
    p_value,
    percent,
    shares,
    table,
    untrusted,
)
from dunwu.core.page.plots import span_plot
from dunwu.core.records import Score
from dunwu.core.units import format_bytes
from dunwu.evaluate.exam import ExamRow
from dunwu.evaluate.results import BaselineScore, Comparison, Evaluation, HeldoutFacts, KindScore, ModelScores
from dunwu.evaluate.samples import Sample

_TONES = ("first", "second", "third")


def heldout_section(evaluation: Evaluation) -> Html | None:
    """Bits per byte of every stage and baseline, what was scored, and the differences."""
    models = [model for model in evaluation.models if model.bits_per_byte is not None]
    if not models and not evaluation.baselines:
        return None
    return join(
        [
            el("p", _explain_bits(evaluation.heldout)),
            _bits_table(models, evaluation),
            _bits_differences(evaluation.comparisons),
            _bits_by_language(models),
            _bits_by_document([model for model in models if model.stage != "base"]),
        ]
    )


def _explain_bits(heldout: HeldoutFacts | None) -> Html:
    en = "How many bits the model needs for each byte of text that it was never shown; fewer is better. All rows are measured on the same text."
    zh = "模型为每个未见过的字节所需的比特数，越少越好。各行用的是同一段文本。"
    if heldout is None:
        return both(en, zh)
    if heldout.bytes == heldout.bytes_total:
        share = f" {format_bytes(heldout.bytes)} in {heldout.documents:,} documents: all that was held out."
        share_zh = f"共 {format_bytes(heldout.bytes)}、{heldout.documents:,} 篇文档，即全部留出文本。"
    else:
        share = f" {format_bytes(heldout.bytes)} from {heldout.documents:,} documents, in pieces spread evenly over the {format_bytes(heldout.bytes_total)} in {heldout.documents_total:,} documents held out."
        share_zh = f"共 {format_bytes(heldout.bytes)}、{heldout.documents:,} 篇文档，均匀取自留出的 {format_bytes(heldout.bytes_total)}、{heldout.documents_total:,} 篇文档。"
    return both(en + share, zh + share_zh)


def _bits_table(models: Sequence[ModelScores], evaluation: Evaluation) -> Html:
    entries: list[tuple[Html, Score, str, Html]] = [
        (stage_label(model.stage), model.bits_per_byte, _TONES[min(i, 2)], Html(""))
        for i, model in enumerate(models)
        if model.bits_per_byte is not None
    ]
    entries += [(baseline_label(b.key), b.score, "plain", _given(b)) for b in evaluation.baselines]
    begin, end = _limits([score for _, score, _, _ in entries])
    rows = [
        [
            join([el("span", label, class_=f"key {tone}"), el("small", note) if note else None]),
            span_plot(score.value, score.low, score.high, begin=begin, end=end, tone=tone),
            figure(score.value),
            interval(score.low, score.high),
            f"{score.n:,}" if math.isfinite(score.low) else "—",
        ]
        for label, score, tone, note in entries
    ]
    scale = el(
        "span", el("span", figure(begin, 1)), both("bits/byte", "比特/字节"), el("span", figure(end, 1)), class_="scale"
    )
    header = [
        both("Model", "模型"),
        scale,
        both("bits/byte", "比特/字节"),
        both("95% interval", "95% 区间"),
        both("documents", "文档数"),
    ]
    return el("div", table(header, rows, numeric=(2, 3, 4)), class_="plotted")


def _given(baseline: BaselineScore) -> Html:
    used, total = format_bytes(baseline.train_bytes), format_bytes(baseline.train_bytes_total)
    if not baseline.train_bytes:
        return both("of the held-out text alone", "仅用留出文本")
    if baseline.train_bytes == baseline.train_bytes_total:
        return both(f"with all {total} of training text", f"用全部 {total} 训练文本")
    return both(f"with {used} of {total} of training text", f"用 {total} 训练文本中的 {used}")


def _limits(scores: Iterable[Score]) -> tuple[float, float]:
    """Round ends of an axis that holds all values and intervals."""
    values = [x for score in scores for x in (score.value, score.low, score.high) if math.isfinite(x)]
    return math.floor(2 * min(values) - 0.2) / 2, math.ceil(2 * max(values) + 0.2) / 2


def _bits_differences(comparisons: Sequence[Comparison]) -> Html | None:
    rows = [
        [
            join([stage_label(c.after), both(" against ", " 对比 "), _rival(c.before)]),
            figure(c.value),
            interval(c.low, c.high),
            f"{c.n:,}",
            p_value(c.p_value),
        ]
        for c in comparisons
        if c.figure == "bits_per_byte"
    ]
    if not rows:
        return None
    header = [
        both("Difference, document by document", "逐文档之差"),
        both("bits/byte", "比特/字节"),
        both("95% interval", "95% 区间"),
        both("documents", "文档数"),
        "p",
    ]
    return table(header, rows, numeric=(1, 2, 3, 4))


def _rival(name: str) -> Html:
    return stage_label(name) if name in STAGES else baseline_label(name)


def _bits_by_language(models: Sequence[ModelScores]) -> Html | None:
    rows = [
        [
            stage_label(model.stage),
            language_label(score.name.partition(".")[2]),
            figure(score.value),
            interval(score.low, score.high),
            f"{score.n:,}",
        ]
        for model in models
        for score in model.by_language
    ]
    if len({score.name for model in models for score in model.by_language}) < 2:
        return None
    header = [both("Stage", "阶段"), both("Language", "语言"), both("bits/byte", "比特/字节")]
    header += [both("95% interval", "95% 区间"), both("documents", "文档数")]
    return fold(both("By language", "按语言"), table(header, rows, numeric=(2, 3, 4)))


def _bits_by_document(models: Sequence[ModelScores], most: int = 40) -> Html | None:
    if not models or not models[0].documents:
        return None
    rows = [
        [
            untrusted(row.source),
            language_label(row.language),
            f"{row.bytes:,}",
            f"{row.tokens:,}",
            figure(row.bits / row.bytes),
        ]
        for row in models[0].documents[:most]
    ]
    header = [both("Document", "文档"), both("Language", "语言"), both("bytes", "字节"), both("tokens", "词元")]
    header += [both("bits/byte", "比特/字节")]
    more = len(models[0].documents) - most
    note = el("p", both(f"… and {more:,} more", f"……另有 {more:,} 篇"), class_="muted") if more > 0 else None
    title = join([both("By document: ", "按文档："), stage_label(models[0].stage)])
    return fold(title, table(header, rows, numeric=(2, 3, 4)), note)


def exam_section(evaluation: Evaluation) -> Html | None:
    """Each kind of question at each stage, with intervals and the chance level."""
    models = [model for model in evaluation.models if model.exam]
    if not models:
        return None
    en = "Questions about the small world with exactly known answers; none combines facts that training combined. The tick marks what guessing would reach."
    zh = "关于小世界的问题，答案确切已知；训练中没有出现过同样的事实组合。竖线标出随机猜测的水平。"
    return join(
        [
            el("p", both(en, zh)),
            _exam_table(models, evaluation.comparisons),
            el("p", _turns(models), class_="muted"),
            _exam_by_language(models),
            _exam_examples(models[-1]),
        ]
    )


def _exam_table(models: Sequence[ModelScores], comparisons: Sequence[Comparison]) -> Html:
    gains = {(c.figure, c.after): c for c in comparisons if c.figure.startswith("exam.")}
    bodies: list[Html] = []
    for kind in dict.fromkeys(row.kind for model in models for row in model.exam):
        found = [(model, row) for model in models for row in model.exam if row.kind == kind]
        rows: list[Html] = []
        for model, row in found:
            first = None if rows else el("td", _exam_kind(kind, row.score), rowspan=str(len(found)), class_="kind")
            tone, gain = _TONES[min(models.index(model), 2)], gains.get((f"exam.{kind}", model.stage))
            rows.append(el("tr", first, *_exam_cells(model, row, tone, gain)))
        bodies.append(el("tbody", *rows))
    header = [
        both("Kind", "类型"),
        both("After", "阶段"),
        el("span", el("span", "0"), el("span", "100%"), class_="scale"),
    ]
    numbers = [both("right", "答对"), both("95% interval", "95% 区间")]
    numbers += [both("p, chance", "p（随机）"), both("p, change", "p（变化）")]
    head = el("thead", el("tr", *(el("th", h) for h in header), *(el("th", h, class_="num") for h in numbers)))
    note = both(
        "p-values are adjusted for the number of kinds (Holm). Chance: exact test of more than guessing, one-sided. Change: McNemar's exact test on the same questions, two-sided.",
        "p 值已按类型数校正（Holm）。随机：高于猜测的精确单侧检验。变化：同一批题上的 McNemar 精确双侧检验。",
    )
    grid = el("div", el("table", head, *bodies), class_="scroll", tabindex="0")
    return el("div", grid, el("p", note, class_="muted"), class_="plotted exam")


def _exam_cells(model: ModelScores, row: KindScore, tone: str, gain: Comparison | None) -> list[Html]:
    score = row.score
    numbers = [percent(score.value), shares(score.low, score.high), p_value(row.p_above_chance)]
    numbers.append(p_value(gain.p_value) if gain else "")
    plot = span_plot(score.value, score.low, score.high, begin=0, end=1, tone=tone, mark=score.chance or 0.0)
    return [
        el("td", el("span", stage_label(model.stage), class_=f"key {tone}"), class_="stage"),
        el("td", plot, class_="drawn"),
        *(el("td", number, class_="num") for number in numbers),
    ]


def _exam_kind(kind: str, score: Score) -> Html:
    n, chance = f"{score.n:,}", percent(score.chance or 0.0)
    return join(
        [el("strong", kind_label(kind)), el("small", both(f"n = {n}, chance {chance}", f"n = {n}，随机 {chance}"))]
    )


def _turns(models: Sequence[ModelScores]) -> Html:
    parts = [
        join(
            [
                stage_label(model.stage),
                f" {percent(ended.value)} [{shares(ended.low, ended.high)}], n = {ended.n:,}",
            ]
        )
        for model in models
        if (ended := model.ended_turns) is not None
    ]
    if not parts:
        return Html("")
    listed = join([part for i, p in enumerate(parts) for part in ([Html("; "), p] if i else [p])])
    return join([both("Turns that the model ended by itself: ", "模型自己结束的回答："), listed, "."])


def _exam_by_language(models: Sequence[ModelScores]) -> Html | None:
    names = dict.fromkeys(score.name for model in models for score in model.exam_by_language)
    if len({name.rpartition(".")[2] for name in names}) < 2:
        return None
    rows = [
        [
            kind_label(name.split(".")[1]),
            language_label(name.rpartition(".")[2]),
            stage_label(model.stage),
            percent(score.value),
            shares(score.low, score.high),
            f"{score.n:,}",
        ]
        for name in names
        for model in models
        for score in model.exam_by_language
        if score.name == name
    ]
    header = [both("Kind", "类型"), both("Language", "语言"), both("After", "阶段"), both("right", "答对")]
    header += [both("95% interval", "95% 区间"), both("questions", "题数")]
    return fold(both("By language", "按语言"), table(header, rows, numeric=(3, 4, 5)))


def _exam_examples(model: ModelScores) -> Html | None:
    if not model.examples:
        return None
    items = [_exam_example(row) for row in model.examples]
    title = join([both("Questions and answers: ", "题目与回答："), stage_label(model.stage)])
    return fold(title, *items)


def _exam_example(row: ExamRow) -> Html:
    mark = both("right", "对") if row.right else both("wrong", "错")
    head = el("p", kind_label(row.kind), " · ", el("span", mark, class_="good" if row.right else "bad"), class_="muted")
    expected = None if row.right else el("p", both("Expected: ", "应为："), untrusted(row.expected), class_="muted")
    return el(
        "div",
        head,
        el("p", untrusted(row.question), class_="asked"),
        el("p", untrusted(row.answer), class_="wrote"),
        expected,
        class_="sample",
    )


def samples_section(samples: Sequence[Sample]) -> Html | None:
    """What the model writes, as it wrote it."""
    if not samples:
        return None
    en = "Not chosen by hand. In continuations the opening is held-out text, and what the model added is set dark."
    zh = "未经挑选。续写的开头取自留出文本，深色部分是模型所写。"
    return join([el("p", both(en, zh)), *(_sample(sample) for sample in samples)])


def _sample(sample: Sample) -> Html:
    how = both(
        f"temperature {sample.temperature:g}, seed {sample.seed}, {sample.tokens} tokens, {_ENDS[sample.finish_reason][0] if sample.finish_reason in _ENDS else sample.finish_reason}",
        f"温度 {sample.temperature:g}，种子 {sample.seed}，{sample.tokens} 个词元，{_ENDS[sample.finish_reason][1] if sample.finish_reason in _ENDS else sample.finish_reason}",
    )
    head = el("p", stage_label(sample.stage), " · ", how, class_="muted")
    if sample.kind == "answer":
        said = [el("p", untrusted(sample.prompt), class_="asked"), el("p", untrusted(sample.text), class_="wrote")]
    else:
        said = [el("p", el("span", untrusted(sample.prompt), class_="given"), untrusted(sample.text), class_="wrote")]
    return el("div", head, *said, class_="sample")


_ENDS = {
    "stop": ("ended by itself", "自行结束"),
    "length": ("cut at the limit", "到长度上限截断"),
    "context": ("context full", "上下文已满"),
}
