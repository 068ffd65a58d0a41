"""A task as a Python function that gives rows: `@task(input=…, target=…)` above it, in a file of the user's."""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dunwu.core.errors import DataError, RecipeError
from dunwu.core.nearest import validated
from dunwu.evaluate.tasks.spec import TaskSpec
from dunwu.evaluate.tasks.task import Task

MARK = "__dunwu_task__"


def task(**options: Any) -> Callable[[Callable[..., Iterable[Mapping[str, Any]]]], Callable[..., Any]]:
    """Make a task of a function that gives rows, as objects by field. `options`: what a YAML would say; the name is the function's.

    A function with a parameter is given the name of the split.
    """

    def mark(function: Callable[..., Iterable[Mapping[str, Any]]]) -> Callable[..., Any]:
        spec = validated(TaskSpec, {"name": function.__name__, **options})
        setattr(function, MARK, Task(spec=spec, rows=_rows(function)))
        return function

    return mark


def _rows(function: Callable[..., Iterable[Mapping[str, Any]]]) -> Callable[[str], Iterable[Mapping[str, Any]]]:
    takes_split = bool(inspect.signature(function).parameters)

    def rows(split: str) -> Iterable[Mapping[str, Any]]:
        for at, row in enumerate(function(split) if takes_split else function(), 1):
            if not isinstance(row, Mapping):
                raise DataError(f"{function.__name__} gave a {type(row).__name__} as row {at}; give an object by field")
            yield row

    return rows


def tasks_in(path: Path) -> dict[str, Task]:
    """The tasks of a Python file, by name. The file is run. Raises RecipeError where it fails or has none."""
    if not path.is_file():
        raise RecipeError(f"{path} does not exist; give FILE.py:NAME")
    spec = importlib.util.spec_from_file_location(f"dunwu_tasks_{path.stem}", path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except RecipeError:
        raise
    except Exception as error:
        raise RecipeError(f"{path} failed: {type(error).__name__}: {error}; mend it") from error
    found = {value.name: value for one in vars(module).values() if isinstance(value := getattr(one, MARK, None), Task)}
    if not found:
        raise RecipeError(f"{path} has no task; put @task(input=…) above a function that gives rows")
    return found
