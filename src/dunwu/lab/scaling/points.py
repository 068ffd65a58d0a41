"""Training runs as points to fit a law to: a size, tokens, a loss each; read from a table as people write such tables.

Shapes: `R` runs.
"""

# ruff: noqa: N802, N815 (shape suffixes of fields are upper case)

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dunwu.core.errors import DataError
from dunwu.lab.scaling.sheet import Sheet, left_out, plain_name, read_sheet

Floats = npt.NDArray[np.float64]

SIZE = ("n", "params", "parameters", "modelsize", "size", "modelparams", "nonembeddingparams")
TOKENS = ("d", "tokens", "trainingtokens", "traintokens", "datasize", "ntokens")
FLOPS = ("c", "flops", "flop", "trainingflop", "trainingflops", "compute", "trainflops")
LOSS = ("loss", "valloss", "validationloss", "evalloss", "heldoutloss", "testloss", "finalloss", "ce", "crossentropy")
UNIT = ("unit", "lossunit", "units")
RUN = ("run", "runid", "runname")
GROUP = ("group", "isoflop", "isoflops", "budget")
UNIQUE = ("unique", "uniquetokens", "uniquedata", "datasettokens", "ud")
EPOCHS = ("epochs", "epoch", "passes", "repeats")
NATS, BITS_PER_BYTE = "nats a token", "bits a byte"
HEAD_UNITS = ("bitsperbyte", "bpb", "nats", "bits")
FLOPS_PER_PARAMETER_AND_TOKEN = 6.0  # arXiv:2001.08361, section 2.1
_NUMBER = re.compile(r"([-+]?(?:\d[\d,_]*\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-z万亿]*)", re.IGNORECASE)
_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "bn": 1e9, "t": 1e12, "万": 1e4, "亿": 1e8}
_NATS = {"": 1.0, "nat": 1.0, "nats": 1.0, "bit": math.log(2), "bits": math.log(2)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Parameters, tokens read and final loss (nats a token, unless `unit` says otherwise) of each run, `[R]`, and where each stands
    in its table.

    `said`: what was done to the table on the way, for the report. `runs`: which training a row belongs to, where a table has
    several rows of one. `groups`: which runs are of one compute, where the table says. `unique_R`: tokens of the text that was read again and again, where the table tells.
    """

    size_R: Floats
    tokens_R: Floats
    loss_R: Floats
    places: tuple[str, ...]
    said: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    unique_R: Floats | None = None
    unit: str = NATS

    def __len__(self) -> int:
        return len(self.places)

    @property
    def flops_R(self) -> Floats:
        """Of training: 6 for each parameter and token."""
        return FLOPS_PER_PARAMETER_AND_TOKEN * self.size_R * self.tokens_R

    def only(self, chosen: npt.NDArray[np.int64], why: str) -> "Points":
        """Some of the runs, by their places."""
        return replace(
            self,
            size_R=self.size_R[chosen],
            tokens_R=self.tokens_R[chosen],
            loss_R=self.loss_R[chosen],
            places=tuple(self.places[at] for at in chosen.tolist()),
            said=(*self.said, why) if why else self.said,
            runs=tuple(self.runs[at] for at in chosen.tolist()) if self.runs else (),
            groups=tuple(self.groups[at] for at in chosen.tolist()) if self.groups else (),
            unique_R=None if self.unique_R is None else self.unique_R[chosen],
        )

    def last_of_each(self) -> "Points":
        """The end of each training, for what speaks of finished runs alone."""
        last: dict[str, int] = {}
        for at, run in enumerate(self.runs):
            if run not in last or self.tokens_R[at] >= self.tokens_R[last[run]]:
                last[run] = at
        if len(last) in (0, len(self)):
            return self
        return self.only(np.array(sorted(last.values())), f"of {len(self)} rows the last of each of {len(last)} runs")


def read_points(path: Path, columns: Mapping[str, str] | None = None) -> Points:
    """The runs of a .csv or .tsv file, one a row, or several rows a run with a column `run`.

    `columns`: which of its columns are meant, by `size`, `tokens`, `flops`, `loss`, `unit`, `run`, `group`, `unique`, `epochs`; without them
    by their usual names. Where tokens are missing they follow from FLOPs. Sizes may be written as 1.3B or 410m, losses with a unit
    (`3.1 bits`), beside a column `unit`, or under a name that ends in one (`loss_bits`). Rows without a finite loss are left out, and
    said. Raises DataError naming the column, or the row, and what to do.
    """
    return _Runs(read_sheet(path), columns or {}).points()


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


class _Runs:
    """A table of runs while it is read."""

    def __init__(self, sheet: Sheet, given: Mapping[str, str]) -> None:
        self.sheet, self.given = sheet, given
        self.size = self._needed("size", SIZE)
        self.loss, self.head_unit = self._loss()
        self.tokens = self._column("tokens", TOKENS)
        self.flops = self._column("flops", FLOPS)
        if self.tokens is None and self.flops is None:
            raise sheet.lacks("tokens or flops", "flops")
        self.unit, self.run = self._column("unit", UNIT), self._column("run", RUN)
        self.group = self._column("group", GROUP)
        self.unique, self.epochs = self._column("unique", UNIQUE), self._column("epochs", EPOCHS)

    def points(self) -> Points:
        kept: list[tuple[float, float, float, float]] = []
        places, runs, groups, dropped, units = [], [], [], [], set[str]()
        for number, row in self.sheet.rows:
            size, tokens, loss, unique, unit = self._read(number, row)
            if not all(map(math.isfinite, (size, tokens, loss))):
                dropped.append(number)
                continue
            if min(size, tokens, loss) <= 0:
                raise DataError(
                    f"{self.sheet.path}, line {number}: size {size:g}, tokens {tokens:g}, loss {loss:g}; all must be above 0"
                )
            units.add(unit)
            kept.append((size, tokens, loss, unique))
            places.append(f"{self.sheet.path.name}:{number}")
            runs.append(self.sheet.cell(number, row, self.run))
            groups.append(self.sheet.cell(number, row, self.group))
        if len(units) > 1:
            raise DataError(
                f"{self.sheet.path}: losses in {' and in '.join(sorted(units))}, which no factor turns into each other; give one of them"
            )
        values = np.array(kept, np.float64).reshape(-1, 4).T
        return Points(
            size_R=values[0],
            tokens_R=values[1],
            loss_R=values[2],
            places=tuple(places),
            said=tuple(self._said(len(places), dropped)),
            runs=() if self.run is None else tuple(runs),
            groups=() if self.group is None else tuple(groups),
            unique_R=None if self.unique is None and self.epochs is None else values[3],
            unit=next(iter(units), NATS),
        )

    def _read(self, number: int, row: Sequence[str]) -> tuple[float, float, float, float, str]:
        unit = self.sheet.cell(number, row, self.unit) or self.head_unit
        per_byte = _is_per_byte(unit)
        size = self.sheet.value(number, row, self.size, count_of)
        loss = self.sheet.value(number, row, self.loss, lambda text: nats_of(text, "" if per_byte else unit))
        if self.tokens is not None:
            tokens = self.sheet.value(number, row, self.tokens, count_of)
        else:
            assert self.flops is not None
            tokens = self.sheet.value(number, row, self.flops, count_of) / (FLOPS_PER_PARAMETER_AND_TOKEN * size)
        unique = tokens
        if self.unique is not None:
            unique = self.sheet.value(number, row, self.unique, count_of)
        elif self.epochs is not None:
            epochs = self.sheet.value(number, row, self.epochs, count_of)
            if not epochs > 0:
                raise DataError(f"{self.sheet.path}, line {number}: epochs={row[self.epochs]!r}; must be above 0")
            unique = tokens / max(epochs, 1.0)
        return size, tokens, loss, unique, BITS_PER_BYTE if per_byte else NATS

    def _said(self, count: int, dropped: Sequence[int]) -> Iterator[str]:
        yield f"read {count} runs: size from {self._named(self.size)}, loss from {self._named(self.loss)}"
        if self.head_unit:
            yield f"losses are in {self.head_unit}, by the column's name"
        if self.tokens is None:
            yield f"tokens = {self._named(self.flops)} / (6 × size)"
        if dropped:
            yield left_out(dropped)

    def _loss(self) -> tuple[int, str]:
        """Its column, and the unit that its name ends in."""
        if "loss" not in self.given:
            plain = [plain_name(name) for name in self.sheet.head]
            named = {
                at: unit
                for at, name in enumerate(plain)
                for unit in HEAD_UNITS
                if name.endswith(unit) and name.removesuffix(unit) in ("", *LOSS)
            }
            bare = [at for at, name in enumerate(plain) if name in LOSS]
            if not bare and named:
                if len(named) > 1:
                    names = ", ".join(self.sheet.head[at] for at in named)
                    raise DataError(f"{self.sheet.path} has several losses ({names}); say which with loss=COLUMN")
                return next(iter(named.items()))
        return self._needed("loss", LOSS), ""

    def _column(self, what: str, usual: Sequence[str]) -> int | None:
        return self.sheet.find(what, usual, self.given.get(what))

    def _needed(self, what: str, usual: Sequence[str]) -> int:
        found = self._column(what, usual)
        if found is None:
            raise self.sheet.lacks(what, what)
        return found

    def _named(self, column: int | None) -> str:
        return "" if column is None else f"column {self.sheet.head[column]!r}"


def _is_per_byte(unit: str) -> bool:
    return plain_name(unit) in ("bpb", "bitsperbyte", "bitsbyte")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """One quantity against another, above 0 both, `[R]`."""

    x_R: Floats
    y_R: Floats
    x_name: str
    y_name: str
    places: tuple[str, ...]
    said: tuple[str, ...]


def read_pairs(path: Path, columns: Mapping[str, str]) -> Pairs:
    """Two columns of a table: `x` and `y`, or `loss` for y; without `x` the compute of the runs. Raises DataError."""
    if "x" not in columns:
        points = read_points(path, {what: name for what, name in columns.items() if what != "y"})
        return Pairs(
            x_R=points.flops_R, y_R=points.loss_R, x_name="FLOPs", y_name="loss", places=points.places, said=points.said
        )
    sheet = read_sheet(path)
    x, y = sheet.find("x", (), columns["x"]), sheet.find("y", LOSS, columns.get("y", columns.get("loss")))
    if y is None:
        raise sheet.lacks("y", "y")
    assert x is not None
    kept, places, dropped = [], [], []
    for number, row in sheet.rows:
        pair = sheet.value(number, row, x, count_of), sheet.value(number, row, y, nats_of)
        if not all(map(math.isfinite, pair)):
            dropped.append(number)
        elif min(pair) <= 0:
            raise DataError(
                f"{path}, line {number}: {sheet.head[x]} {pair[0]:g}, {sheet.head[y]} {pair[1]:g}; both must be above 0"
            )
        else:
            kept.append(pair)
            places.append(f"{path.name}:{number}")
    said = [f"read {len(kept)} rows: {sheet.head[y]!r} against {sheet.head[x]!r}"]
    values = np.array(kept, np.float64).reshape(-1, 2).T
    return Pairs(
        x_R=values[0],
        y_R=values[1],
        x_name=sheet.head[x],
        y_name=sheet.head[y],
        places=tuple(places),
        said=(*said, left_out(dropped)) if dropped else tuple(said),
    )
