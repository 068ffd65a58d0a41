"""The classic figure in a terminal: accuracy over steps on a log scale, in dots of Braille (two by four a letter)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.text import Text

from dunwu.lab.grok.plan import Plan
from dunwu.lab.grok.run import Look

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # by row and column within a letter
_BLANK = 0x2800
TRAIN, HELD_OUT, CONTROL = "cyan", "green", "red"


@dataclass(frozen=True)
class Series:
    """Values between 0 and 1 at steps, in a colour of rich."""

    steps: Sequence[int]
    values: Sequence[float]
    colour: str


def series_of(plan: Plan, looks: Sequence[Look]) -> list[Series]:
    """Training accuracy, held-out accuracy over it, and held-out accuracy without weight decay."""
    steps = [look.step for look in looks]
    held = [CONTROL if member.weight_decay == 0 else HELD_OUT for member in plan.members]
    return [
        *(Series(steps, [look.train[n] for look in looks], TRAIN) for n in range(len(held))),
        *(Series(steps, [look.held_out[n] for look in looks], colour) for n, colour in enumerate(held)),
    ]


def plotted(series: Sequence[Series], last_step: int, *, width: int = 72, height: int = 14) -> Text:
    """The series, from step 1 to `last_step`; where two meet in a letter the later one gives its colour."""
    cells: dict[tuple[int, int], tuple[int, str]] = {}
    for one in series:
        for column, row in _path(one, last_step, 2 * width, 4 * height):
            at = (row // 4, column // 2)
            before = cells.get(at, (0, ""))[0]
            cells[at] = (before | _DOTS[row % 4][column % 2], one.colour)
    text = Text()
    for row in range(height):
        share = 100 * (1 - row / (height - 1))
        text.append(f"{share:4.0f}% ┤" if row in (0, height // 2, height - 1) else "      │")
        for column in range(width):
            bits, colour = cells.get((row, column), (0, ""))
            text.append(chr(_BLANK + bits) if bits else " ", style=colour)
        text.append("\n")
    text.append("      └" + _ticks(last_step, width) + "\n       ")
    for name, colour in (("trained", TRAIN), ("held out", HELD_OUT), ("held out, no weight decay", CONTROL)):
        if any(one.colour == colour for one in series):
            text.append(f"■ {name}  ", style=colour)
    text.append("steps →", style="dim")
    return text


def _path(series: Series, last_step: int, width: int, height: int) -> list[tuple[int, int]]:
    """Dots, with columns between two looks filled in."""
    whole = max(math.log(last_step), 1e-9)
    points = [
        (round(math.log(step) / whole * (width - 1)), round((1 - min(1.0, max(0.0, value))) * (height - 1)))
        for step, value in zip(series.steps, series.values, strict=True)
    ]
    dots = points[:1]
    for (x0, y0), (x1, y1) in pairwise(points):
        count = max(abs(x1 - x0), abs(y1 - y0), 1)
        dots += [(round(x0 + (x1 - x0) * n / count), round(y0 + (y1 - y0) * n / count)) for n in range(1, count + 1)]
    return dots


def _ticks(last_step: int, width: int) -> str:
    """Powers of ten below the axis."""
    line = ["─"] * width
    for power in range(int(math.log10(last_step)) + 1):
        label = f"10^{power}"
        column = round(power / max(math.log10(last_step), 1e-9) * (width - 1))
        if column + len(label) <= width:
            line[column : column + len(label)] = label
    return "".join(line)
