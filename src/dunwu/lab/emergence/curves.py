"""Scores by size, compute or step, as curves: read from a table as people write such tables.

A long table has a row a score (task, metric, value); a wide one has a row a model, and a column for each task and metric.

Shapes: `R` points of a curve.
"""

# ruff: noqa: N802, N815 (shape suffixes of fields are upper case)

import csv
import gzip
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from dunwu.core.errors import DataError
from dunwu.lab.emergence.measures import Floats
from dunwu.lab.emergence.metrics import Metric, metric_of, split_name
from dunwu.lab.scaling.points import count_of

AXES: Mapping[str, Sequence[str]] = {
    "size": ("n", "params", "parameters", "modelsize", "size", "modelparams", "nonembeddingparams"),
    "flops": ("c", "flops", "flop", "trainingflop", "trainingflops", "compute", "trainflops"),
    "step": ("step", "steps", "trainingstep", "globalstep"),
}
OTHERS: Mapping[str, Sequence[str]] = {
    "task": ("task", "benchmark", "subtask", "dataset", "evaluation"),
    "metric": ("metric", "measure"),
    "value": ("value", "score", "result"),
    "series": ("series",),
}
NO_SCORES = (
    "d",
    "tokens",
    "trainingtokens",
    "traintokens",
    "datasize",
    "pretrainingdatasize",
    "ntokens",
    "seed",
    "shots",
)
COLUMNS = (*AXES, *OTHERS)
MOST_QUESTIONS = 20_000
_HEAD_UNIT = re.compile(r"^(.*\S)\s*\(([^()]+)\)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Scores of one task under one metric, by growing `x_R` (above 0), `[R]`. `series`: what these models share, "" where all do.

    `error_R`: standard errors from the number of questions, 0 where it is not known; `names`: of the models, where they have some.
    """

    task: str
    metric: Metric
    series: str
    axis: str
    x_R: Floats
    y_R: Floats
    error_R: Floats
    questions: int | None = None
    names: tuple[str, ...] = ()

    @property
    def judged_R(self) -> Floats:
        """Scores so that more is better."""
        return self.metric.judged(self.y_R)

    @property
    def ladder_R(self) -> Floats:
        """The same with one score for each x: the mean of the models there."""
        places = np.unique(self.x_R, return_inverse=True)[1]
        return np.bincount(places, weights=self.judged_R) / np.bincount(places)

    @property
    def span(self) -> float:
        """Of the values that are judged; inf where there is none."""
        return math.inf if self.metric.as_log else self.metric.span


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """All curves of a table, and what was done to it on the way."""

    curves: tuple[Curve, ...]
    axis: str
    said: tuple[str, ...]


def read_scores(path: Path, columns: Mapping[str, str] | None = None, *, by: str | None = None) -> Scores:
    """The curves of a .csv or .tsv file, which may be packed (.gz). `columns`: which of its columns are meant (`COLUMNS`); without
    them by their usual names. `by`: the axis; else what the table has of size, FLOPs, step. By size the last step counts; by step
    there is a curve for each size. Rows without a finite score or axis are left out, and said. Raises DataError."""
    head, body = _rows(path)
    return _Reader(path, head, columns or {}, by).scores(body)


def curve_of(
    task: str,
    metric: Metric,
    series: str,
    axis: str,
    points: Sequence[tuple[float, float, str]],
    *,
    errors: Sequence[float] | None = None,
) -> Curve:
    """Points (x, score, name) in the order of x; `errors` of each, or from the number of questions that the shares tell."""
    order = sorted(range(len(points)), key=lambda at: points[at][0])
    x, y = (np.array([points[at][part] for at in order], np.float64) for part in (0, 1))
    questions = questions_of(y) if metric.share and errors is None else None
    if errors is not None:
        error = np.array([errors[at] for at in order], np.float64)
    elif questions is None:
        error = np.zeros(len(y))
    else:
        smooth = (y * questions + 0.5) / (questions + 1)  # so that 0 of 20 is not without error
        error = np.sqrt(smooth * (1 - smooth) / questions)
    names = tuple(points[at][2] for at in order)
    return Curve(
        task=task, metric=metric, series=series, axis=axis, x_R=x, y_R=y, error_R=error, questions=questions, names=names
    )  # fmt: skip


def questions_of(shares_R: Floats) -> int | None:
    """The fewest questions of which all these can be shares; None where no number up to 20,000 fits to 12 digits."""
    found = 1
    for share in np.unique(shares_R).tolist():
        near = Fraction(share).limit_denominator(MOST_QUESTIONS)
        if abs(float(near) - share) > 1e-12:
            return None
        found = math.lcm(found, near.denominator)
        if found > MOST_QUESTIONS:
            return None
    return found if found > 1 else None


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    if not path.is_file():
        raise DataError(f"{path} is no file; give a table of scores by size, FLOPs or step, or folders of `dunwu eval`")
    try:
        packed = path.suffix == ".gz"
        raw = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
        text = raw.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read as a table ({error}); give UTF-8 text in columns, or such packed with gzip"
        ) from error
    name = path.name.removesuffix(".gz") if packed else path.name
    rows = list(csv.reader(io.StringIO(text), delimiter="\t" if name.endswith(".tsv") else ","))
    if len(rows) < 2:
        raise DataError(
            f"{path} holds no scores; its first line names columns, and a line follows for each model or score"
        )
    return [cell.strip() for cell in rows[0]], rows[1:]


class _Reader:
    """A table while it is read."""

    def __init__(self, path: Path, head: Sequence[str], given: Mapping[str, str], by: str | None) -> None:
        self.path, self.head, self.given = path, head, given
        parts = [_HEAD_UNIT.match(name) for name in head]
        self.factors = [_factor(part) for part in parts]
        self.plain = [
            re.sub(r"[^a-z]", "", (part[1] if part and factor else name).lower())
            for name, part, factor in zip(head, parts, self.factors, strict=True)
        ]
        self.axes = {axis: self._column(axis, names) for axis, names in AXES.items()}
        self.task, self.metric, self.value, self.series = (self._column(what, names) for what, names in OTHERS.items())
        self.axis = self._chosen(by)
        self.said: list[str] = []
        self.dropped: dict[int, None] = {}

    def _column(self, what: str, usual: Sequence[str]) -> int | None:
        wanted = self.given.get(what)
        if wanted is None:
            return next((self.plain.index(name) for name in usual if name in self.plain), None)
        if wanted not in self.head:
            raise DataError(f"{self.path} has no column {wanted!r} for {what}; it has {', '.join(self.head)}")
        return self.head.index(wanted)

    def _chosen(self, by: str | None) -> str:
        there = [axis for axis, column in self.axes.items() if column is not None]
        axis = by or next(iter(there), None)
        if axis is None or axis not in there:
            what = axis or "size, FLOPs or step"
            raise DataError(
                f"{self.path} has no column for {what} (it has {', '.join(self.head)}); name it with {axis or 'size'}=COLUMN"
            )
        return axis

    def scores(self, rows: Sequence[Sequence[str]]) -> Scores:
        numbered = [(number, row) for number, row in enumerate(rows, 2) if any(cell.strip() for cell in row)]
        for number, row in numbered:
            if len(row) != len(self.head):
                raise DataError(
                    f"{self.path}, line {number}: {len(row)} cells and {len(self.head)} columns; mend the row"
                )
        long = self.task is not None and self.value is not None
        kept = self._last_step(numbered)
        points = self._long(kept) if long else self._wide(kept)
        named = self.head[self.axes[self.axis] or 0]
        curves = [
            curve_of(task, metric_of(metric), series, self.axis, values)
            for (task, metric, series), values in points.items()
            if values
        ]
        if not curves:
            raise DataError(f"{self.path} has no finite scores; name its columns, for example task=COLUMN value=COLUMN")
        self.said.insert(0, f"read {len(curves)} curves by {self.axis} (column {named!r})")
        if self.dropped:
            shown = ", ".join(map(str, list(self.dropped)[:10])) + (" …" if len(self.dropped) > 10 else "")
            self.said.append(f"left out what has no finite score or {self.axis} above 0, in lines {shown}")
        return Scores(curves=tuple(curves), axis=self.axis, said=tuple(self.said))

    def _last_step(self, rows: Sequence[tuple[int, Sequence[str]]]) -> Sequence[tuple[int, Sequence[str]]]:
        step = self.axes["step"]
        if step is None or self.axis == "step":
            return rows
        steps = [self._number(number, row, step) for number, row in rows]
        last = max((one for one in steps if math.isfinite(one)), default=math.nan)
        if all(one == last for one in steps):
            return rows
        self.said.append(f"only the last step, {last:g}")
        return [pair for pair, one in zip(rows, steps, strict=True) if one == last]

    def _long(
        self, rows: Sequence[tuple[int, Sequence[str]]]
    ) -> dict[tuple[str, str, str], list[tuple[float, float, str]]]:
        assert self.task is not None
        assert self.value is not None
        found: dict[tuple[str, str, str], list[tuple[float, float, str]]] = {}
        seen: dict[tuple[object, ...], int] = {}
        for number, row in rows:
            metric = "score" if self.metric is None else row[self.metric].strip()
            key = (row[self.task].strip(), metric, self._series(row))
            x, y = self._x(number, row), self._score(number, row, self.value, metric)
            if not (math.isfinite(x) and math.isfinite(y)):
                self.dropped[number] = None
                continue
            first = seen.setdefault((*key, x), number)
            if first != number:
                raise DataError(
                    f"{self.path}, lines {first} and {number}: two scores of {key[0]} under {metric} at {self.axis} {x:g}; "
                    "say by series=COLUMN what tells them apart, or leave one out"
                )
            found.setdefault(key, []).append((x, y, ""))
        return found

    def _wide(
        self, rows: Sequence[tuple[int, Sequence[str]]]
    ) -> dict[tuple[str, str, str], list[tuple[float, float, str]]]:
        taken = {column for column in (*self.axes.values(), self.series, self.task, self.metric) if column is not None}
        same = {name for names in AXES.values() for name in names}  # another column of the same kind is no score
        texts = [column for column in range(len(self.head)) if column not in taken and self._is_text(rows, column)]
        label = texts[0] if texts else None
        chosen = [self.value] if self.value is not None else [
            column
            for column in range(len(self.head))
            if column not in taken and column not in texts and self.plain[column] not in {*NO_SCORES, *same}
        ]  # fmt: skip
        found: dict[tuple[str, str, str], list[tuple[float, float, str]]] = {}
        for column in chosen:
            task, metric = split_name(self.head[column])
            for number, row in rows:
                x, y = self._x(number, row), self._score(number, row, column, metric)
                if not (math.isfinite(x) and math.isfinite(y)):
                    self.dropped[number] = None
                    continue
                name = "" if label is None else row[label].strip()
                found.setdefault((task, metric, self._series(row)), []).append((x, y, name))
        return found

    def _is_text(self, rows: Sequence[tuple[int, Sequence[str]]], column: int) -> bool:
        """Whether no cell of it is a number."""
        cells = [row[column].strip() for _, row in rows if row[column].strip()]
        return not any(_is_number(cell) for cell in cells)

    def _series(self, row: Sequence[str]) -> str:
        if self.series is not None:
            return row[self.series].strip()
        if self.axis == "step":
            column = next((at for at, name in enumerate(self.plain) if name in ("size", "model")), self.axes["size"])
            return "" if column is None else row[column].strip()
        return ""

    def _x(self, number: int, row: Sequence[str]) -> float:
        column = self.axes[self.axis]
        assert column is not None
        found = self._number(number, row, column)
        return found if found > 0 else math.nan

    def _number(self, number: int, row: Sequence[str], column: int) -> float:
        try:
            return count_of(row[column]) * (self.factors[column] or 1.0)
        except ValueError as error:
            raise DataError(f"{self.path}, line {number}: {self.head[column]}={row[column]!r}: {error}") from error

    def _score(self, number: int, row: Sequence[str], column: int, name: str) -> float:
        text = row[column].strip()
        try:
            found = float(text) if text else math.nan
        except ValueError:
            if text.lower() in ("none", "null", "n/a", "na", "-"):
                return math.nan
            raise DataError(f"{self.path}, line {number}: {self.head[column]}={text!r} is no number; leave it empty where there is no score") from None  # fmt: skip
        metric = metric_of(name)
        if math.isfinite(found) and not (metric.low <= found <= metric.high and not (metric.as_log and found <= 0)):
            raise DataError(
                f"{self.path}, line {number}: {self.head[column]}={text}, and {name} lies between {metric.low:g} and {metric.high:g}; "
                "write shares as 0.43 rather than 43, or name the column otherwise"
            )
        return found


def _factor(part: re.Match[str] | None) -> float | None:
    """What a heading such as `Model Size (B)` or `FLOPs (1E21)` multiplies its column by."""
    if part is None:
        return None
    text = part[2].strip()
    try:
        return count_of(text if text[0].isdigit() else f"1{text}")
    except ValueError:
        return None


def _is_number(text: str) -> bool:
    try:
        count_of(text)
    except ValueError:
        return text.lower() in ("nan", "none")
    return True
