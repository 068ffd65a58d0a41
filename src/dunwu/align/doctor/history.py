"""The figures of the steps so far, each with the steps at which it was measured."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean


@dataclass(frozen=True, slots=True)
class Series:
    """One figure: its values, in their order, and the steps they are of. Values that are not finite are not in it."""

    steps: list[int] = field(default_factory=list[int])
    values: list[float] = field(default_factory=list[float])

    def __len__(self) -> int:
        return len(self.values)

    def first(self, count: int) -> list[float]:
        """The earliest values."""
        return self.values[:count]

    def last(self, count: int) -> list[float]:
        """The latest values."""
        return self.values[-count:]

    def since(self, holds: Callable[[float], bool], *, smooth: int = 4) -> int:
        """Where the latest stretch begins in which `holds` is true of every mean of `smooth` neighbouring values; the last step
        of all where it is true of none."""
        begin = len(self.values) - 1
        for at in range(len(self.values) - 1, -1, -1):
            if not holds(fmean(self.values[max(0, at - smooth + 1) : at + 1])):
                break
            begin = max(0, at - smooth + 1)
        return self.steps[begin]


@dataclass(frozen=True, slots=True)
class Incident:
    """What the loop's guard did at a step: "skip" or "rewind", and why."""

    step: int
    kind: str
    reason: str


UPDATES = ("ratio_", "held_out", "loss", "policy_loss", "value_loss", "grad_norm", "lr_", "kl_coefficient")
"""How figures begin that are of an update. All others are of the rollout, which several updates may learn from."""


class History:
    """All figures of a run, by name, and what the loop's guard did. A rollout's figures count once, with its first update."""

    def __init__(self) -> None:
        self._series: dict[str, Series] = {}
        self.incidents: list[Incident] = []
        self.rows = self.rollouts = 0
        self.step = 0

    def add(self, row: Mapping[str, object], step: int) -> list[str]:
        """Take in a row; returns the names of figures in it that are not finite."""
        self.rows, self.step = self.rows + 1, step
        wrong: list[str] = []
        learned_before = row.get("rollout_s") == 0.0  # from this rollout
        self.rollouts += not learned_before
        for name, value in row.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if learned_before and not name.startswith(UPDATES):
                continue
            if not math.isfinite(value):
                wrong.append(name)
                continue
            series = self._series.setdefault(name, Series())
            series.steps.append(step)
            series.values.append(float(value))
        return wrong

    def of(self, name: str) -> Series:
        """A figure; empty where no row had it."""
        return self._series.get(name, _NOTHING)

    def beginning_with(self, prefix: str) -> dict[str, Series]:
        """Figures whose names begin so, by the rest of the name."""
        return {name.removeprefix(prefix): series for name, series in self._series.items() if name.startswith(prefix)}


_NOTHING = Series()
