"""An experiment in a folder: its numbers (JSON, CSV), and its page."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np

from dunwu.core.files import write_json, write_text
from dunwu.core.nulls import with_nulls
from dunwu.lab.page.drawing import draw_svg, require_drawing
from dunwu.lab.page.render import experiment_page
from dunwu.lab.record import Cell, Experiment, Figure, Line, Table, Words

__all__ = ["Experiment", "Figure", "Line", "Table", "Words", "facts_as_json", "require_drawing", "write_experiment"]


def write_experiment(experiment: Experiment, folder: Path) -> Path:
    """Write the page `index.html`, `experiment.json`, and of each figure and table its NAME.csv and NAME.svg; returns the page.

    The numbers are written first. Raises DiskError, and where matplotlib is absent MissingExtraError, all but the SVG then
    being there; `require_drawing` says so before a long run.
    """
    for figure in experiment.figures:
        write_text(folder / f"{figure.name}.csv", _csv(("line", "x", "y", "low", "high"), _points(figure)))
    for table in experiment.tables:
        write_text(folder / f"{table.name}.csv", _csv(table.columns, table.rows))
    write_json(folder / "experiment.json", facts_as_json(asdict(experiment)))
    write_text(folder / "index.html", experiment_page(experiment))
    for figure in experiment.figures:
        write_text(folder / f"{figure.name}.svg", draw_svg(figure))
    return folder / "index.html"


def facts_as_json(value: Any) -> Any:
    """The same nested value as JSON holds it: numpy's arrays and scalars as lists and numbers, null for what is not finite."""
    return with_nulls(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, np.ndarray | np.generic):
        return cast("Any", value).tolist()
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in cast("Sequence[Any]", value)]
    return str(value) if isinstance(value, Path) else value


def _points(figure: Figure) -> Iterable[Sequence[Cell]]:
    """Every point of every line; the limits are empty where there are none."""
    for line in figure.lines:
        nothing = [None] * len(line.x)
        yield from (
            (line.label, *point)
            for point in zip(
                line.x,
                line.y,
                nothing if line.low is None else line.low,
                nothing if line.high is None else line.high,
                strict=True,
            )
        )


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Numbers in full; an empty cell for None and for what is not a number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if cell is None else cell for cell in facts_as_json(list(row))] for row in rows])
    return text.getvalue()
