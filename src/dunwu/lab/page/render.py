"""An experiment as one page, in English and 中文, with figures that can be asked. It asks nothing of any network."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from dunwu import __version__
from dunwu.core.nulls import with_nulls
from dunwu.core.page.frame import framed
from dunwu.core.page.html import Html, both, el, embed_json, figure, join, table
from dunwu.lab.record import Cell, Experiment, Figure, Line, Table

DIGITS = 4  # of a number in a table; its CSV has all


def experiment_page(experiment: Experiment) -> str:
    """The page as a string. Its links lead to the files beside it."""
    own = files("dunwu.lab.page")
    uplot = own.joinpath("uplot")
    first, *others = experiment.findings or [("Nothing was found.", "没有发现。")]
    return framed(
        name=experiment.title[0],
        heading=both(*experiment.title),
        kind=both("dunwu · the lab", "dunwu · 实验室"),
        lead=both(*first),
        below=[el("ul", *(el("li", both(*words)) for words in others), class_="findings") if others else None],
        sections=[
            *((one.name, both(*one.title), _figure(one, number)) for number, one in enumerate(experiment.figures)),
            *((one.name, both(*one.title), _table(one)) for one in experiment.tables),
            ("method", both("Method", "方法"), _method(experiment)),
        ],
        footer=f"dunwu {__version__}",
        data=embed_json([_data(one) for one in experiment.figures], "figures"),
        style=uplot.joinpath("uPlot.min.css").read_text("utf-8") + own.joinpath("figures.css").read_text("utf-8"),
        script=uplot.joinpath("uPlot.iife.min.js").read_text("utf-8") + own.joinpath("figures.js").read_text("utf-8"),
    )


def _method(experiment: Experiment) -> Html:
    seeds = ", ".join(map(str, experiment.seeds))
    rows = [
        (both("How", "做法"), both(*experiment.method)),
        (both("Measured on", "样本"), el("span", experiment.n)),
        (both("Seeds", "随机种子"), el("span", seeds) if seeds else both("none drawn", "未抽样")),
        (both("What would have counted as failure", "怎样才算失败"), both(*experiment.failure)),
        (both("All numbers", "全部数据"), el("a", "experiment.json", href="experiment.json")),
    ]
    return el("dl", *(el("div", el("dt", name), el("dd", said)) for name, said in rows), class_="method")


# ------------------------------------------------------------------------------------------------------------ figures


def _figure(one: Figure, number: int) -> Html:
    title = " · ".join(one.title)
    live = el(
        "div",
        el("p", both(*one.y_label), class_="y-label"),
        el("div", class_="live", tabindex="0", role="group", aria_label=title, aria_describedby=f"{one.name}-keys"),
        el("p", both(*one.x_label), class_="x-label"),
        el("p", class_="spoken", aria_live="polite"),
        el("p", _KEYS, class_="spoken", id=f"{one.name}-keys"),
        el("div", class_="series", role="group", aria_label="Series · 曲线"),
        class_="live-part",
        hidden="",
    )
    tools = el(
        "div", *_axis_buttons(one), _WHOLE, el("span", class_="where"), _files(one.name, "svg", "csv"), class_="tools"
    )
    without = (
        Html("<noscript>") + both("Without scripts, open the SVG:", "未启用脚本，请打开 SVG：") + Html("</noscript>")
    )
    return el("div", Html(without), live, tools, class_="figure", data_figure=str(number))


_KEYS = both("Arrow keys move along the lines; Escape shows the whole.", "方向键沿曲线移动；Esc 显示全部。")
_WHOLE = el("button", both("Whole", "显示全部"), type="button", class_="whole", hidden="")


def _axis_buttons(one: Figure) -> list[Html]:
    """A switch for each axis on which all that is drawn can stand on a logarithmic one."""
    shown: list[Html] = []
    for axis, log, values in (
        ("x", one.x_log, [x for line in one.lines for x in line.x]),
        ("y", one.y_log, [y for line in one.lines for y in _heights(line)]),
    ):
        if log or all(value > 0 for value in values if value == value):
            text = both(f"log {axis}", f"{axis} 轴对数")
            shown.append(el("button", text, type="button", data_axis=axis, aria_pressed=str(log).lower()))
    return shown


def _heights(line: Line) -> list[float]:
    return [*line.y, *(line.low if line.low is not None else ()), *(line.high if line.high is not None else ())]


def _files(name: str, *endings: str) -> Html:
    return el("span", *(el("a", ending.upper(), href=f"{name}.{ending}") for ending in endings), class_="files")


def _data(one: Figure) -> dict[str, Any]:
    """What the page's script draws from."""
    return {
        "x_label": list(one.x_label),
        "x_log": one.x_log,
        "y_log": one.y_log,
        "rules": [[axis, float(value), label] for axis, value, label in one.rules],
        "lines": [
            {
                "label": line.label,
                "mark": line.mark,
                "x": _numbers(line.x),
                "y": _numbers(line.y),
                "low": None if line.low is None else _numbers(line.low),
                "high": None if line.high is None else _numbers(line.high),
            }
            for line in one.lines
        ],
    }


def _numbers(values: Sequence[float]) -> list[float | None]:
    return with_nulls([float(f"{float(value):.7g}") for value in values])


# ------------------------------------------------------------------------------------------------------------- tables


def _table(one: Table) -> Html:
    numeric = [
        at for at in range(len(one.columns)) if one.rows and all(not isinstance(row[at], str) for row in one.rows)
    ]
    rows = [[_cell(cell) for cell in row] for row in one.rows]
    return join([table(list(one.columns), rows, numeric=numeric), el("div", _files(one.name, "csv"), class_="tools")])


def _cell(cell: Cell) -> str:
    if cell is None or cell != cell:
        return "—"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return f"{cell:,}".replace("-", "−")
    large = abs(cell) >= 1e6 or 0 < abs(cell) < 1e-3
    return f"{cell:.{DIGITS - 1}e}".replace("-", "−") if large else _plain(float(cell))


def _plain(value: float) -> str:
    digits = DIGITS - len(str(int(abs(value))).lstrip("0"))
    return figure(value, max(0, min(DIGITS, digits)))
