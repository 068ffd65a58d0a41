"""The report's sections on how the model came about: data, training, predicted against actual, lineage, machine, how to go on."""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from dunwu.build.home import Figures, StageRecord
from dunwu.build.report_data import Curve, ReportData
from dunwu.build.report_verdict import language_label, stage_label
from dunwu.core.lineage import HASH_LENGTH, flatten
from dunwu.core.page.html import Html, both, code, el, fold, join, percent, table, untrusted
from dunwu.core.units import format_bytes, format_count, format_duration

_CHARTS = (
    ("loss", "Loss, nats a token", "损失（奈特/词元）"),
    ("speed", "Tokens a second", "每秒词元数"),
    ("lr", "Learning rate, share of its peak", "学习率（占峰值）"),
)


# ------------------------------------------------------------------------------------------------------------ training


def curves_section(curves: Mapping[str, Curve]) -> Html | None:
    """Places for the curves of each run, filled by the page's script, and a few rows of numbers for those without one."""
    shown = {stage: curve for stage, curve in curves.items() if curve.steps}
    if not shown:
        return None
    button = el("button", both("logarithmic", "对数横轴"), type="button", class_="log", aria_pressed="false")
    hint = both(
        "Over tokens seen. The band holds every step, the line is its mean.",
        "横轴为已见词元数。色带包含每一步，线为均值。",
    )
    return join([el("p", hint, " ", button), *(_curve(stage, curve) for stage, curve in shown.items())])


def _curve(stage: str, curve: Curve) -> Html:
    plots = [
        el(
            "figure",
            el("figcaption", both(en, zh)),
            el("div", class_="chart", data_stage=stage, data_series=series, role="img", aria_label=f"{stage}: {en}"),
            class_=f"chart-{series}",
        )
        for series, en, zh in _CHARTS
    ]
    numbers = fold(both("Numbers", "数值"), _curve_table(curve.steps))
    return join([el("h3", stage_label(stage)), el("div", *plots, class_="charts"), numbers])


def _curve_table(steps: Sequence[Mapping[str, Any]], most: int = 12) -> Html:
    places = sorted({round(i * (len(steps) - 1) / (most - 1)) for i in range(most)})
    rows = [
        [
            f"{steps[i]['step']:,}",
            f"{steps[i]['tokens']:,}",
            f"{steps[i]['loss']:.4f}",
            f"{steps[i].get('lr_scale', math.nan):.3f}",
            f"{steps[i].get('tokens_per_s', math.nan):,.0f}",
        ]
        for i in places
    ]
    header = [both("step", "步"), both("tokens", "词元"), both("loss, nats", "损失（奈特）")]
    header += [both("learning rate / peak", "学习率/峰值"), both("tokens/s", "词元/秒")]
    return table(header, rows, numeric=range(5))


def incidents_section(data: ReportData) -> Html | None:
    """What went wrong in training and what was done about it."""
    rows = [
        [stage_label(stage), f"{incident['step'] + 1:,}", _incident_kind(incident), str(incident.get("reason", ""))]
        for stage, curve in data.curves.items()
        for incident in curve.incidents
    ]
    resumed = [
        el("p", stage_label(stage), both(f": interrupted, and resumed from step {at:,}", f"：中断后从第 {at:,} 步恢复"))
        for stage, record in data.records.items()
        if isinstance(at := record.facts.get("resumed_from"), int)
    ]
    if not data.curves:
        return None
    if not rows and not resumed:
        return el("p", both("None: no batch was skipped, nothing was rewound.", "无：没有跳过的批次，没有回退。"))
    header = [both("Stage", "阶段"), both("step", "步"), both("what was done", "处理"), both("why", "原因")]
    return join([*resumed, table(header, rows, numeric=(1,)) if rows else None])


def _incident_kind(incident: Mapping[str, Any]) -> Html:
    kinds = {"skip": both("batch skipped", "跳过批次"), "rewind": both("went back", "回退")}
    return kinds.get(incident["incident"]) or el("span", str(incident["incident"]))


# ---------------------------------------------------------------------------------------------- predicted and actual


def predicted_section(data: ReportData) -> Html | None:
    """Time, memory and tokens of each stage: as predicted before it ran, and as they came."""
    records = data.records
    if not records:
        return None
    rows = [_predicted_row(stage_label(name), record.predicted, record.actual) for name, record in records.items()]
    rows.append(_predicted_row(el("strong", both("together", "合计")), *_totals(list(records.values()))))
    header = [both("Stage", "阶段")]
    header += [both("predicted", "预测"), both("actual", "实际"), both("ratio", "比")] * 3
    groups = [("", 1), (both("Time", "时间"), 3), (both("Peak memory", "内存峰值"), 3), (both("Tokens", "词元"), 3)]
    note = both(
        "Predicted before each stage ran, from a probe of this machine. Ratio: actual / predicted. One build: n = 1, no intervals.",
        "各阶段运行前根据本机探测所作的预测。比：实际/预测。一次构建（n = 1），没有区间。",
    )
    grid = table(header, rows, numeric=range(1, 10), groups=groups)
    return join([grid, el("p", note, class_="muted"), _arithmetic(data)])


def _arithmetic(data: ReportData) -> Html | None:
    """What the training stages computed, and how near to the machine's peak."""
    rows: list[list[Html | str]] = []
    for stage, curve in data.curves.items():
        figures, facts = data.records[stage].actual, data.records[stage].facts
        peak_shares = [float(step["share_of_peak"]) for step in curve.steps if "share_of_peak" in step]
        seconds = curve.steps[-1].get("seconds") if curve.steps else None
        rows.append(
            [
                stage_label(stage),
                format_count(figures.parameters) if figures.parameters else "—",
                f"{facts['epochs']:.2f}" if "epochs" in facts else "—",
                f"{figures.flops:.2e}" if figures.flops else "—",
                f"{figures.flops / seconds / 1e9:,.1f}" if figures.flops and seconds else "—",
                percent(median(peak_shares)) if peak_shares else "—",
            ]
        )
    if not rows:
        return None
    header = [both("Stage", "阶段"), both("parameters", "参数"), both("passes over the text", "遍历文本次数"), "FLOPs"]
    header += ["GFLOP/s", both("of peak, median of steps", "占峰值（各步中位数）")]
    return fold(both("Arithmetic", "计算量"), table(header, rows, numeric=range(1, 6)))


def _predicted_row(label: Html, predicted: Figures, actual: Figures) -> list[Html | str]:
    row: list[Html | str] = [label]
    for key, form in (("seconds", format_duration), ("peak_bytes", format_bytes), ("tokens", format_count)):
        before, after = getattr(predicted, key), getattr(actual, key)
        row += ["—" if value is None else form(value) for value in (before, after)]
        row.append(f"{after / before:.2f}" if before and after is not None else "—")
    return row


def _totals(records: Sequence[StageRecord]) -> tuple[Figures, Figures]:
    def total(figures: Sequence[Figures]) -> Figures:
        peaks = [f.peak_bytes for f in figures if f.peak_bytes is not None]
        known = [f.seconds for f in figures if f.seconds is not None]
        return Figures(seconds=sum(known) if known else None, peak_bytes=max(peaks) if peaks else None)

    return total([record.predicted for record in records]), total([record.actual for record in records])


# ---------------------------------------------------------------------------------------------------------------- data


def data_section(card: Mapping[str, Any]) -> Html | None:
    """The data card: what was read, kept, dropped and by which rule, with samples."""
    if not card:
        return None
    facts = card.get("facts", {})
    en = f"{_count(facts, 'train_documents')} documents ({_size(facts, 'train_bytes')}) were learned from; {_count(facts, 'heldout_documents')} ({_size(facts, 'heldout_bytes')}) were held out."
    zh = f"{_count(facts, 'train_documents')} 篇文档（{_size(facts, 'train_bytes')}）用于学习，{_count(facts, 'heldout_documents')} 篇（{_size(facts, 'heldout_bytes')}）留出。"
    parts = [
        el("p", both(en, zh)),
        _sources(card.get("sources", [])),
        _dropped(card),
        _languages(card.get("languages", {})),
        _split(card.get("split", {})),
        _removed(card),
        _problems(card.get("problems", {})),
        _kept_samples(card.get("sources", [])),
    ]
    return join(parts)


def _count(facts: Mapping[str, Any], key: str) -> str:
    return f"{facts[key]:,}" if key in facts else "?"


def _size(facts: Mapping[str, Any], key: str) -> str:
    return format_bytes(facts[key]) if key in facts else "?"


def _sources(sources: Sequence[Mapping[str, Any]]) -> Html | None:
    rows = []
    for source in sources:
        dropped = source.get("dropped", {}).values()
        row = [untrusted(str(source.get("name", "")))]
        for tally in (source.get("read", {}), source.get("kept", {})):
            row += [_count(tally, "documents"), _size(tally, "bytes")]
        rows.append([*row, f"{sum(tally.get('documents', 0) for tally in dropped):,}"])
    header = [both("Source", "来源"), both("read", "读入"), both("bytes", "字节"), both("kept", "保留")]
    header += [both("bytes", "字节"), both("dropped", "丢弃")]
    return table(header, rows, numeric=range(1, 6)) if rows else None


def _dropped(card: Mapping[str, Any]) -> Html | None:
    dropped: Mapping[str, Any] = card.get("dropped", {})
    meanings = {rule.get("name"): rule for rule in card.get("rules", [])}
    rows = [
        [
            el("code", rule),
            _meaning(rule, meanings),
            _count(tally, "documents"),
            _size(tally, "bytes"),
        ]
        for rule, tally in dropped.items()
    ]
    if not rows:
        return el("p", both("No document was dropped.", "没有丢弃任何文档。"))
    header = [both("Dropped by rule", "丢弃规则"), both("meaning · source of the rule", "含义·出处")]
    header += [both("documents", "文档数"), both("bytes", "字节")]
    samples = [
        join([el("h4", el("code", rule)), *_samples(tally.get("samples", []))]) for rule, tally in dropped.items()
    ]
    return join(
        [table(header, rows, numeric=(2, 3)), fold(both("Samples of what was dropped", "被丢弃文本样例"), *samples)]
    )


def _meaning(rule: str, meanings: Mapping[Any, Mapping[str, Any]]) -> Html:
    if rule in _MEANINGS:
        return both(*_MEANINGS[rule])
    known = meanings.get(rule, {})
    return el("span", " · ".join(str(known[key]) for key in ("threshold", "source") if known.get(key)))


_MEANINGS = {
    "duplicate": ("the same text as an earlier document", "与前面的文档完全相同"),
    "near_duplicate": ("nearly the same text as an earlier document (MinHash)", "与前面的文档近乎相同（MinHash）"),
}


def _samples(samples: Sequence[Mapping[str, Any]]) -> list[Html]:
    return [
        el(
            "div",
            el("p", untrusted(str(sample.get("source", ""))), class_="muted"),
            el("p", untrusted(str(sample.get("text", "")))),
            class_="sample",
        )
        for sample in samples
    ]


def _kept_samples(sources: Sequence[Mapping[str, Any]]) -> Html | None:
    samples = [sample for source in sources for sample in source.get("kept", {}).get("samples", [])[:3]]
    return fold(both("Samples of what was kept", "被保留文本样例"), *_samples(samples)) if samples else None


def _languages(languages: Mapping[str, Mapping[str, Any]]) -> Html | None:
    rows = [[language_label(name), _count(t, "documents"), _size(t, "bytes")] for name, t in languages.items()]
    header = [both("Language", "语言"), both("documents", "文档数"), both("bytes", "字节")]
    return fold(both("Languages", "语言"), table(header, rows, numeric=(1, 2))) if rows else None


def _split(split: Mapping[str, Any]) -> Html | None:
    rows = [
        [
            language_label(language),
            str(part.get("unit", "")),
            _count(part, "units"),
            _count(part, "heldout_units"),
            str(part.get("why", "")),
        ]
        for language, part in split.get("languages", {}).items()
    ]
    notes = [el("p", str(note), class_="muted") for note in split.get("notes", [])]
    if not rows and not notes:
        return None
    header = [both("Language", "语言"), both("unit", "单位"), both("units", "单位数")]
    header += [both("held out", "留出"), both("why", "原因")]
    return fold(
        both("How text was held out", "如何留出"), table(header, rows, numeric=(2, 3)) if rows else None, *notes
    )


def _removed(card: Mapping[str, Any]) -> Html | None:
    rows = [
        [
            both("boilerplate", "样板文字"),
            el("code", rule),
            f"{value.get('characters', 0):,}",
            both("characters", "字符"),
        ]
        for rule, value in card.get("boilerplate", {}).items()
    ]
    rows += [
        [both("personal data and secrets", "个人信息与密钥"), el("code", kind), f"{count:,}", both("places", "处")]
        for kind, count in card.get("redactions", {}).items()
    ]
    cut = card.get("decontamination", {}).get("paragraphs_cut", 0)
    if cut:
        rows.append([both("overlap with the exam", "与考题重叠"), "", f"{cut:,}", both("paragraphs", "段")])
    header = [both("Removed inside documents", "文档内删除"), both("rule", "规则"), both("count", "数量"), ""]
    return table(header, rows, numeric=(2,)) if rows else None


def _problems(problems: Mapping[str, Any]) -> Html | None:
    if not problems.get("count"):
        return None
    rows = [[untrusted(str(p.get("source", ""))), str(p.get("reason", ""))] for p in problems.get("first", [])]
    count = problems["count"]
    title = both(f"{count:,} files or rows could not be read", f"{count:,} 个文件或行无法读取")
    return fold(title, table([both("where", "位置"), both("why", "原因")], rows))


# ------------------------------------------------------------------------------------------------------------- lineage


def lineage_section(data: ReportData) -> Html | None:
    """From raw files to weights: each link names its inputs by hash, so a change anywhere above changes all below."""
    if not data.records:
        return None
    en = "Each stage is named by a hash of all that it depends on: its settings, its code's version, and the hashes above it. A change anywhere changes every name below."
    zh = "每个阶段以其全部依赖的哈希命名：设置、代码版本和上游的哈希。任何改动都会改变其下所有名字。"
    files = data.card.get("lineage", [])
    raw = _link(both("raw files", "原始文件"), _raw_files(data), None) if files else None
    links = [
        _link(stage_label(name), _outputs(record), record.hash)
        for name, record in data.records.items()
        if name != "evaluate"
    ]
    rows = [
        [untrusted(str(_file_name(row))), _size(row, "bytes"), _hash(str(row.get("sha256", "")))] for row in files[:500]
    ]
    header = [both("Raw file", "原始文件"), both("bytes", "字节"), "SHA-256"]
    return join(
        [
            el("p", both(en, zh)),
            el("ol", raw, *links, class_="chain"),
            fold(both("Raw files", "原始文件"), table(header, rows, numeric=(1,))) if rows else None,
            fold(both("Files of every stage", "各阶段文件"), _stage_files(data.records)),
        ]
    )


def _raw_files(data: ReportData) -> Html:
    """How many files each source gave, and one hash over the names and hashes of them all."""
    corpus = data.records.get("corpus")
    inputs: Mapping[str, Any] = corpus.identity.get("inputs", {}) if corpus else {}
    parts = [
        join([untrusted(name), ": ", _files(_count(source, "files")), " ", _hash(str(source.get("sha256", ""))), " "])
        for name, source in inputs.items()
    ]
    return join(parts) if parts else _files(f"{len(data.card.get('lineage', [])):,}")


def _files(count: str) -> Html:
    return both(f"{count} files", f"{count} 个文件")


def _file_name(row: Mapping[str, Any]) -> Any:
    return next((row[key] for key in ("file", "path", "name", "source") if key in row), "")


def _link(label: Html, detail: Html, stage_hash: str | None) -> Html:
    return el(
        "li", el("strong", label), " ", _hash(stage_hash) if stage_hash else None, el("span", detail, class_="muted")
    )


def _hash(value: str) -> Html:
    return el("code", value[:HASH_LENGTH], title=value, class_="hash")


def _outputs(record: StageRecord) -> Html:
    weights = [(name, file) for name, file in record.files.items() if name.endswith((".safetensors", "tokenizer.json"))]
    parts = [join([f" {name} ", _hash(file.sha256), f" {format_bytes(file.bytes)}"]) for name, file in weights[:1]]
    return join(parts) if parts else _files(f"{len(record.files):,}")


def _stage_files(records: Mapping[str, StageRecord]) -> Html:
    rows = [
        [stage_label(stage), name, format_bytes(file.bytes), _hash(file.sha256)]
        for stage, record in records.items()
        for name, file in record.files.items()
    ]
    header = [both("Stage", "阶段"), both("File", "文件"), both("bytes", "字节"), "SHA-256"]
    return table(header, rows, numeric=(2,))


# ------------------------------------------------------------------------------------------- settings, machine, go on


def settings_section(data: ReportData) -> Html | None:
    """The model's shape, what `auto` became, what each stage found, and the machine."""
    parts: list[Html] = []
    if data.config:
        shown = [[key, _plain(value)] for key, value in data.config.items() if not isinstance(value, dict | list)]
        parts.append(fold(both("Model configuration", "模型配置"), _pairs(shown)))
    chosen = [
        [stage_label(stage), key, _plain(value)]
        for stage, record in data.records.items()
        for key, value in flatten(record.resolved).items()
        if key
    ]
    if chosen:
        header = [both("Stage", "阶段"), both("setting", "设置"), both("value", "取值")]
        parts.append(fold(both("What “auto” became", "“auto” 的取值"), table(header, chosen)))
    for stage, record in data.records.items():
        found = [] if stage == "evaluate" else [[key, _plain(v)] for key, v in flatten(record.facts).items() if key]
        if found:
            title = join([both("Facts found: ", "所得事实："), stage_label(stage)])
            parts.append(fold(title, _pairs(found[:80])))
    machine = _machine(data.records)
    return join([machine, *parts]) if parts or machine else None


def _pairs(rows: Sequence[Sequence[str]]) -> Html:
    return table(
        [both("name", "名称"), both("value", "值")], [[el("code", key), untrusted(value)] for key, value in rows]
    )


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _machine(records: Mapping[str, StageRecord]) -> Html | None:
    machines = {tuple(sorted((k, str(v)) for k, v in r.machine.items())): r for r in records.values() if r.machine}
    rows: list[list[Html | str]] = []
    for record in machines.values():
        facts = record.machine
        name = untrusted(f"{facts.get('name', '?')} ({facts.get('device', '?')})")
        memory = _size(facts, "memory_bytes")
        versions = f"dunwu {record.dunwu}, torch {facts.get('torch', '?')}, {facts.get('system', '')}"
        rows.append([name, _plain(facts.get("cores")), memory, versions, record.finished[:10]])
    header = [
        both("Machine", "机器"),
        both("cores", "核数"),
        both("memory", "内存"),
        both("software", "软件"),
        both("date", "日期"),
    ]
    return table(header, rows, numeric=(1, 2)) if rows else None


def _short(folder: Path) -> str:
    """Relative to the working folder where it lies below it: a report that is passed on tells no more than it must."""
    here = Path.cwd()
    return str(folder.resolve().relative_to(here)) if folder.resolve().is_relative_to(here) else str(folder)


def go_on_section(data: ReportData) -> Html:
    """Commands to talk to the model, to build it again, and the recipe."""
    home = shlex.quote(_short(data.folder))
    return join(
        [
            el("p", both("Talk to it:", "与它对话：")),
            code(f"dunwu chat {home}"),
            el(
                "p",
                both("Build it again, from the same documents and the same recipe:", "用同样的文档和配方重新构建："),
            ),
            code(f"dunwu build {home}/recipe.yaml"),
            fold(both("The recipe", "配方"), code(data.recipe)) if data.recipe else None,
        ]
    )
