"""The report's section on forecasts: what was foretold of this home's trainings, and what came of it."""

from dunwu.build.forecast_scores import Scored
from dunwu.core.page.html import Html, both, el, figure, interval, join, percent, table
from dunwu.core.units import format_count
from dunwu.lab.ladder.record import ForecastRecord, ScoreRecord


def forecast_section(rows: Scored) -> Html | None:
    """A row a forecast; None where there is none."""
    if not rows:
        return None
    en = "Put on record by dunwu predict before the training, and scored by the law as it was on record, for the size and tokens that were trained."
    zh = "由 dunwu predict 在训练前存档；评分按存档时的规律，针对实际训练的规模与词元数计算。"
    head = [
        both("made", "存档时间"), both("parameters, tokens", "参数量、词元"), both("bits per byte foretold", "预测比特/字节"),
        both("measured", "实测"), both("off by", "偏差"), both("inside the interval", "在区间内"),
    ]  # fmt: skip
    return join([el("p", both(en, zh)), table(head, [_row(record, score) for record, score in rows])])


def _row(record: ForecastRecord, score: ScoreRecord | None) -> list[Html | str]:
    said = record.bits_per_byte if score is None else score.foretold
    foretold = join([figure(said.value, 4), " ", interval(said.low, said.high, 4)])
    what = f"{format_count(record.size)}, {format_count(record.tokens)}"
    if score is None:
        return [record.made, what, foretold, both("not trained since", "尚未训练"), "", ""]
    inside = both("yes", "是") if score.inside else both("no", "否")
    return [record.made, what, foretold, figure(score.trained.bits_per_byte, 4), percent(score.error, 1), inside]
