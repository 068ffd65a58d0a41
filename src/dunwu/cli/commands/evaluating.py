"""Measuring a model on tasks, and comparing two."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dunwu.cli.evaluating_options import Evaluating
from dunwu.cli.given import AsJson, Model, work


def evaluate(model: Model, /, *, given: Evaluating) -> None:
    """Measure a model on tasks: every score with its number of questions and 95% interval. Run again after a stop, it goes on."""
    work("evaluating").evaluate(model, given)


def compare(
    before: Annotated[Path, Parameter(help="A folder that `dunwu eval` wrote.")],
    after: Annotated[Path, Parameter(help="Another one, on the same tasks.")],
    /,
    *,
    metric: Annotated[
        str | None,
        Parameter(
            help="What decides, where a task has it, such as acc_norm; default: each task's first. Choose before you look."
        ),
    ] = None,
    out: Annotated[Path | None, Parameter(help="A page to write, as FILE.html.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two evaluations question by question: the difference with its interval, p-value and power of each task."""
    work("comparing").compare(before, after, metric=metric, out=out, as_json=as_json)
