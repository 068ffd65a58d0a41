"""`dunwu lab scaling`, `downstream`, `observe`: laws fitted to tables of what was trained."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dunwu.cli.lab_shared import columns_named, count_above_zero, count_or_zero, page_folder, tell
from dunwu.core.errors import RecipeError
from dunwu.core.progress import Progress, TerminalProgress
from dunwu.lab.record import Experiment
from dunwu.lab.scaling.downstream import fit_downstream
from dunwu.lab.scaling.envelope import fit_envelope
from dunwu.lab.scaling.isoflop import fit_isoflop
from dunwu.lab.scaling.observed import fit_observed
from dunwu.lab.scaling.parametric import PARAMETERS, fit_law
from dunwu.lab.scaling.points import Points, read_pairs, read_points
from dunwu.lab.scaling.power import fit_power
from dunwu.lab.scaling.repeated import fit_repeated
from dunwu.lab.scaling.showing import parametric, power, repeated
from dunwu.lab.scaling.showing_best import envelope, isoflop
from dunwu.lab.scaling.showing_observed import observed
from dunwu.lab.scaling.showing_tasks import Target, check_on_largest, downstream
from dunwu.lab.scaling.task_tables import read_models, read_task_runs
from dunwu.lab.scaling.telling import facts_of, lines_of, lines_of_experiment

COLUMNS = ("size", "tokens", "flops", "loss", "unit", "run", "group", "unique", "epochs", "x", "y")
TASK_COLUMNS = ("run", "size", "tokens", "loss", "accuracy", "task")
MODEL_COLUMNS = ("model", "family", "flops")


def scaling(
    file: Path,
    columns: Sequence[str],
    *,
    form: str,
    budgets: Sequence[str],
    leave_out: int,
    floor: float | None,
    resamples: int,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Fit a law to the runs of a table and print it."""
    folder = page_folder(out)
    named = columns_named(columns, COLUMNS)
    flops = tuple(_flops(text) for text in budgets)
    if floor is not None and form not in ("parametric", "power"):
        raise RecipeError(
            f"--floor {floor:g}: --form {form} fits its own; a floor can be stated for parametric and power"
        )
    with TerminalProgress() as progress:
        progress.start("Fitting")
        if form == "power":
            pairs = read_pairs(file, named)
            plain = fit_power(pairs.x_R, pairs.y_R, floor=False, resamples=resamples, seed=seed)
            floored = fit_power(
                pairs.x_R, pairs.y_R, floor=True if floor is None else floor, resamples=resamples, seed=seed
            )
            experiment = power(pairs, plain, floored, flops, seed)
        else:
            points = read_points(file, named)
            experiment = FORMS[form](points, flops, leave_out, floor, resamples, seed, progress)
    lines = lines_of(dict(experiment.facts)) if form == "parametric" else lines_of_experiment(experiment)
    tell(experiment, lines, out=folder, as_json=as_json)


def _parametric(
    points: Points,
    budgets: Sequence[float],
    leave_out: int,
    floor: float | None,
    resamples: int,
    seed: int,
    progress: Progress,
) -> Experiment:
    points = _without(points.last_of_each(), leave_out)
    fit = fit_law(points, resamples=resamples, seed=seed, floor=floor, progress=progress)
    return parametric(fit, facts_of(fit, tuple(budgets) or _usual(points)), seed)


def _isoflop(
    points: Points, budgets: Sequence[float], leave_out: int, _: float | None, resamples: int, seed: int, __: Progress
) -> Experiment:
    points = _without(points.last_of_each(), leave_out)
    return isoflop(fit_isoflop(points, resamples=resamples, seed=seed), points, budgets or _usual(points), seed)


def _envelope(
    points: Points, budgets: Sequence[float], leave_out: int, _: float | None, resamples: int, seed: int, __: Progress
) -> Experiment:
    if leave_out:
        raise RecipeError(f"--leave-out {leave_out}: an envelope needs whole runs; leave runs out of the table itself")
    return envelope(fit_envelope(points, resamples=resamples, seed=seed), points, budgets or _usual(points), seed)


def _repeated(
    points: Points, _: Sequence[float], leave_out: int, __: float | None, resamples: int, seed: int, progress: Progress
) -> Experiment:
    points = _without(points.last_of_each(), leave_out)
    return repeated(fit_repeated(points, resamples=resamples, seed=seed, progress=progress), seed)


FORMS: dict[str, Callable[..., Experiment]] = {
    "parametric": _parametric,
    "isoflop": _isoflop,
    "envelope": _envelope,
    "repeated": _repeated,
}


def tasks(
    file: Path,
    columns: Sequence[str],
    *,
    targets: Sequence[str],
    resamples: int,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Forecast tasks in two steps and print it."""
    folder = page_folder(out)
    asked = [_target(text) for text in targets]
    by_task, notes = read_task_runs(file, columns_named(columns, TASK_COLUMNS))
    with TerminalProgress() as progress:
        progress.start("Fitting")
        fitted = {}
        for number, (task, runs) in enumerate(by_task.items(), 1):
            fit = fit_downstream(runs, resamples=resamples, seed=seed)
            fitted[task] = fit, check_on_largest(runs, resamples=resamples, seed=seed)
            progress.update(number, len(by_task))
    experiment = downstream(fitted, asked, notes, seed)
    tell(experiment, lines_of_experiment(experiment), out=folder, as_json=as_json)


def observe(
    file: Path,
    columns: Sequence[str],
    *,
    target: str,
    scores: Sequence[str],
    score_table: Path | None,
    below: str | None,
    components: int,
    resamples: int,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Forecast a score from other public scores and print it."""
    folder = page_folder(out)
    limit = None if below is None else _flops(below, "--below")
    names = [name.strip() for text in scores for name in text.split(",")]
    models = read_models(file, target, names, columns_named(columns, MODEL_COLUMNS), score_table)
    fit = fit_observed(models, below=limit, components=components, resamples=resamples, seed=seed)
    experiment = observed(fit, target, limit, seed)
    tell(experiment, lines_of_experiment(experiment), out=folder, as_json=as_json)


def _usual(points: Points) -> tuple[float, float]:
    """Budgets where none is asked for: the largest run's compute, and ten times that."""
    largest = float(points.flops_R.max()) if len(points) else 1.0
    return largest, 10 * largest


def _flops(text: str, option: str = "--budget") -> float:
    return count_above_zero(text, option, of="FLOPs", such_as="1e21")


def _target(text: str) -> Target:
    size, comma, tokens = text.partition(",")
    found = count_or_zero(size), count_or_zero(tokens)
    if not comma or not all(found):
        raise RecipeError(f"--target {text}: must be parameters and tokens, such as 7B,4T")
    return text, *found


def _without(points: Points, count: int) -> Points:
    """Without the runs that read the fewest tokens for their size."""
    if count == 0:
        return points
    if len(points) - count <= PARAMETERS:
        raise RecipeError(f"--leave-out {count} leaves {len(points) - count} runs; more than {PARAMETERS} are needed")
    chosen = np.sort(np.argsort(points.tokens_R / points.size_R, kind="stable")[count:])
    return points.only(chosen, f"left out the {count} runs with the fewest tokens a parameter")
