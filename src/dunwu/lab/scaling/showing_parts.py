"""What the pages of all forms share: axes, residuals, the rows that drive a fit, and what a compute gives at its best size."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dunwu.lab.estimates import shown
from dunwu.lab.record import Cell, Figure, Line, Table, Words
from dunwu.lab.scaling.points import BITS_PER_BYTE, Floats, Points

DRIVERS = 10  # rows of the table
FLOPS: Words = ("FLOPs of training", "训练的 FLOPs")
SIZE: Words = ("parameters", "参数量")
RESIDUAL: Words = ("measured over fitted loss, log", "实测与拟合损失之比的对数")


def loss_label(points: Points) -> Words:
    """The axis of a loss in its unit."""
    return (
        ("loss, bits a byte", "损失，比特/字节")
        if points.unit == BITS_PER_BYTE
        else ("loss, nats a token", "损失，奈特/词元")
    )


def sentences(notes: Iterable[str]) -> str:
    """Notes one after the other."""
    return " ".join(f"{note}." for note in notes)


def best_words(one: Mapping[str, Any]) -> Words:
    """What so much compute gives at its best size: `flops`, and estimates of `size` and `tokens`."""
    size, tokens = shown(one["size"]), shown(one["tokens"])
    return (
        f"{one['flops']:.3g} FLOPs: {size} parameters, {tokens} tokens",
        f"{one['flops']:.3g} FLOPs：{size} 参数，{tokens} 词元",
    )


def residual_figure(
    lines: Sequence[Line],
    x_label: Words,
    *,
    name: str = "residuals",
    title: Words = ("Residuals", "残差"),
    y_label: Words = RESIDUAL,
) -> Figure:
    """Residuals about 0, where the fit lies, on a log axis."""
    return Figure(
        name=name,
        title=title,
        x_label=x_label,
        y_label=y_label,
        x_log=True,
        lines=lines,
        rules=[("y", 0.0, "fit")],
    )


def drivers_table(places: Sequence[str], residual: Floats, moves: Floats) -> Table:
    """The rows that move a fit most."""
    rows: list[Sequence[Cell]] = []
    for at in map(int, np.argsort(-moves)[:DRIVERS]):
        rows.append((places[at], float(residual[at]), float(moves[at])))
    return Table(
        name="drivers",
        title=(
            "Rows that move the fit most, in standard errors where they are left out",
            "去掉后最能移动拟合的行（以标准误计）",
        ),
        columns=("row", "residual of log", "moves"),
        rows=rows,
    )
