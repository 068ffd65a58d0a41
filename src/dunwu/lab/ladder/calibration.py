"""All forecasts that were ever made, and what came of them."""

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from dunwu.core.units import format_count
from dunwu.lab.estimates import estimates_line, shown
from dunwu.lab.ladder.record import ForecastRecord, ScoreRecord
from dunwu.lab.record import Experiment, Figure, Line, Table, Words

Row = tuple[ForecastRecord, ScoreRecord | None]
COLUMNS = ("name", "number", "made", "parameters", "tokens", "foretold", "low", "high", "measured", "error", "inside")


def score_lines(rows: Sequence[Row]) -> Iterator[str]:
    """For a person: each forecast in a line, then all together."""
    for record, score in rows:
        yield f"{record.name} {record.number:04}  {record.made}  {_what(record)}: {_came(record, score)}"
    yield _together(rows)[0]


def score_facts(rows: Sequence[Row]) -> dict[str, Any]:
    """All figures."""
    scored = [score for _, score in rows if score is not None]
    return {
        "forecasts": len(rows),
        "scored": len(scored),
        "inside": sum(score.inside for score in scored),
        "median_error": median(abs(score.error) for score in scored) if scored else None,
        "rows": [_row(record, score) for record, score in rows],
    }


def calibration(rows: Sequence[Row]) -> Experiment:
    """Foretold against measured bits per byte, as a page."""
    scored = [score for _, score in rows if score is not None]
    return Experiment(
        name="calibration",
        title=("Forecasts and what came of them", "预测与结果"),
        method=(
            "Each forecast was put on record before its target was trained, and is held against the held-out bits per byte of the "
            "training that came nearest to it, by the law as it was on record, for the size and tokens that were trained.",
            "每个预测都在训练目标之前存档，再与最接近目标的训练在保留文本上的每字节比特数比较；所用规律以存档为准，按实际训练的规模与词元数计算。",
        ),
        n=f"{len(rows)} forecasts, {len(scored)} scored",
        seeds=sorted({int(record.fit["seed"]) for record, _ in rows}),
        failure=(
            "Of many forecasts clearly fewer inside their 90% intervals than 90%, or errors that all point one way.",
            "若大量预测落在其 90% 区间内的比例明显低于 90%，或误差都偏向同一侧，即为失败。",
        ),
        findings=[_together(rows)],
        figures=[_figure(scored)] if scored else [],
        tables=[
            Table(
                name="forecasts",
                title=("All forecasts", "全部预测"),
                columns=COLUMNS,
                rows=[_cells(record, score) for record, score in rows],
            )
        ],
        facts=score_facts(rows),
    )


def _figure(scored: Sequence[ScoreRecord]) -> Figure:
    measured = [score.trained.bits_per_byte for score in scored]
    foretold = estimates_line("forecast", measured, [score.foretold for score in scored], "points")
    line = sorted(measured)
    return Figure(
        name="calibration",
        title=("Foretold and measured", "预测值与实测值"),
        x_label=("measured, bits per byte", "实测，比特/字节"),
        y_label=("foretold, bits per byte", "预测，比特/字节"),
        lines=[foretold, Line(label="measured = foretold", x=line, y=line, mark="dashed")],
    )


def _cells(record: ForecastRecord, score: ScoreRecord | None) -> list[str | float | int | None]:
    said = record.bits_per_byte if score is None else score.foretold
    came = (
        (None, None, None)
        if score is None
        else (score.trained.bits_per_byte, score.error, "yes" if score.inside else "no")
    )
    return [
        record.name, record.number, record.made, round(record.size), round(record.tokens), said.value, said.low, said.high, *came,
    ]  # fmt: skip


def _row(record: ForecastRecord, score: ScoreRecord | None) -> dict[str, Any]:
    row = dict(zip(COLUMNS, _cells(record, score), strict=True))
    return {**row, "inside": None if score is None else score.inside}


def _what(record: ForecastRecord) -> str:
    return f"{format_count(record.size)} parameters, {format_count(record.tokens)} tokens"


def _came(record: ForecastRecord, score: ScoreRecord | None) -> str:
    if score is None:
        return f"{shown(record.bits_per_byte, '.4f')} bits per byte foretold; not trained since"
    place = "inside" if score.inside else "outside"
    return (
        f"{shown(score.foretold, '.4f')} bits per byte foretold, {score.trained.bits_per_byte:.4f} measured: "
        f"{score.error:+.1%}, {place} the {record.confidence:.0%} interval"
    )


def came_of(record: ForecastRecord, score: ScoreRecord | None) -> str:
    """A forecast and what came of it, in a line."""
    return f"{_what(record)}: {_came(record, score)}"


def _together(rows: Sequence[Row]) -> Words:
    scored = [score for _, score in rows if score is not None]
    if not scored:
        return (
            f"{len(rows)} forecasts, none scored yet: build what was forecast, in the same home",
            f"共 {len(rows)} 个预测，尚无一个有结果",
        )
    inside, off = sum(score.inside for score in scored), median(abs(score.error) for score in scored)
    return (
        f"{len(rows)} forecasts, {len(scored)} scored: {inside} inside their intervals; half were off by {off:.1%} or less",
        f"共 {len(rows)} 个预测，{len(scored)} 个已有结果：{inside} 个落在区间内；误差中位数 {off:.1%}",
    )
