"""Estimates as the lab's rooms hold them: records of an interval, or what JSON keeps of one; told in words, and drawn.

An estimate is a value with its limits: `value`, `low` and `high`, as fields or as keys. Limits of None or NaN: there is no interval.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from dunwu.core.spanned import Spanned
from dunwu.lab.record import Line
from dunwu.lab.statistics import Floats

Mark = Literal["line", "points", "both", "dashed"]


Estimated = Spanned | Mapping[str, float | None]


def shown(one: Estimated, form: str = ".4g") -> str:
    """`1.2 [1.1, 1.3]`, each by the format; the value alone where there is no interval."""
    return shown_by(one, lambda value: f"{value:{form}}")


def shown_by(one: Estimated, say: Callable[[float], str]) -> str:
    """The same where numbers are said otherwise, such as `1 h 05 min`."""
    value, low, high = _parts(one)
    return say(value) if math.isnan(low) or math.isnan(high) else f"{say(value)} [{say(low)}, {say(high)}]"


def points(label: str, x: Sequence[float] | Floats, y: Sequence[float] | Floats) -> Line:
    """What was measured, without intervals."""
    return Line(label=label, x=_list(x), y=_list(y), mark="points")


def estimates_line(
    label: str, x: Sequence[float] | Floats, estimates: Iterable[Estimated], mark: Mark = "line"
) -> Line:
    """Estimates at `x`, with their intervals as a band, or as bars at points."""
    parts = [_parts(one) for one in estimates]
    value, low, high = ([own[at] for own in parts] for at in range(3))
    return Line(label=label, x=_list(x), y=value, low=low, high=high, mark=mark)


def draws_line(
    label: str, x: Floats, y: Sequence[float] | Floats, draws_KX: Sequence[Sequence[float] | Floats]
) -> Line:
    """A curve, with a band that holds 95% of its draws at each `x`."""
    low, high = np.quantile(np.array(draws_KX), [0.025, 0.975], axis=0)
    return Line(label=label, x=_list(x), y=_list(y), low=_list(low), high=_list(high))


def _parts(one: Estimated) -> tuple[float, float, float]:
    found = (one["value"], one["low"], one["high"]) if isinstance(one, Mapping) else (one.value, one.low, one.high)
    value, low, high = (math.nan if part is None else part for part in found)
    return value, low, high


def _list(values: Sequence[float] | Floats) -> list[float]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)
