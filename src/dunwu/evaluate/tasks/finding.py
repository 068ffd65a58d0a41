"""A task by name: shipped with dunwu, in a YAML of the user's, or a decorated function in a Python file of theirs."""

import difflib
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from dunwu.core.errors import RecipeError
from dunwu.core.nearest import validated
from dunwu.core.yaml import parse_yaml
from dunwu.evaluate.tasks.functions import tasks_in
from dunwu.evaluate.tasks.sources import Place
from dunwu.evaluate.tasks.spec import TaskSpec
from dunwu.evaluate.tasks.task import Task

SHIPPED = Path(str(files("dunwu.evaluate.tasks"))) / "shipped"


def list_tasks() -> tuple[str, ...]:
    """The names of the tasks that come with dunwu."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.yaml")))


def find_task(name: str | Path, *, data: str | Path | None = None, subjects: Sequence[str] = ()) -> Task:
    """A task by its name, its YAML, or FILE.py:NAME. `mmlu:law,nutrition` asks these subjects only.

    `data`: a folder or file that holds the questions, instead of the source that the task names.
    Raises RecipeError where there is no such task, or its YAML is wrong.
    """
    text, _, asked = _parted(str(name))
    only = (*subjects, *(subject.strip() for subject in asked.split(",") if subject.strip()))
    if Path(text).suffix == ".py":
        found = _function(Path(text), asked)
        return _of(found, data, tuple(subjects))
    if Path(text).suffix in (".yaml", ".yml"):
        return _of(Task(spec=read_spec(Path(text)), place=Place(folder=Path(text).parent)), data, only)
    path = SHIPPED / f"{text}.yaml"
    if text not in list_tasks():
        near = difflib.get_close_matches(text, list_tasks(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(list_tasks())}"
        raise RecipeError(f"there is no task {text!r}; {hint} (one of your own is given as FILE.yaml or FILE.py:NAME)")
    return _of(Task(spec=read_spec(path), place=Place(folder=SHIPPED)), data, only)


def _parted(name: str) -> tuple[str, str, str]:
    """What stands before and after the colon; one after a drive's letter parts nothing."""
    at = name.find(":", 2)
    return (name, "", "") if at < 0 else (name[:at], ":", name[at + 1 :])


def _of(task: Task, data: str | Path | None, only: tuple[str, ...]) -> Task:
    place = Place(folder=task.place.folder, data=Path(data) if data is not None else None)
    rows = task.rows if data is None else None
    return Task(spec=task.spec, place=place, only=only, rows=rows)


def _function(path: Path, name: str) -> Task:
    found = tasks_in(path)
    if name and name not in found:
        raise RecipeError(f"{path} has no task {name!r}; it has {', '.join(found)}")
    if not name and len(found) > 1:
        raise RecipeError(
            f"{path} has {len(found)} tasks; name one, as {path}:{next(iter(found))} ({', '.join(found)})"
        )
    return found[name] if name else next(iter(found.values()))


def read_spec(path: Path) -> TaskSpec:
    """The specification in a YAML. Raises RecipeError naming the file, the key, its value, the rule, and the nearest key."""
    try:
        value: Any = parse_yaml(path.read_text("utf-8"))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read ({error.strerror or error}); give the YAML of a task") from error
    except (YAMLError, UnicodeError) as error:
        raise RecipeError(f"{path} is not valid YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(value, dict):
        raise RecipeError(f"{path} holds no task; write name: and input: (see docs/tasks.md)")
    try:
        return validated(TaskSpec, {"name": path.stem, **value})
    except RecipeError as error:
        raise RecipeError("\n".join(f"{path}: {_of_a_task(line)}" for line in str(error).splitlines())) from error


def _of_a_task(complaint: str) -> str:
    """A complaint about a recipe as one about a task, which no command line changes."""
    complaint = re.sub(
        r": write it in the recipe, or give \S+=VALUE on the command line$", "; write it there", complaint
    )
    return complaint.removeprefix(": ").replace(
        "see `dunwu build --help` for where the keys are listed", "see docs/tasks.md"
    )
