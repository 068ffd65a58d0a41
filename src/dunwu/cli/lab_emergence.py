"""`dunwu lab emergence` of a table of scores, or of what `dunwu eval` wrote."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dunwu.cli.lab_shared import columns_named, count_above_zero, page_folder, tell
from dunwu.core.errors import DataError, RecipeError
from dunwu.core.progress import TerminalProgress
from dunwu.evaluate.outcome import RESULTS, read_outcome, read_samples
from dunwu.lab.emergence.curves import COLUMNS, Scores, read_scores
from dunwu.lab.emergence.forecast import Forecast, forecast
from dunwu.lab.emergence.graded import Rare, Run, ladder, rare_successes
from dunwu.lab.emergence.study import Study, study
from dunwu.lab.emergence.telling import experiment_of, lines_of


@dataclass(frozen=True, kw_only=True)
class Options:
    """See the help of each option in `commands/lab.py`."""

    by: str | None
    factor: float | None
    border: str | None
    draws: int
    seed: int
    tasks: tuple[str, ...]
    solvers: tuple[str, ...]
    samples: int
    temperature: float | None
    limit: int | None
    out: Path | None
    as_json: bool


def emergence(words: Sequence[str], options: Options) -> None:
    """Study a table, or what `dunwu eval` wrote of several models, and print what was found."""
    if not words:
        raise RecipeError(
            "name a table of scores, or several folders: homes of models, or what `dunwu eval` wrote as FOLDER=1.3M"
        )
    if Path(words[0]).expanduser().is_dir() or folder_of(words[0]) is not None:
        tell_runs([_run(word) for word in words], options)
        return
    scores = read_scores(Path(words[0]).expanduser(), columns_named(words[1:], COLUMNS), by=options.by)
    _tell(scores, [], options, source=Path(words[0]).name)


def tell_runs(runs: Sequence[Run], options: Options) -> None:
    """Study a ladder of models."""
    _tell(ladder(runs), rare_successes(runs), options, source=f"{len({run.name for run in runs})} models")


def _tell(scores: Scores, rare: Sequence[Rare], options: Options, *, source: str) -> None:
    folder = page_folder(options.out)
    border = None if options.border is None else _number(options.border, "--forecast")
    forecasts = [] if border is None else _forecasts(scores, border, options.seed)
    found = _studied(scores, options)
    experiment = experiment_of(found, forecasts, rare, source=source)
    tell(experiment, lines_of(found, forecasts, rare), out=folder, as_json=options.as_json)


def _studied(scores: Scores, options: Options) -> Study:
    width = None if options.factor is None else math.log10(options.factor)
    with TerminalProgress() as progress:
        progress.start("Searching")
        return study(scores, width=width, draws=options.draws, seed=options.seed, progress=progress)


def _forecasts(scores: Scores, border: float, seed: int) -> list[tuple[str, Forecast]]:
    """Of every curve whose metric has a best score. Raises DataError where none can be forecast."""
    found: list[tuple[str, Forecast]] = []
    refused: DataError | None = None
    for curve in scores.curves:
        if curve.metric.kind == "no ability":
            continue
        try:
            found.append((curve.axis, forecast(curve, border, seed=seed)))
        except DataError as error:
            refused = error
    if not found and refused is not None:
        raise refused
    return found


def folder_of(word: str) -> tuple[Path, str] | None:
    """FOLDER=SIZE, where there is such a folder."""
    folder, equals, size = word.rpartition("=")
    return (Path(folder).expanduser(), size) if equals and Path(folder).expanduser().is_dir() else None


def _number(text: str, what: str) -> float:
    return count_above_zero(text, what, such_as="1.3B, 410m or 1e22")


def _run(word: str) -> Run:
    """What `dunwu eval` wrote, with the size that the word gives."""
    named = folder_of(word)
    if named is not None:
        return read_run(named[0], named[0].name, _number(named[1], f"the size of {named[0]}"))
    folder = Path(word).expanduser()
    if not folder.is_dir():
        raise RecipeError(f"{word} is no folder; give homes of models, or what `dunwu eval` wrote as FOLDER=1.3M")
    if (folder / RESULTS).is_file():
        raise RecipeError(
            f"{word} was written by `dunwu eval`, which does not know the model's size; write {word}=1.3M, with its parameters"
        )
    raise RecipeError(f"{word} is a model's home; say by --tasks what to ask it, for example --tasks small_world")


def read_run(folder: Path, name: str, size: float) -> Run:
    """A folder of `dunwu eval`."""
    return Run(name=name, size=size, outcome=read_outcome(folder), samples=tuple(read_samples(folder)))
