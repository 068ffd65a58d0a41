"""The process that runs a user's function; see `function.py`. Imports nothing of dunwu, so that it starts in a blink.

Arguments: the file descriptor to answer on, the Python file, the function's name. Each line read is a question:
`{"prompts", "completions", "columns"}`; the answer is `{"scores": […]}` or `{"error": what, "row": number or null}`.
"""

import asyncio
import importlib.util
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def load(file: Path, name: str) -> Callable[..., Any]:
    """The function. Its file may import what lies beside it."""
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location("dunwu_user_function", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        functions = sorted(key for key, value in vars(module).items() if inspect.isfunction(value))
        raise LookupError(f"the file has no function {name!r}; it has {', '.join(functions) or 'none'}")
    return function


def wanted(function: Callable[..., Any], columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that the function takes by name. Raises LookupError for one that no row has."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        names = set(columns)
    else:
        names = {parameter.name for parameter in parameters} & set(columns)
    for parameter in parameters:
        needed = parameter.default is parameter.empty and parameter.kind in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        )
        if needed and parameter.name not in ("prompts", "completions", *columns):
            has = ", ".join(sorted(columns)) or "none"
            raise LookupError(f"it takes the column {parameter.name!r}, and the rows have {has}; rename one of them")
    return {name: columns[name] for name in names}


def call(function: Callable[..., Any], question: Mapping[str, Any]) -> list[Any]:
    """What the function gives, as a list of numbers and None; other values as `{"not": what}`."""
    chosen = wanted(function, question["columns"])
    result = function(prompts=question["prompts"], completions=question["completions"], **chosen)
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    if hasattr(result, "tolist"):
        result = result.tolist()
    if isinstance(result, str | bytes | Mapping) or not hasattr(result, "__iter__"):
        raise TypeError(f"it returned {shown(result)}, not a list of numbers")
    return [number(value) for value in result]


def number(value: Any) -> Any:
    """A number as JSON has it; what is none, and what is not finite, as `{"not": what}`."""
    if value is None:
        return None
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool | int | float) and -1e300 < value < 1e300:
        return float(value)
    return {"not": shown(value)}


def shown(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return f"{text[:60]} ({type(value).__name__})"


def answer(function: Callable[..., Any], question: Mapping[str, Any]) -> dict[str, Any]:
    """The scores, or what went wrong and for which row: a function that fails is tried again row by row."""
    try:
        return {"scores": call(function, question)}
    except LookupError as error:
        if not error.__traceback__ or _is_ours(error):
            return {"error": str(error), "row": None}
        return {"error": _what(error), "row": _first_failing(function, question)}
    except BaseException as error:
        return {"error": _what(error), "row": _first_failing(function, question)}


def _is_ours(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].filename == __file__


def _first_failing(function: Callable[..., Any], question: Mapping[str, Any]) -> int | None:
    for row in range(len(question["prompts"])):
        alone = {key: value[row : row + 1] for key, value in question.items() if key != "columns"}
        alone["columns"] = {name: values[row : row + 1] for name, values in question["columns"].items()}
        try:
            call(function, alone)
        except BaseException:
            return row
    return None


def _what(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    place = f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name})" if frames else ""
    return f"{type(error).__name__}: {str(error)[:300]}{place}"


def main() -> None:
    """Answer until there are no more questions."""
    descriptor, file, name = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    function: Callable[..., Any] | None = None
    with os.fdopen(descriptor, "w") as pipe:
        for line in sys.stdin:
            question = json.loads(line)
            try:
                function = function or load(file, name)
                found = {"scores": []} if question.get("load") else answer(function, question)
            except BaseException as error:
                found = {"error": str(error) if isinstance(error, LookupError) and _is_ours(error) else _what(error)}
            pipe.write(json.dumps(found) + "\n")
            pipe.flush()


if __name__ == "__main__":
    main()
