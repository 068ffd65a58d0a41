"""Any Hugging Face chat template, rendered as transformers renders it, with bounded work.

minijinja comes first: it is fast, has a fuel limit, and knows nothing of Python's objects. A template that it cannot take (the
`%` operator on strings, rare string methods) goes to jinja2's sandbox, with a limit on steps, time and the size of strings.
`{% generation %}` becomes a filter block that puts the strings `mark_from` and `mark_to` of the context around its text.

Fuel bounds time, not memory: a template written to exhaust memory can do so. Templates come with the weights that one trusts.
"""

import functools
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import minijinja
from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from dunwu.core.errors import DataError, TokenizerError
from dunwu.core.modelfiles import GENERATION_TAG

FUEL = 5_000_000  # a long conversation through the longest published template takes about 100,000
MOST_STEPS = 300_000  # turns of loops and calls of macros, in jinja2
TIMEOUT_S = 10.0
MOST_CHARACTERS = 64 << 20
MOST_TEMPLATE_CHARACTERS = 1 << 20

_TAG = re.compile(GENERATION_TAG)
_SEPARATOR = re.compile(r"[\x1c-\x1f]")
_WIDTH = re.compile(r"[%{:.][^a-zA-Z{}%]{0,8}\d{5}")  # a width in a format string


class _RefusedError(Exception):
    """What a template's own `raise_exception` says."""


class _TooMuchError(Exception):
    """The template works longer, or builds longer strings, than any conversation needs."""


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
    except _TooMuchError as error:
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


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """transformers' own: keys in their order, nothing escaped for HTML."""
    separators = tuple(separators) if separators else None
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


_FILTERS: dict[str, Callable[..., Any]] = {"tojson": _tojson, "learned": _learned}
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


class _Guarded(ImmutableSandboxedEnvironment):
    """jinja2's sandbox where each turn of a loop and each macro counts, and strings stay within MOST_CHARACTERS."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        for name in ("center", "indent", "replace", "wordwrap"):
            self.filters[name] = _modest(self.filters[name])
        del self.globals["lipsum"], self.filters["format"]
        self.filters.update(_FILTERS)
        self.globals.update(_FUNCTIONS, namespace=_Namespace)
        self.steps, self.until = 0, 0.0

    def tick(self) -> str:
        self.steps += 1
        if self.steps > MOST_STEPS or time.monotonic() > self.until:
            raise _TooMuchError("does not come to an end")
        return ""

    def joined(self, *values: Any) -> str:
        return _within("".join(map(str, values)))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator != "+":
            _require_modest((left, right))
        if operator == "%":
            _require_narrow(left)
        return _within(super().call_binop(context, operator, left, right))

    def call(self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(getattr(__obj, "__self__", None), str):
            _require_modest((__obj.__self__, *args, *kwargs.values()))
            if __obj.__name__.startswith("format"):
                _require_narrow(__obj.__self__)
        return _within(super().call(__context, __obj, *args, **kwargs))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for found in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            found.body.insert(0, nodes.ExprStmt(_call("tick", [])))  # pyright: ignore[reportAttributeAccessIssue]
        return _Concatenations().visit(tree)


class _Concatenations(NodeTransformer):
    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - jinja2 calls it by this name
        self.generic_visit(node)
        return _call("joined", node.nodes)


class _Namespace(Namespace):
    """As transformers has it: no underscored names, which reach Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        values = dict(*rest, **kwargs)
        for name in values:
            _require_plain(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_plain(name)
        super().__setitem__(name, value)


def _require_plain(name: str) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a template may not store {name!r} on a namespace")


def _call(attribute: str, arguments: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(attribute), arguments, [], None, None)


def _within(value: Any) -> Any:
    if isinstance(value, str | list | tuple) and len(value) > MOST_CHARACTERS:
        raise _TooMuchError(f"builds a value of {len(value)} characters or items")
    return value


def _require_modest(values: Iterable[Any]) -> None:
    """A bound on what repeating, padding and replacing can make: the product of the lengths and numbers involved."""
    product = 1
    for value in values:
        if isinstance(value, str | list | tuple):
            product *= max(1, len(value))
        elif isinstance(value, int):
            product *= max(1, abs(value))
        if product > MOST_CHARACTERS:
            raise _TooMuchError("builds a string or a number beyond all need")


def _require_narrow(layout: Any) -> None:
    if isinstance(layout, str) and _WIDTH.search(layout):
        raise _TooMuchError("pads a value beyond all need")


def _modest(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)  # keeps jinja2's mark of what a filter wants passed
    def guarded(*args: Any, **kwargs: Any) -> Any:
        _require_modest((*args, *kwargs.values()))
        return _within(function(*args, **kwargs))

    return guarded


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> tuple[_Guarded, Template]:
    environment = _Guarded()
    return environment, environment.from_string(_mark_generation(source))


def _render_jinja2(source: str, context: Mapping[str, Any]) -> str:
    environment, template = _compiled(source)
    environment.steps, environment.until = 0, time.monotonic() + TIMEOUT_S
    pieces: list[str] = []
    written = 0
    for piece in template.generate(**context):
        written += len(piece)
        if written > MOST_CHARACTERS:
            raise _TooMuchError(f"writes more than {MOST_CHARACTERS} characters")
        pieces.append(piece)
    return "".join(pieces)
