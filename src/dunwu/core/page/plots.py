"""Small plots as static SVG without text: they stretch to any width."""

import math

from dunwu.core.page.html import Html, el


def span_plot(
    value: float, low: float, high: float, *, begin: float, end: float, tone: str, mark: float | None = None
) -> Html:
    """A dot with its interval on a line from `begin` to `end`, and a tick at `mark` (the chance level)."""

    def at(x: float) -> str:
        return f"{100 * (min(max(x, begin), end) - begin) / ((end - begin) or 1):.2f}"

    def line(x1: float, x2: float, class_: str, *, top: str = "5", bottom: str = "5") -> Html:
        return el("line", x1=at(x1), x2=at(x2), y1=top, y2=bottom, class_=class_)

    parts = [line(begin, end, "axis")]
    if mark is not None:
        parts.append(line(mark, mark, "mark", top="1", bottom="9"))
    if math.isfinite(low) and math.isfinite(high):
        parts.append(line(low, high, f"span {tone}"))
    if math.isfinite(value):
        parts.append(line(value, value, f"dot {tone}"))
    return el(
        "svg",
        *parts,
        **{"class": "plot", "viewBox": "-1 0 102 10", "preserveAspectRatio": "none", "aria-hidden": "true"},
    )
