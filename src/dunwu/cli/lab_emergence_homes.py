"""`dunwu lab emergence` of models' homes: each is evaluated first, once for each way to ask. Run again after a stop, it goes on."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dunwu.cli.evaluating import evaluate
from dunwu.cli.evaluating_options import Evaluating
from dunwu.cli.lab_emergence import Options, read_run, tell_runs
from dunwu.cli.lab_shared import page_folder
from dunwu.cli.models import model_folder
from dunwu.core.errors import RecipeError
from dunwu.lab.emergence.graded import Run
from dunwu.model.inspect import inspect_model


def emergence(words: Sequence[str], options: Options) -> None:
    """Evaluate the models, and study them as a ladder."""
    page_folder(options.out)  # before models are asked for hours
    homes = [Path(word).expanduser() for word in words]
    if odd := [home for home in homes if not home.is_dir()] or (homes if len(homes) < 2 else []):
        raise RecipeError(
            f"{', '.join(map(str, odd))}: with --tasks, give the homes of two or more models of different sizes"
        )
    names = [home.resolve().name for home in homes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RecipeError(f"{', '.join(twice)}: two homes of one name cannot be told apart; rename one")
    tell_runs([run for home in homes for run in _runs(home, options)], options)


def _runs(home: Path, options: Options) -> Iterator[Run]:
    name, size = home.resolve().name, float(inspect_model(model_folder(str(home))).parameters)
    usual = 0.0 if options.samples == 1 else 1.0
    for solver in options.solvers or ("auto",):
        asked = "".join(sign if sign.isalnum() else "-" for sign in solver)
        out = (options.out or Path("emergence")).expanduser() / "runs" / f"{name}-{asked}"
        given = Evaluating(
            tasks=options.tasks,
            solver=solver,
            samples=options.samples,
            temperature=usual if options.temperature is None else options.temperature,
            limit=options.limit,
            corpus="none",
            out=out,
        )
        with contextlib.redirect_stdout(sys.stderr):  # what is found is printed once, at the end
            evaluate(str(home), given)
        yield read_run(out, name, size)
