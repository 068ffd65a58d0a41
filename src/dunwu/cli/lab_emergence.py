"""`dunwu lab emergence` of a table of scores, or of what `dunwu eval` wrote."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dunwu.core.errors import DataError, RecipeError
from dunwu.core.progress import TerminalProgress
from dunwu.core.screen import harmless
from dunwu.evaluate.outcome import RESULTS, read_outcome, read_samples
from dunwu.lab.emergence.curves import COLUMNS, Scores, read_scores
from dunwu.lab.emergence.forecast import Forecast, forecast
from dunwu.lab.emergence.graded import Rare, Run, ladder, rare_successes
from dunwu.lab.emergence.study import Study, study
from dunwu.lab.emergence.telling import experiment_of, facts_of, lines_of
from dunwu.lab.experiment import facts_as_json, require_drawing, write_experiment
from dunwu.lab.scaling.points import count_of


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
    scores = read_scores(Path(words[0]).expanduser(), _named(words[1:]), by=options.by)
    _tell(scores, [], options, source=Path(words[0]).name)


def tell_runs(runs: Sequence[Run], options: Options) -> None:
    """Study a ladder of models."""
    _tell(ladder(runs), rare_successes(runs), options, source=f"{len({run.name for run in runs})} models")


def _tell(scores: Scores, rare: Sequence[Rare], options: Options, *, source: str) -> None:
    if options.out is not None:
        require_drawing()
    border = _number(options.border, "--forecast") if options.border is not None else None
    forecasts = [] if border is None else _forecasts(scores, border, options.seed)
    found = _studied(scores, options)
    told = list(lines_of(found, forecasts, rare))
    if options.out is not None:
        page = write_experiment(experiment_of(found, forecasts, rare, source=source), options.out.expanduser())
        told.append(f"page: {page}")
    if options.as_json:
        print(json.dumps(facts_as_json(facts_of(found, forecasts, rare)), ensure_ascii=False))
    else:
        print(harmless("\n".join(told)))


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


def _named(words: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        what, equals, name = word.partition("=")
        if not equals or what not in COLUMNS:
            raise RecipeError(f"{word!r} names no column; write {', '.join(f'{one}=COLUMN' for one in COLUMNS)}")
        found[what] = name
    return found


def folder_of(word: str) -> tuple[Path, str] | None:
    """FOLDER=SIZE, where there is such a folder."""
    folder, equals, size = word.rpartition("=")
    return (Path(folder).expanduser(), size) if equals and Path(folder).expanduser().is_dir() else None


def _number(text: str, what: str) -> float:
    try:
        found = count_of(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise RecipeError(f"{what} {text}: must be a number above 0, such as 1.3B, 410m or 1e22")
    return found


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
