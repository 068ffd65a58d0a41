"""Training runs as points to fit a law to: a size, tokens, a loss each; read from a table as people write such tables.

Shapes: `R` runs.
"""

# ruff: noqa: N802, N815 (shape suffixes of fields are upper case)

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dunwu.core.errors import DataError

Floats = npt.NDArray[np.float64]

SIZE = ("n", "params", "parameters", "modelsize", "size", "modelparams", "nonembeddingparams")
TOKENS = ("d", "tokens", "trainingtokens", "traintokens", "datasize", "ntokens")
FLOPS = ("c", "flops", "flop", "trainingflop", "trainingflops", "compute", "trainflops")
LOSS = ("loss", "valloss", "validationloss", "evalloss", "heldoutloss", "testloss", "finalloss", "ce", "crossentropy")
UNIT = ("unit", "lossunit", "units")
FLOPS_PER_PARAMETER_AND_TOKEN = 6.0  # arXiv:2001.08361, section 2.1
_NUMBER = re.compile(r"([-+]?(?:\d[\d,_]*\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-z万亿]*)", re.IGNORECASE)
_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "bn": 1e9, "t": 1e12, "万": 1e4, "亿": 1e8}
_NATS = {"": 1.0, "nat": 1.0, "nats": 1.0, "bit": math.log(2), "bits": math.log(2)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Parameters, tokens read and final loss (nats a token) of each run, `[R]`, and where each stands in its table.

    `said`: what was done to the table on the way, for the report.
    """

    size_R: Floats
    tokens_R: Floats
    loss_R: Floats
    places: tuple[str, ...]
    said: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.places)

    @property
    def flops_R(self) -> Floats:
        """Of training: 6 for each parameter and token."""
        return FLOPS_PER_PARAMETER_AND_TOKEN * self.size_R * self.tokens_R

    def only(self, chosen: npt.NDArray[np.int64], why: str) -> "Points":
        """Some of the runs, by their places."""
        return Points(
            size_R=self.size_R[chosen],
            tokens_R=self.tokens_R[chosen],
            loss_R=self.loss_R[chosen],
            places=tuple(self.places[at] for at in chosen.tolist()),
            said=(*self.said, why),
        )


def read_points(path: Path, columns: Mapping[str, str] | None = None) -> Points:
    """The runs of a .csv or .tsv file, one a row.

    `columns`: which of its columns are meant, by `size`, `tokens`, `flops`, `loss`; without them by their usual names. Where
    tokens are missing they follow from FLOPs. Sizes may be written as 1.3B or 410m, losses with a unit (`3.1 bits`) or beside a
    column `unit`. Rows without a finite loss are left out, and said. Raises DataError naming the column, or the row, and what to do.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file; give a table of runs with a size, tokens or FLOPs, and a loss")
    text = path.read_text("utf-8-sig")
    delimiter = "\t" if path.suffix == ".tsv" else ","
    rows = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    if len(rows) < 2:
        raise DataError(f"{path} holds no runs; its first line names columns, and a line follows for each run")
    head, *body = rows
    table = _Table(path, head, columns or {})
    return table.points([row for row in body if any(cell.strip() for cell in row)])


def count_of(text: str) -> float:
    """A number of parameters, tokens or FLOPs: 1e9, 1.3B, 410m, 2,000,000. Raises ValueError."""
    return _number(text, _COUNTS)


def nats_of(text: str, unit: str = "") -> float:
    """A loss in nats, from one that may name its unit. Raises ValueError."""
    match = _NUMBER.fullmatch(text.strip())
    own = match[2].lower() if match else ""
    if own and unit and _NATS.get(own) != _NATS.get(unit.lower()):
        raise ValueError(f"its row says {unit}")
    return _number(text if own else f"{text} {unit}", _NATS)


def _number(text: str, units: Mapping[str, float]) -> float:
    if text.strip().lower() in ("nan", "", "none", "null", "n/a", "inf", "-inf"):
        return math.nan
    match = _NUMBER.fullmatch(text.strip())
    unit = match[2] if match else ""
    factor = units.get(unit.lower())
    if match is None or factor is None:
        raise ValueError(f"not a number with one of the units {', '.join(filter(None, units))}")
    return float(match[1].replace(",", "").replace("_", "")) * factor


class _Table:
    """A table while it is read."""

    def __init__(self, path: Path, head: Sequence[str], columns: Mapping[str, str]) -> None:
        self.path, self.head = path, [name.strip() for name in head]
        self.given = columns
        self.size = self._column("size", SIZE)
        self.loss = self._column("loss", LOSS)
        self.tokens = self._column("tokens", TOKENS, needed=False)
        self.flops = self._column("flops", FLOPS, needed=self.tokens is None)
        self.unit = self._column("unit", UNIT, needed=False)

    def _column(self, what: str, usual: Sequence[str], *, needed: bool = True) -> int | None:
        wanted = self.given.get(what)
        if wanted is not None:
            if wanted not in self.head:
                raise DataError(f"{self.path} has no column {wanted!r} for {what}; it has {', '.join(self.head)}")
            return self.head.index(wanted)
        plain = [re.sub(r"[^a-z]", "", name.lower()) for name in self.head]
        found = next((plain.index(name) for name in usual if name in plain), None)
        if found is None and needed:
            also = " or flops" if what == "flops" else ""
            raise DataError(
                f"{self.path} has no column for {'tokens' + also if what == 'flops' else what} "
                f"(it has {', '.join(self.head)}); name it with {what}=COLUMN"
            )
        return found

    def points(self, rows: Sequence[Sequence[str]]) -> Points:
        sizes, tokens, losses, places, dropped = [], [], [], [], []
        for number, row in enumerate(rows, 2):
            size = self._value(row, number, self.size, count_of)
            loss = self._value(row, number, self.loss, lambda text, row=row: nats_of(text, self._unit(row)))
            if self.tokens is not None:
                read = self._value(row, number, self.tokens, count_of)
            else:
                read = self._value(row, number, self.flops, count_of) / (FLOPS_PER_PARAMETER_AND_TOKEN * size)
            if not all(map(math.isfinite, (size, loss, read))):
                dropped.append(number)
                continue
            if min(size, read, loss) <= 0:
                raise DataError(
                    f"{self.path}, line {number}: size {size:g}, tokens {read:g}, loss {loss:g}; all must be above 0"
                )
            sizes.append(size)
            tokens.append(read)
            losses.append(loss)
            places.append(f"{self.path.name}:{number}")
        said = [f"read {len(places)} runs: size from {self._named(self.size)}, loss from {self._named(self.loss)}"]
        if self.tokens is None:
            said.append(f"tokens = {self._named(self.flops)} / (6 × size)")
        if dropped:
            shown = ", ".join(map(str, dropped[:10])) + (" …" if len(dropped) > 10 else "")
            said.append(f"left out {len(dropped)} rows without finite numbers: lines {shown}")
        return Points(
            size_R=np.array(sizes), tokens_R=np.array(tokens), loss_R=np.array(losses), places=tuple(places), said=tuple(said)
        )  # fmt: skip

    def _named(self, column: int | None) -> str:
        return "" if column is None else f"column {self.head[column]!r}"

    def _unit(self, row: Sequence[str]) -> str:
        return "" if self.unit is None else row[self.unit].strip()

    def _value(self, row: Sequence[str], number: int, column: int | None, read: Callable[[str], float]) -> float:
        assert column is not None
        if len(row) <= column:
            raise DataError(f"{self.path}, line {number}: {len(row)} cells and {len(self.head)} columns; mend the row")
        try:
            return read(row[column])
        except ValueError as error:
            raise DataError(f"{self.path}, line {number}: {self.head[column]}={row[column]!r}: {error}") from error
