"""Tables of tasks: runs with a task's loss and accuracy on the way, and models with public scores."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dunwu.core.errors import DataError
from dunwu.lab.scaling.downstream import Run
from dunwu.lab.scaling.observed import Models
from dunwu.lab.scaling.points import FLOPS, RUN, SIZE, TOKENS, count_of
from dunwu.lab.scaling.sheet import Sheet, left_out, read_sheet

TASK_LOSS = ("taskloss", "bpb", "bitsperbyte", "loss", "correctbpb")
ACCURACY = ("accuracy", "acc", "score", "lennorm")
TASK = ("task", "benchmark", "taskname")
MODEL = ("model", "modelname", "name")
FAMILY = ("family", "modelfamily")
UNKNOWN_FAMILY = "?"


def read_task_runs(path: Path, columns: Mapping[str, str]) -> tuple[dict[str, list[Run]], tuple[str, ...]]:
    """Runs by task, from rows with run, size, tokens, task loss and (where measured) accuracy. Without a column `run`, a run is one size
    and its rows are taken for finished trainings. Raises DataError."""
    sheet = read_sheet(path)
    at = {
        what: sheet.find(what, usual, columns.get(what))
        for what, usual in (("size", SIZE), ("tokens", TOKENS), ("loss", TASK_LOSS))
    }
    for what, column in at.items():
        if column is None:
            raise sheet.lacks(what, what)
    extra = {
        what: sheet.find(what, usual, columns.get(what))
        for what, usual in (("accuracy", ACCURACY), ("run", RUN), ("task", TASK))
    }
    rows: dict[str, dict[str, list[tuple[float, ...]]]] = {}
    dropped = []
    for number, row in sheet.rows:
        size, tokens, loss = (_number(sheet, number, row, column) for column in at.values())
        accuracy = _number(sheet, number, row, extra["accuracy"])
        if not all(map(math.isfinite, (size, tokens, loss))):
            dropped.append(number)
            continue
        if min(size, tokens, loss) <= 0:
            raise DataError(
                f"{path}, line {number}: size {size:g}, tokens {tokens:g}, task loss {loss:g}; all must be above 0"
            )
        task = sheet.cell(number, row, extra["task"]) or "task"
        run = sheet.cell(number, row, extra["run"]) or f"line {number}"
        rows.setdefault(task, {}).setdefault(run, []).append((tokens, loss, accuracy, size))
    found = {task: [_run(path, name, values) for name, values in runs.items()] for task, runs in rows.items()}
    said = [f"read {len(sheet.rows) - len(dropped)} rows of {len(found)} tasks"]
    return found, (*said, left_out(dropped)) if dropped else tuple(said)


def read_models(
    path: Path, target: str, scores: Sequence[str], columns: Mapping[str, str], score_table: Path | None = None
) -> Models:
    """Models with a target and scores; scores may stand in a second table, joined by the model's name. Raises DataError."""
    sheet = read_sheet(path)
    model, family = (
        sheet.find("model", MODEL, columns.get("model")),
        sheet.find("family", FAMILY, columns.get("family")),
    )
    if model is None:
        raise sheet.lacks("model", "model")
    flops, unit = _flops_column(sheet, columns.get("flops"))
    target_at = sheet.find("the target", (), target)
    other = sheet if score_table is None else read_sheet(score_table)
    score_at = [other.find("a score", (), name) for name in scores]
    if target in scores and other is sheet:
        raise DataError(f"{target!r} is the target, and among the scores that forecast it; leave it out of these")
    by_name = _scores_by_model(other, score_at, columns.get("model"))
    names, families, compute, values, targets, dropped = [], [], [], [], [], []
    for number, row in sheet.rows:
        name = sheet.cell(number, row, model)
        told = _number(sheet, number, row, target_at)
        own = by_name.get(name)
        if not math.isfinite(told) or own is None or not np.isfinite(own).any():
            dropped.append(number)
            continue
        names.append(name)
        families.append(sheet.cell(number, row, family) or UNKNOWN_FAMILY if family is not None else name.split("-")[0])
        compute.append(_number(sheet, number, row, flops) * unit)
        values.append(own)
        targets.append(told)
    if not names:
        raise DataError(f"no model of {path} has both {target!r} and a score; check the names of models in both tables")
    said = f"left out {len(dropped)} models without the target or without any score" if dropped else ""
    return Models(
        names=tuple(names),
        families=tuple(families),
        flops_M=np.array(compute, np.float64),
        scores_MK=np.array(values, np.float64),
        score_names=tuple(scores),
        target_M=np.array(targets, np.float64),
        said=(said,) if said else (),
    )


def _run(path: Path, name: str, values: list[tuple[float, ...]]) -> Run:
    table = np.array(sorted(values), np.float64)
    if len(np.unique(table[:, 3])) > 1:
        raise DataError(f"{path}: run {name!r} has sizes {table[0, 3]:g} and others; a run is one model")
    accuracy = table[:, 2]
    told = np.isfinite(accuracy)
    if told.any() and not told.all():
        raise DataError(
            f"{path}: run {name!r} has rows with and without accuracy; give both in each row, or leave accuracy out"
        )
    return Run(
        name=name,
        size=float(table[0, 3]),
        tokens=table[:, 0],
        loss=table[:, 1],
        accuracy=accuracy if told.any() else None,
    )


def _scores_by_model(sheet: Sheet, at: Sequence[int | None], model: str | None) -> dict[str, list[float]]:
    column = sheet.find("model", MODEL, model)
    if column is None:
        raise sheet.lacks("model", "model")
    return {
        sheet.cell(number, row, column): [_number(sheet, number, row, one) for one in at] for number, row in sheet.rows
    }


def _flops_column(sheet: Sheet, given: str | None) -> tuple[int | None, float]:
    """Its place, and what its name says it counts in: `FLOPs (1E21)`."""
    at = sheet.find("flops", FLOPS, given)
    if at is None:
        at = next((n for n, name in enumerate(sheet.head) if name.lower().startswith("flop")), None)
    if at is None:
        return None, 1.0
    inside = sheet.head[at].partition("(")[2].rstrip(") ")
    try:
        return at, count_of(inside) if inside else 1.0
    except ValueError:
        return at, 1.0


def _number(sheet: Sheet, number: int, row: Sequence[str], column: int | None) -> float:
    return math.nan if column is None else sheet.value(number, row, column, count_of)
