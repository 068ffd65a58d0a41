"""jinja2's sandbox with bounds on work, time and size.

The sandbox keeps a template away from Python's internals; it does not bound what a template builds. Here each turn of a loop and
each call of a macro counts and looks at the clock, whatever a template builds is measured (deeply: twice the same list within a
list counts twice), and what can make much of little (repeating, padding, formatting, replacing, joining) is measured before it is
done. Only methods that are named below can be called, so no single step takes longer than a moment.
"""

import functools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

from jinja2 import Environment, Template, TemplateSyntaxError, Undefined, nodes
from jinja2.defaults import (
    DEFAULT_NAMESPACE,  # pyright: ignore[reportUnknownVariableType] -- jinja2 says of it only that it is a dictionary
)
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.filters import (
    FILTERS,  # pyright: ignore[reportUnknownVariableType] -- likewise
    make_attrgetter,
)
from jinja2.runtime import BlockReference, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Cycler, Joiner, Namespace, pass_environment
from jinja2.visitor import NodeTransformer

MOST_BITS = 100_000  # of a whole number
MOST_PRECISION = 100
MOST_WRAPPED = 50_000  # characters; Python's wrapping takes the square of a long word
MOST_COMPARED = 1 << 30  # characters against characters, where Python's search takes their product
_WIDTH = re.compile(r"[%{:.][^a-zA-Z{}%]{0,8}\d{4}|%[^a-zA-Z%]*\*|:[^{}]*\{")  # wide, or as wide as a value says

_HARMLESS = {
    str: frozenset(
        (
            *("capitalize", "casefold", "count", "endswith", "find", "index", "lower", "partition", "removeprefix"),
            *("removesuffix", "split", "splitlines", "startswith", "swapcase", "title", "upper", "isalnum", "isalpha"),
            *("isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace"),
            *("istitle", "isupper"),
        )
    ),
    dict: frozenset(("get", "items", "keys", "values", "copy")),
    list: frozenset(("count", "index", "copy")),
    tuple: frozenset(("count", "index")),
    LoopContext: frozenset(("cycle", "changed")),
    Cycler: frozenset(("next", "reset")),
}
_SEARCHING = frozenset(("rfind", "rindex", "rpartition", "rsplit", "strip", "lstrip", "rstrip"))
_PADDING = frozenset(("center", "ljust", "rjust", "zfill", "expandtabs"))
_FORMATTING = frozenset(("format", "format_map"))
_WITHOUT = ("format", "pprint", "random", "striptags", "urlize", "xmlattr")  # unbounded, or another text each time


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """`steps`: turns of loops and calls of macros. `characters`: of a value, and of all that is written."""

    steps: int = 100_000
    characters: int = 8 << 20
    timeout_s: float = 10.0


class TooMuchError(Exception):
    """The template works longer, or builds more, than its bounds allow."""


class _Work:
    """What one rendering has used."""

    __slots__ = ("bounds", "steps", "until", "written")

    def __init__(self, bounds: Bounds) -> None:
        self.bounds, self.steps, self.written = bounds, 0, 0
        self.until = time.monotonic() + bounds.timeout_s

    def step(self) -> None:
        self.steps += 1
        if self.steps > self.bounds.steps or time.monotonic() > self.until:
            raise TooMuchError("does not come to an end")

    def write(self, characters: int) -> None:
        self.written += characters
        if self.written > 4 * self.bounds.characters:  # what a macro writes is written again where it is called
            raise TooMuchError(f"writes more than {self.bounds.characters} characters")


_work: ContextVar[_Work | None] = ContextVar("_work", default=None)


def _bounds() -> Bounds:
    work = _work.get()
    return work.bounds if work else Bounds()  # without work: constants, while a template is compiled


def render_bounded(template: Template, values: Mapping[str, Any], bounds: Bounds) -> str:
    """The text. Raises TooMuchError beyond the bounds, and whatever jinja2 and Python raise."""
    token = _work.set(_Work(bounds))
    try:
        pieces: list[str] = []
        written = 0
        for piece in template.generate(**values):
            written += len(piece)
            if written > bounds.characters:
                raise TooMuchError(f"writes more than {bounds.characters} characters")
            pieces.append(piece)
        return "".join(pieces)
    finally:
        _work.reset(token)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Compiles templates for `render_bounded`. `functions` and `filters`: beside jinja2's own, and before them."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(
        self,
        *,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        filters: Mapping[str, Callable[..., Any]] | None = None,
        undefined: type[Undefined] = Undefined,
        trim: bool = False,
        keep_trailing_newline: bool = False,
    ) -> None:
        super().__init__(
            trim_blocks=trim,
            lstrip_blocks=trim,
            keep_trailing_newline=keep_trailing_newline,
            undefined=undefined,
            extensions=[loopcontrols],
            finalize=_written,
        )
        known: dict[str, Callable[..., Any]] = {"join": _join, "sum": _sum, "tojson": to_json, **(filters or {})}
        known = {**FILTERS, **known}
        self.filters = {name: _measured(known[name], _BEFORE.get(name)) for name in known.keys() - frozenset(_WITHOUT)}
        callables: dict[str, Any] = {
            **DEFAULT_NAMESPACE,
            "range": safe_range,
            "namespace": _Namespace,
            **(functions or {}),
        }
        self.globals = {name: callables[name] for name in callables.keys() - {"lipsum"}}
        self._functions: tuple[Any, ...] = tuple(self.globals.values())

    def tick(self, characters: int) -> str:
        """A turn of a loop or a call, whose body has so many characters of plain text."""
        if (work := _work.get()) is not None:
            work.step()
            work.write(characters)
        return ""

    def joined(self, *values: Any) -> str:
        """`a ~ b`."""
        require_size(values)
        return "".join(map(str, values))

    def built(self, value: Any) -> Any:
        """A list, tuple or dictionary that a template writes."""
        return require_size(value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _require_few_bits(left, right)
        if operator == "*":
            _require_product((left, right))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _require(left.bit_length() * abs(right) <= MOST_BITS, "builds a number beyond all need")
        elif operator == "%" and isinstance(left, str):
            _require_narrow(left, "%", right)
        return require_size(super().call_binop(context, operator, left, right))

    def call(self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(__obj, "__self__", None) is self:
            return __obj(*args)
        self._require_callable(__obj, args, kwargs)
        return require_size(super().call(__context, __obj, *args, **kwargs))

    def _require_callable(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if isinstance(function, Macro | LoopContext | BlockReference | Joiner) or any(
            function is known for known in self._functions
        ):
            return
        method = getattr(function, "__wrapped__", function)  # the sandbox wraps `format`
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        for kind, names in _HARMLESS.items():
            if isinstance(owner, kind) and name in names:
                return
        if isinstance(owner, Undefined) or isinstance(function, Undefined):
            return  # jinja2 says what is missing
        if not isinstance(owner, str) or not _bounded_method(owner, name, args, kwargs):
            raise SecurityError(f"a template may not call {name or type(function).__name__!r}")

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for found in tree.find_all((nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)):
            raise TemplateSyntaxError("a template stands alone: it cannot read another file", found.lineno, name)
        for found in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)):
            body = found.body
            plain = sum(len(data.data) for node in body for data in _data(node))
            body.insert(0, nodes.ExprStmt(_call("tick", [nodes.Const(plain)])))
        return _Measured().visit(tree)


def _data(node: nodes.Node) -> Iterable[nodes.TemplateData]:
    return [node] if isinstance(node, nodes.TemplateData) else node.find_all(nodes.TemplateData)


def _bounded_method(owner: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a method of a string may be called; what it would build is bounded first."""
    if name in _SEARCHING:
        _require_comparable(owner, *args)
    elif name in _PADDING:
        _require_product((owner, *args, *kwargs.values()))
    elif name == "replace":
        _require_replaceable(owner, *args[:2])
    elif name == "join":
        _require_joinable(owner, args[0] if args else ())
    elif name in _FORMATTING:
        _require_narrow(owner, "{", (args, kwargs))
    else:
        return False
    return True


class _Measured(NodeTransformer):
    """What a template builds itself goes through a measure."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - jinja2 calls it by this name
        self.generic_visit(node)
        return _call("joined", node.nodes)

    def visit_List(self, node: nodes.Expr) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("built", [node])

    def visit_Dict(self, node: nodes.Expr) -> nodes.Node:  # noqa: N802
        return self.visit_List(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        return self.visit_List(node) if node.ctx == "load" else node


def _call(attribute: str, arguments: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(attribute), arguments, [], None, None)


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


# Measures.


def size_of(value: Any, most: int) -> int:
    """Characters and items of a value, all through; stops counting beyond `most`."""
    if isinstance(value, str | bytes):
        return len(value)
    total, waiting = 0, [value]
    while waiting and total <= most:
        one = waiting.pop()
        total += 1
        if isinstance(one, str | bytes):
            total += len(one)
        elif isinstance(one, list | tuple | set | frozenset):
            waiting.extend(cast("Iterable[Any]", one))
        elif isinstance(one, dict):
            waiting.extend(cast("dict[Any, Any]", one).keys())
            waiting.extend(cast("dict[Any, Any]", one).values())
    return total


def require_size(value: Any) -> Any:
    """The value. Raises TooMuchError for one of more characters and items than the bounds allow, or for a giant number."""
    if isinstance(value, str | bytes | list | tuple | dict):
        most = _bounds().characters
        if size_of(value, most) > most:
            raise TooMuchError(f"builds a value of more than {most} characters or items")
    else:
        _require_few_bits(value)
    return cast("Any", value)


def _depth(value: Any) -> int:
    """How deep containers stand in each other."""
    deepest, level = 0, [value]
    while level := [item for one in level for item in _items(one)]:
        deepest += 1
    return deepest


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return cast("Mapping[Any, Any]", value).values()
    return cast("Iterable[Any]", value) if isinstance(value, list | tuple) else ()


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise TooMuchError(complaint)


def _require_few_bits(*values: Any) -> None:
    for value in values:
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise TooMuchError("builds a number beyond all need")


def _require_product(values: Iterable[Any]) -> None:
    """A bound on what repeating and padding can make: the product of the sizes and numbers involved."""
    product, most = 1, _bounds().characters
    for value in values:
        product *= max(1, abs(value) if isinstance(value, int) else size_of(value, most))
        _require(product <= most, "builds a string or a number beyond all need")


def _require_comparable(text: str, *others: Any) -> None:
    longest = max((len(other) for other in others if isinstance(other, str)), default=0)
    _require(len(text) * longest <= MOST_COMPARED, "searches a long text for another")


def _require_replaceable(text: str, old: Any = "", new: Any = "") -> None:
    if isinstance(old, str) and isinstance(new, str):
        _require(len(text) + text.count(old) * len(new) <= _bounds().characters, "builds a string beyond all need")


def _require_joinable(separator: Any, items: Any) -> None:
    if isinstance(items, list | tuple | dict | str):
        most = _bounds().characters
        made = size_of(items, most) + len(cast("list[Any]", items)) * len(str(separator))
        _require(made <= most, "builds a string beyond all need")


def _require_narrow(layout: str, sign: str, values: Any) -> None:
    most = _bounds().characters
    _require(not _WIDTH.search(layout) and len(layout) * 1000 <= most, "pads a value beyond all need")
    _require(layout.count(sign) * size_of(values, most) <= most, "builds a string beyond all need")


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    most = _bounds().characters
    total = 0
    for item in items:
        if (work := _work.get()) is not None:
            work.step()
        total += size_of(item, most) + 1
        _require(total <= most, f"goes through more than {most} characters or items")
        yield item


def _measured(function: Callable[..., Any], before: Callable[..., None] | None) -> Callable[..., Any]:
    """A filter whose result is measured, and what it would build too, by `before`, which takes its arguments."""

    @functools.wraps(function)  # keeps jinja2's mark of what a filter wants passed
    def measured(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(*(args[1:] if args and isinstance(args[0], Environment) else args), **kwargs)
        result = function(*args, **kwargs)
        return _counted(cast("Iterator[Any]", result)) if isinstance(result, Iterator) else require_size(result)

    return measured


def _written(value: Any) -> Any:
    """What stands in `{{ }}`, before it becomes text; jinja2's `finalize`."""
    if isinstance(value, Undefined):
        return value
    most = _bounds().characters
    size = size_of(value, most)
    _require(size <= most, f"writes more than {most} characters")
    if (work := _work.get()) is not None:
        work.write(size)
    return value


# What filters would build, with the filters' own signatures.


def _before_batch(value: Any, linecount: int, fill_with: Any = None) -> None:
    _require_product((linecount, fill_with))


def _before_center(value: Any, width: int = 80) -> None:
    _require_product((width,))


def _before_indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> None:
    _require_product((len(s.splitlines()) + 1, len(width) if isinstance(width, str) else width))


def _before_replace(value: Any, old: Any, new: Any, count: int | None = None) -> None:
    _require_replaceable(str(value), str(old), str(new))


def _before_round(value: float, precision: int = 0, method: str = "common") -> None:
    _require(abs(precision) <= MOST_PRECISION, "rounds beyond all need")


def _before_trim(value: Any, chars: str | None = None) -> None:
    _require_comparable(str(value), chars)


def _before_wordwrap(s: str, width: int = 79, *args: Any, **kwargs: Any) -> None:
    _require(len(s) <= MOST_WRAPPED, f"wraps more than {MOST_WRAPPED} characters")
    wrapstring = kwargs.get("wrapstring", args[1] if len(args) > 1 else None) or "\n"
    _require_product((len(s) + 1, wrapstring))


_BEFORE: Mapping[str, Callable[..., None]] = {
    "batch": _before_batch,
    "center": _before_center,
    "indent": _before_indent,
    "replace": _before_replace,
    "round": _before_round,
    "slice": _before_batch,
    "trim": _before_trim,
    "wordwrap": _before_wordwrap,
}


# Filters in place of jinja2's.


@pass_environment
def _join(environment: Any, value: Any, d: Any = "", attribute: str | int | None = None) -> str:
    """Without jinja2's escaping for HTML, which no prompt wants."""
    of = str if attribute is None else make_attrgetter(environment, attribute)
    items = [str(of(item)) for item in _counted(cast("Iterable[Any]", value))]
    _require_joinable(d, items)
    return str(d).join(items)


@pass_environment
def _sum(environment: Any, iterable: Any, attribute: str | int | None = None, start: Any = 0) -> Any:
    """One by one, since lists can be added up too."""
    of = make_attrgetter(environment, attribute) if attribute is not None else None
    total = start
    for item in _counted(cast("Iterable[Any]", iterable)):
        total = require_size(total + (of(item) if of else item))
    return total


def to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """As transformers writes it: keys in their order, nothing escaped for HTML."""
    separators = tuple(separators) if separators else None
    _require_product((value, 1 + (indent or 0) * _depth(value), *(separators or ())))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
