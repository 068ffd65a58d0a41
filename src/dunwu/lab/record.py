"""What an experiment says: its method, its figures and tables, what was found, and what would have counted as failure.

Texts come in English and in Chinese. Labels of lines and cells of tables may come from a user's table: they are text, never markup.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Words = tuple[str, str]
"""English, Chinese."""

Cell = str | float | int | None

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series of a figure; NaN in `y` is a gap. `low`, `high`: a band around a line, error bars at points."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    mark: Literal["line", "points", "both", "dashed"] = "line"

    def __post_init__(self) -> None:
        lengths = [len(own) for own in (self.x, self.y, self.low, self.high) if own is not None]
        if len(set(lengths)) > 1:
            raise ValueError(f"the line {self.label!r} has series of {lengths} values; all must be of one length")
        if (self.low is None) != (self.high is None):
            raise ValueError(f"the line {self.label!r} has one limit; give both low and high, or neither")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Lines over one pair of axes. `name`: of its files, NAME.svg and NAME.csv. On a log axis, what is not above 0 is a gap.

    `rules`: straight lines across, each at a value of an axis, with a label.
    """

    name: str
    title: Words
    x_label: Words
    y_label: Words
    lines: Sequence[Line]
    x_log: bool = False
    y_log: bool = False
    rules: Sequence[tuple[Literal["x", "y"], float, str]] = ()

    def __post_init__(self) -> None:
        _check_name(self.name)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under columns; written as NAME.csv. None: an empty cell."""

    name: str
    title: Words
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def __post_init__(self) -> None:
        _check_name(self.name)
        if odd := [row for row in self.rows if len(row) != len(self.columns)]:
            raise ValueError(
                f"the table {self.name!r} has {len(self.columns)} columns and a row of {len(odd[0])}: {odd[0]}"
            )


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """All that an experiment says. `n`: of what, and how many. `failure`: what would have counted as one.

    `facts`: all numbers, as JSON holds them; arrays and scalars of numpy are written as lists and numbers.
    """

    name: str
    title: Words
    method: Words
    n: str
    seeds: Sequence[int]
    failure: Words
    findings: Sequence[Words]
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        names = [one.name for one in (*self.figures, *self.tables)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)}: a name of two figures or tables; each has files of its own")


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} cannot name files: use a to z, 0 to 9, - and _, 64 at most")
