"""Any Hugging Face chat template, rendered as transformers renders it, with bounded work.

minijinja comes first: it is fast, has a fuel limit, and knows nothing of Python's objects. A template that it cannot take (the
`%` operator on strings, rare string methods) goes to jinja2's sandbox within the bounds of `core/jinja.py`.
`{% generation %}` becomes a filter block that puts the strings `mark_from` and `mark_to` of the context around its text.

Fuel bounds time, not memory: a template written to exhaust memory can do so. Templates come with the weights that one trusts.
"""

import functools
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import minijinja
from jinja2 import Template, TemplateError

from dunwu.core.errors import DataError, TokenizerError
from dunwu.core.jinja import BoundedEnvironment, Bounds, TooMuchError, render_bounded, to_json
from dunwu.core.modelfiles import GENERATION_TAG

FUEL = 5_000_000  # a long conversation through the longest published template takes about 100,000
BOUNDS = Bounds(steps=300_000, characters=64 << 20)  # in jinja2
MOST_TEMPLATE_CHARACTERS = 1 << 20

_TAG = re.compile(GENERATION_TAG)
_SEPARATOR = re.compile(r"[\x1c-\x1f]")


class _RefusedError(Exception):
    """What a template's own `raise_exception` says."""


def render_template(source: str, context: Mapping[str, Any]) -> str:
    """The text that `source` makes of `context`: messages, add_generation_prompt, tools, bos_token and whatever else it reads.

    Raises DataError when the template itself refuses the conversation, TokenizerError when it cannot be rendered.
    """
    if len(source) > MOST_TEMPLATE_CHARACTERS:
        raise TokenizerError(
            f"the chat template has {len(source)} characters, at most {MOST_TEMPLATE_CHARACTERS} are read; "
            "use the template that the model was published with"
        )
    context = {"mark_from": "", "mark_to": "", "tools": None, "documents": None, **context}
    try:
        if not _differs(context):
            return _render_mini(source, context)
    except _RefusedError as error:
        raise DataError(f"the model's chat template refuses this conversation: {error}") from error
    except minijinja.TemplateError as error:
        if "ran out of fuel" in str(error):
            raise TokenizerError("the chat template does not come to an end; use another") from error
    try:
        return _render_jinja2(source, context)
    except _RefusedError as error:
        raise DataError(f"the model's chat template refuses this conversation: {error}") from error
    except TooMuchError as error:
        raise TokenizerError(f"the chat template {error}; use another") from error
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        raise TokenizerError(f"the chat template cannot be rendered: {error}") from error


def marks_generation(source: str) -> bool:
    """Whether a template says itself, with `{% generation %}`, what the model writes."""
    return _TAG.search(source) is not None


def _differs(value: Any) -> bool:
    """Whether a value is one that minijinja treats unlike Python: it hands 1.0 to `tojson` as 1, and does not strip U+001C to
    U+001F as white space."""
    if isinstance(value, Mapping):
        return any(map(_differs, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_differs, value))
    return isinstance(value, float) or (isinstance(value, str) and _SEPARATOR.search(value) is not None)


def _mark_generation(source: str) -> str:
    def block(found: re.Match[str]) -> str:
        word = "endfilter" if found[2] else "filter learned(mark_from, mark_to)"
        return f"{{%{found[1]} {word} {found[3]}%}}"

    return _TAG.sub(block, source)


def _learned(text: str, mark_from: str, mark_to: str) -> str:
    return f"{mark_from}{text}{mark_to}"


def _refuse(message: str) -> str:
    raise _RefusedError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


_FILTERS: dict[str, Callable[..., Any]] = {"tojson": to_json, "learned": _learned}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"raise_exception": _refuse, "strftime_now": _strftime_now}


@functools.lru_cache(maxsize=16)
def _mini(source: str) -> minijinja.Environment:
    environment = minijinja.Environment(
        fuel=FUEL, trim_blocks=True, lstrip_blocks=True, auto_escape_callback=lambda name: False
    )
    for name, function in _FILTERS.items():
        environment.add_filter(name, function)
    for name, function in _FUNCTIONS.items():
        environment.add_global(name, function)
    environment.add_template("chat", _mark_generation(source))
    return environment


def _render_mini(source: str, context: Mapping[str, Any]) -> str:
    try:
        return _mini(source).render_template("chat", **context)
    except minijinja.TemplateError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, _RefusedError):
                raise cause from None
            cause = cause.__cause__
        raise


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> Template:
    environment = BoundedEnvironment(functions=_FUNCTIONS, filters=_FILTERS, trim=True)
    return environment.from_string(_mark_generation(source))


def _render_jinja2(source: str, context: Mapping[str, Any]) -> str:
    return render_bounded(_compiled(source), context, BOUNDS)
