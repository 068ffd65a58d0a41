"""Templates of a task, over the columns of one row; what rows say is data and is never read as a template."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jinja2

from dunwu.core.errors import DataError
from dunwu.core.jinja import BoundedEnvironment, Bounds, TooMuchError, render_bounded
from dunwu.evaluate.tasks.boxed import boxed

_ONE_EXPRESSION = re.compile(r"\A\s*\{\{((?:(?!\}\}).)*)\}\}\s*\Z", re.DOTALL)
_MARKS = ("{{", "{%", "{#")
_BOUNDS = Bounds()


class UnknownNameError(DataError):
    """A template asks for `name`, which the row does not have."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


def _regex_replace(text: str, pattern: str, replacement: str = "", count: int = 0) -> str:
    return re.sub(pattern, replacement, text, count=count)


def _boxed(text: str) -> str:
    found = boxed(text)
    if found is None:
        raise ValueError("nothing stands in \\boxed{}")
    return found


@cache
def _environment() -> BoundedEnvironment:
    return BoundedEnvironment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        filters={"regex_replace": _regex_replace, "boxed": _boxed},
    )


@cache
def _text_template(template: str) -> jinja2.Template:
    return _environment().from_string(template)


@cache
def _expression(text: str) -> Any:
    return _environment().compile_expression(text, undefined_to_none=False)


def text_of(template: str, values: Mapping[str, Any]) -> str:
    """The template with its values. Raises UnknownNameError, and DataError for a template that is wrong in itself."""
    if not any(mark in template for mark in _MARKS):
        return template  # most tasks have many such: a letter for each choice
    return str(_run(template, lambda: render_bounded(_text_template(template), values, _BOUNDS)))


def value_of(template: Any, values: Mapping[str, Any]) -> Any:
    """As `text_of`, but one `{{ expression }}` alone keeps its kind, and what is no text is taken as it is."""
    if not isinstance(template, str):
        return template
    alone = _ONE_EXPRESSION.match(template)
    if alone is None:
        return text_of(template, values)
    if (name := alone[1].strip()) in values:
        return values[name]
    value = _run(template, lambda: _expression(alone[1])(**values))
    if isinstance(value, jinja2.Undefined):
        return _run(template, lambda: str(value))
    return value


def _run(template: str, render: Callable[[], Any]) -> Any:
    shown = template if len(template) <= 60 else template[:59] + "…"
    try:
        return render()
    except jinja2.UndefinedError as error:
        if (found := re.search(r"'([^']*)' is undefined", str(error))) is None:
            raise DataError(f"the template {shown!r} cannot be used on this row: {error}") from error
        raise UnknownNameError(f"the template {shown!r}: {error}", found[1]) from error
    except jinja2.TemplateError as error:
        raise DataError(f"the template {shown!r} cannot be used: {error}; mend it") from error
    except TooMuchError as error:
        raise DataError(f"the template {shown!r} {error}; make it or the row smaller") from error
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, re.error) as error:
        raise DataError(f"the template {shown!r} cannot be used on this row: {error}") from error
