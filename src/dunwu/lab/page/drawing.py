"""Figures as SVG, by matplotlib (the extra `lab`): the same data give the same bytes. In English, on white, for papers and slides."""

import io
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from dunwu.core.errors import MissingExtraError
from dunwu.core.page.html import visible
from dunwu.lab.record import Figure, Line

TONES = ("#2b6384", "#b4632a", "#5b6f2f", "#84508c", "#a3372a", "#2f807b", "#8a6d1f", "#6d7178")  # as the page's
SIZE_INCHES = (7.2, 4.3)
LONGEST = 60  # characters of a label
MANY = 5  # lines from which the legend stands beside them

_STYLE = {
    "svg.hashsalt": "dunwu",
    "svg.fonttype": "none",  # letters stay letters: Chinese is shown in whatever font the reader has
    "text.parse_math": False,  # a label with $ signs is a label
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#6d7178",
    "axes.labelcolor": "#44484e",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e2ded5",
    "xtick.color": "#6d7178",
    "ytick.color": "#6d7178",
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def require_drawing() -> None:
    """Raise MissingExtraError where figures cannot be drawn: a long run should learn it before it begins."""
    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "lab", "drawing a figure as SVG")


def draw_svg(figure: Figure) -> str:
    """The figure as SVG. Raises MissingExtraError."""
    require_drawing()
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import FuncFormatter, LogFormatter

    settings: Any = {**_defaults(matplotlib), **_STYLE}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the measuring font lacks, and log axes without a point
        canvas = Canvas(figsize=SIZE_INCHES, layout="constrained")
        FigureCanvasSVG(canvas)
        axes = canvas.subplots()
        _draw(axes, figure)
        for axis, log in ((axes.xaxis, figure.x_log), (axes.yaxis, figure.y_log)):
            if not log:
                axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
                continue
            which = LogFormatter(labelOnlyBase=False, minor_thresholds=(1.5, 0.5))
            which.set_axis(axis)
            axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
            axis.set_minor_formatter(FuncFormatter(lambda value, _, which=which: short(value) if which(value) else ""))
            which.set_locs()
        file = io.StringIO()
        canvas.savefig(file, format="svg", metadata={"Date": None, "Creator": "dunwu"})
    return file.getvalue()


def short(value: float) -> str:
    """A number on an axis, as the page has it: 20k, 1e21."""
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 1e15 or size < 1e-3:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def _defaults(matplotlib: Any) -> dict[str, Any]:
    """Matplotlib's own settings, whatever a user's matplotlibrc says."""
    return {
        key: value
        for key, value in matplotlib.rcParamsDefault.items()
        if not key.startswith(("backend", "webagg", "savefig.directory"))
    }


def _draw(axes: Any, figure: Figure) -> None:
    axes.set_title(_text(figure.title[0]), loc="left")
    axes.set_xlabel(_text(figure.x_label[0]))
    axes.set_ylabel(_text(figure.y_label[0]))
    axes.set_xscale("log" if figure.x_log else "linear")
    axes.set_yscale("log" if figure.y_log else "linear")
    handles = [_line(axes, line, number) for number, line in enumerate(figure.lines)]
    for axis, value, label in figure.rules:
        _rule(axes, axis, value, _text(label))
    if handles:
        beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if len(handles) > MANY else {"loc": "best"}
        axes.legend(handles, [_text(line.label) for line in figure.lines], **beside)


def _line(axes: Any, line: Line, number: int) -> Any:
    """Draw it; returns what the legend shows of it."""
    tone, dash = TONES[number % len(TONES)], "--" if line.mark == "dashed" else ":" if number >= len(TONES) else "-"
    x, y = _floats(line.x), _floats(line.y)
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    marks = {
        "linestyle": "none" if line.mark == "points" else dash,
        "marker": "o" if line.mark in ("points", "both") or np.isfinite(y).sum() == 1 else "",
        "markersize": 4.5,
    }
    if line.low is not None and line.high is not None:
        low, high = _floats(line.low)[order], _floats(line.high)[order]
        if line.mark in ("line", "dashed"):
            axes.fill_between(x, low, high, color=tone, alpha=0.16, linewidth=0)
        else:
            axes.vlines(x, low, high, color=tone, linewidth=1.2)
    [handle] = axes.plot(x, y, color=tone, linewidth=1.8, **marks)
    return handle


def _rule(axes: Any, axis: str, value: float, label: str) -> None:
    style = {"color": "#6d7178", "linewidth": 1.0, "linestyle": (0, (4, 3))}
    if axis == "y":
        axes.axhline(value, **style)
        axes.annotate(
            label,
            (1.0, value),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8.5,
            color="#6d7178",
        )
    else:
        axes.axvline(value, **style)
        axes.annotate(
            label, (value, 1.0), xycoords=("data", "axes fraction"), ha="left", va="top", fontsize=8.5, color="#6d7178"
        )


def _floats(values: Sequence[float]) -> Any:
    return np.asarray([float(value) for value in values])


def _text(text: str) -> str:
    """A label of one line, without what XML cannot hold. Matplotlib leaves out labels that begin with an underscore."""
    flat = visible(" ".join(text.split()))
    flat = flat if len(flat) <= LONGEST else flat[: LONGEST - 1] + "…"
    return "\u200b" + flat if flat.startswith("_") else flat
