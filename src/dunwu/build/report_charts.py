"""The data from which the page's script draws curves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

POINTS = 240  # a curve is thinned to so many bins: more than a screen can show is weight without content


def thin_rows(rows: Sequence[Mapping[str, Any]], *, points: int = POINTS) -> dict[str, list[float | None]]:
    """Training metrics in at most `points` bins of equally many steps.

    Of each bin: its last `tokens`; mean, least and greatest `loss`; last `lr`; tokens per second over the bin's time.
    """
    width = max(1, math.ceil(len(rows) / points))
    bins = [rows[i : i + width] for i in range(0, len(rows), width)]
    losses = [[float(row["loss"]) for row in part] for part in bins]
    return {
        "tokens": [float(part[-1]["tokens"]) for part in bins],
        "loss": [round(sum(values) / len(values), 5) for values in losses],
        "low": [round(min(values), 5) for values in losses],
        "high": [round(max(values), 5) for values in losses],
        "lr": [part[-1].get("lr_scale") for part in bins],
        "speed": [_speed(part) for part in bins],
    }


def thin_series(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], *, points: int = POINTS
) -> dict[str, list[float | None]]:
    """Figures of steps in at most `points` bins of equally many steps: `step`, the last of a bin, and of each figure the mean
    of a bin, with `NAME low` and `NAME high` where a bin holds several; None where a bin has none."""
    width = max(1, math.ceil(len(rows) / points))
    bins = [rows[i : i + width] for i in range(0, len(rows), width)]
    found: dict[str, list[float | None]] = {"step": [float(part[-1]["step"]) for part in bins]}
    for name in names:
        values = [[float(row[name]) for row in part if _is_finite(row.get(name))] for part in bins]
        found[name] = [round(sum(own) / len(own), 6) if own else None for own in values]
        if width > 1 and not name.startswith("held_out"):
            found[f"{name} low"] = [round(min(own), 6) if own else None for own in values]
            found[f"{name} high"] = [round(max(own), 6) if own else None for own in values]
    return found


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _speed(part: Sequence[Mapping[str, Any]]) -> float | None:
    """Tokens per second over a bin: the harmonic mean, as its steps take unequal time."""
    rates = [float(row["tokens_per_s"]) for row in part if row.get("tokens_per_s", 0) > 0]
    return round(len(rates) / sum(1 / rate for rate in rates), 1) if rates else None
