"""`dunwu lab`: experiments on what was trained."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dunwu.core.errors import RecipeError
from dunwu.core.files import write_json
from dunwu.core.progress import TerminalProgress
from dunwu.lab.scaling.parametric import PARAMETERS, fit_law
from dunwu.lab.scaling.points import Points, count_of, read_points
from dunwu.lab.scaling.telling import facts_of, lines_of

COLUMNS = ("size", "tokens", "flops", "loss", "unit")


def scaling(
    file: Path,
    columns: Sequence[str],
    *,
    budgets: Sequence[str],
    leave_out: int,
    resamples: int,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Fit a law to the runs of a table and print it."""
    flops = tuple(_flops(text) for text in budgets)
    points = _without(read_points(file, _named(columns)), leave_out)
    with TerminalProgress() as progress:
        progress.start("Fitting")
        fit = fit_law(points, resamples=resamples, seed=seed, progress=progress)
    largest = float(points.flops_R.max())
    facts = facts_of(fit, flops or (largest, 10 * largest))
    if out is not None:
        write_json(out.expanduser(), facts)
    print(json.dumps(facts, ensure_ascii=False) if as_json else "\n".join(lines_of(facts)))


def _named(columns: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in columns:
        what, equals, name = word.partition("=")
        if not equals or what not in COLUMNS:
            raise RecipeError(f"{word!r} names no column; write {', '.join(f'{one}=COLUMN' for one in COLUMNS)}")
        found[what] = name
    return found


def _flops(text: str) -> float:
    try:
        flops = count_of(text)
    except ValueError:
        flops = 0.0
    if not 0 < flops < float("inf"):
        raise RecipeError(f"--budget {text}: must be a number of FLOPs above 0, such as 1e21")
    return flops


def _without(points: Points, count: int) -> Points:
    """Without the runs that read the fewest tokens for their size."""
    if count == 0:
        return points
    if len(points) - count <= PARAMETERS:
        raise RecipeError(f"--leave-out {count} leaves {len(points) - count} runs; more than {PARAMETERS} are needed")
    chosen = np.sort(np.argsort(points.tokens_R / points.size_R, kind="stable")[count:])
    return points.only(chosen, f"left out the {count} runs with the fewest tokens a parameter")
