"""`report.html`: one self-contained page on a build, honest about what is not good. It asks nothing of any network."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from dunwu.align.doctor.finding import Finding as Seen
from dunwu.build.aligned import findings_of
from dunwu.build.home import TRAINING_STAGES
from dunwu.build.report_align import card_findings, card_section, rl_curves, rl_section
from dunwu.build.report_charts import thin_rows
from dunwu.build.report_data import Curve, ReportData, collect
from dunwu.build.report_forecast import forecast_section
from dunwu.build.report_forgetting import forgetting_findings, forgetting_section
from dunwu.build.report_measures import exam_section, heldout_section, samples_section
from dunwu.build.report_preference import preference_findings
from dunwu.build.report_records import (
    curves_section,
    data_section,
    go_on_section,
    incidents_section,
    lineage_section,
    predicted_section,
    settings_section,
)
from dunwu.build.report_reward import reward_findings, reward_section
from dunwu.build.report_tuning import tuned_in_short, tuning_findings
from dunwu.build.report_verdict import STAGES, findings
from dunwu.core.files import write_text
from dunwu.core.page.frame import framed
from dunwu.core.page.html import Html, both, el, embed_json, figure, fold, join, percent, untrusted
from dunwu.core.units import format_bytes, format_count, format_duration

RL = "rl"
_MARKS = {"good": "✓", "bad": "✗", "open": "~"}


def write_report(home: Path) -> Path:
    """Write `home/report.html` from what the finished stages left there; returns its path.

    A stage that is absent leaves its sections out; a file that cannot be read is named in the page. Raises DiskError.
    """
    path = home / "report.html"
    write_text(path, render_report(collect(home)))
    return path


def render_report(data: ReportData) -> str:
    """The page as a string."""
    sections = [
        ("gain", both("Gain and forgetting", "增益与遗忘"), _gain(data)),
        ("heldout", both("Text it never saw", "未见过的文本"), heldout_section(data.evaluation)),
        ("alignment", both("Alignment", "对齐"), card_section(data.alignment)),
        ("exam", both("Exam", "考试"), exam_section(data.evaluation)),
        ("reward", both("Reward model", "奖励模型"), reward_section(data.records)),
        ("samples", both("What it writes", "它写的文字"), samples_section(data.evaluation.samples)),
        ("rewards", both("Learning from rewards", "从奖励中学习"), _rl(data)),
        ("training", both("Training", "训练过程"), curves_section(_on_text(data))),
        ("incidents", both("Incidents", "异常"), incidents_section(data)),
        ("data", both("Data card", "数据卡"), data_section(data.card)),
        ("forecasts", both("Forecasts", "预测"), forecast_section(data.forecasts)),
        ("predicted", both("Predicted and actual", "预测与实际"), predicted_section(data)),
        ("lineage", both("Lineage", "来源链"), lineage_section(data)),
        ("settings", both("Settings and machine", "设置与机器"), settings_section(data)),
        ("go-on", both("Go on", "继续"), go_on_section(data)),
    ]
    curves: dict[str, Any] = {stage: thin_rows(curve.steps) for stage, curve in _on_text(data).items() if curve.steps}
    if data.curves.get(RL) and data.curves[RL].steps:
        curves[RL] = rl_curves(data.curves[RL].steps, _seen(data))
    return framed(
        name=data.name,
        kind=both("dunwu · build report", "dunwu · 构建报告"),
        lead=_what_was_built(data),
        below=_summary(data),
        sections=sections,
        footer=_footer(data),
        data=embed_json(curves, "curves"),
        script=files("dunwu.build").joinpath("report.js").read_text("utf-8"),
    )


def _on_text(data: ReportData) -> dict[str, Curve]:
    """Runs that learned from text as it is: their loss says how far they are."""
    return {stage: curve for stage, curve in data.curves.items() if stage != RL}


def _rl(data: ReportData) -> Html | None:
    return rl_section(data.curves[RL].steps, _seen(data), data.records[RL].facts) if RL in data.curves else None


def _seen(data: ReportData) -> list[Seen]:
    return findings_of({name: record.facts for name, record in data.records.items()})


def _gain(data: ReportData) -> Html | None:
    facts = {name: record.facts for name, record in data.records.items()}
    return forgetting_section(data.scorecard, facts.get("pretrain", {}), facts.get("tokenizer", {}))


def _footer(data: ReportData) -> str:
    last = max((record.finished for record in data.records.values()), default="")
    versions = sorted({record.dunwu for record in data.records.values()})
    return " · ".join(part for part in (f"dunwu {', '.join(versions)}" if versions else "dunwu", last) if part)


def _summary(data: ReportData) -> list[Html | None]:
    """What counts, in short."""
    found = [
        el("li", el("span", _MARKS[f.outcome], class_=f"outcome {f.outcome}"), el("span", f.text))
        for f in (
            *forgetting_findings(data.scorecard),
            *tuning_findings(data.records),
            *preference_findings(data.records),
            *card_findings(data.alignment, _seen(data)),
            *reward_findings(data.records),
            *findings(data.evaluation),
        )
    ]
    verdict = el("ul", *found, class_="verdict") if found else el("p", both("Nothing was measured.", "没有测量结果。"))
    missing = [el("li", text) for text in data.missing]
    return [
        _key_figures(data),
        verdict,
        fold(both("Parts that could not be read", "无法读取的部分"), el("ul", *missing)) if missing else None,
    ]


def _what_was_built(data: ReportData) -> Html:
    if not data.records:
        return both("No stage of this build is finished yet.", "这次构建还没有完成的阶段。")
    facts = data.card.get("facts", {})
    model = _parameters(data)
    en, zh = "A language model", "一个语言模型"
    if model:
        en, zh = f"A language model of {format_count(model)} parameters", f"一个 {format_count(model)} 参数的语言模型"
    if "train_bytes" in facts and "base" in data.records:
        name = join([untrusted(data.records["base"].facts["name"])])
        size, documents = format_bytes(facts["train_bytes"]), f"{facts.get('train_documents', 0):,}"
        en = join([en, ", made of ", name, f" by going on with {size} of text in {documents} documents"])
        zh = join([zh, "，以 ", name, f" 为基座，用 {documents} 篇文档共 {size} 文本继续训练而成"])
    elif "train_bytes" in facts:
        en += f", grown from {format_bytes(facts['train_bytes'])} of text in {facts.get('train_documents', 0):,} documents"
        zh += f"，由 {facts.get('train_documents', 0):,} 篇文档共 {format_bytes(facts['train_bytes'])} 文本训练而成"
    if (tuned := tuned_in_short(data.records)) is not None:
        en, zh = join([en, tuned[0]]), join([zh, tuned[1]])
    seconds = sum(record.actual.seconds or 0.0 for record in data.records.values())
    return both(
        join([en, f"; its stages took {format_duration(seconds)}."]),
        join([zh, f"；各阶段共用时 {format_duration(seconds)}。"]),
    )


def _parameters(data: ReportData) -> int | None:
    """The parameters that a training stage counted."""
    for stage in reversed(TRAINING_STAGES):
        record = data.records.get(stage)
        if record and record.actual.parameters:
            return record.actual.parameters
        if record and (record.predicted.parameters or record.facts.get("parameters")):
            return record.predicted.parameters or record.facts["parameters"]
    return None


def _key_figures(data: ReportData) -> Html | None:
    tiles = [*_model_tiles(data), *_score_tiles(data)]
    cells = [el("div", el("dt", label), el("dd", value, el("small", note))) for label, value, note in tiles]
    return el("dl", *cells, class_="tiles") if cells else None


def _model_tiles(data: ReportData) -> list[tuple[Html, str, Html]]:
    tiles: list[tuple[Html, str, Html]] = []
    if parameters := _parameters(data):
        config: Mapping[str, Any] = data.config
        shape = both(
            f"{config.get('num_hidden_layers', '?')} layers, width {config.get('hidden_size', '?')}",
            f"{config.get('num_hidden_layers', '?')} 层，宽 {config.get('hidden_size', '?')}",
        )
        tiles.append((both("Parameters", "参数"), format_count(parameters), shape if config else Html("")))
    tokens = {stage: curve.steps[-1]["tokens"] for stage, curve in _on_text(data).items() if curve.steps}
    if "pretrain" in tokens:
        extra = f"{format_count(tokens['sft'])}" if "sft" in tokens else ""
        note = both(f"and {extra} in fine-tuning", f"另有微调 {extra}") if extra else Html("")
        tiles.append((both("Tokens seen", "已见词元"), format_count(tokens["pretrain"]), note))
    return tiles


def _score_tiles(data: ReportData) -> list[tuple[Html, str, Html]]:
    tiles: list[tuple[Html, str, Html]] = []
    own = [m for m in data.evaluation.models if m.stage != "base"]
    first = next((m for m in own if m.bits_per_byte is not None), None)
    if first is not None and (measured := first.bits_per_byte) is not None:
        stage, stage_zh = STAGES.get(first.stage, (first.stage, first.stage))
        limits = f"{figure(measured.low, 2)} – {figure(measured.high, 2)}, "
        note = both(
            f"{limits}{measured.n:,} documents, after {stage}", f"{limits}{measured.n:,} 篇文档，{stage_zh}之后"
        )
        tiles.append((both("Bits per byte", "每字节比特"), figure(measured.value), note))
    exam = next((m.exam for m in reversed(data.evaluation.models) if m.exam), ())
    if exam:
        kinds = sorted(row.score.value for row in exam)
        note = both(
            f"worst kind {percent(kinds[0])}, best {percent(kinds[-1])}",
            f"最低 {percent(kinds[0])}，最高 {percent(kinds[-1])}",
        )
        tiles.append((both("Exam, mean of kinds", "考试（各类均值）"), percent(sum(kinds) / len(kinds)), note))
    return tiles
