"""Prompts with holes: Jinja in a bounded sandbox, where a value that is missing is an error and data stay data.

    template = Template("Name a company that makes {{ product }}.")
    template.variables                        # ("product",)
    template.render({"product": "kites"})

A template sees plain data alone: text, numbers, booleans, None, lists and mappings of these. What looks like a template within a
value is text like any other. Where the template asks whether a variable `is defined`, or gives it a `default`, the variable may
be left out.
"""

import dataclasses
import difflib
import functools
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import jinja2
from jinja2 import StrictUndefined, TemplateSyntaxError, meta, nodes
from pydantic import BaseModel, TypeAdapter, ValidationError

from dunwu.core.errors import PromptError
from dunwu.core.jinja import BoundedEnvironment, Bounds, TooMuchError, render_bounded
from dunwu.core.nearest import shown

MOST_TEMPLATE_CHARACTERS = 1 << 20
MOST_DEPTH = 100
_MISTAKES = (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RecursionError)


class _Missing(StrictUndefined):
    """Says what is near the key that is not there."""

    @property
    def _undefined_message(self) -> str:
        message = super()._undefined_message
        owner, name = self._undefined_obj, self._undefined_name
        if not isinstance(owner, Mapping) or self._undefined_hint:
            return message
        keys = [str(key) for key in cast("Mapping[Any, Any]", owner)]
        return f"there is no {str(name)!r} in a mapping; {nearest_name(str(name), keys)}"


@functools.cache
def _environment() -> BoundedEnvironment:
    return BoundedEnvironment(undefined=_Missing, keep_trailing_newline=True)


class Template:
    """A text with holes. `name`: for messages. `types`: of variables, as Python writes them; others take any plain data.

    Raises PromptError for a template that Jinja does not take, with its line.
    """

    def __init__(
        self,
        text: str,
        *,
        name: str = "the template",
        types: Mapping[str, Any] | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        self.text, self.name, self.bounds = text, name, bounds or Bounds()
        if len(text) > MOST_TEMPLATE_CHARACTERS:
            raise PromptError(
                f"{name} has {len(text):,} characters, at most {MOST_TEMPLATE_CHARACTERS:,} are taken; "
                "give long text as a value"
            )
        try:
            tree = _environment().parse(text)
            self._compiled = _environment().from_string(text)
        except TemplateSyntaxError as error:
            line = text.splitlines()[error.lineno - 1 : error.lineno]
            raise PromptError(
                f"{name}, line {error.lineno}: {error.message}; mend {shown(line[0] if line else text[:80])}"
            ) from error
        except (*_MISTAKES, SyntaxError, MemoryError) as error:
            raise PromptError(
                f"{name} is no template that can be read ({_first_line(error)}); make it simpler"
            ) from error
        needed = meta.find_undeclared_variables(tree)
        self.variables: tuple[str, ...] = tuple(
            dict.fromkeys(node.name for node in tree.find_all(nodes.Name) if node.name in needed)
        )
        self.optional: frozenset[str] = frozenset(_optional(tree)) & needed
        for unknown in sorted((types or {}).keys() - set(self.variables)):
            raise PromptError(
                f"{name} has no variable {unknown!r} to give a type; {nearest_name(unknown, self.variables)}"
            )
        self.types: Mapping[str, Any] = dict(types or {})
        self._adapters = {variable: TypeAdapter[Any](kind) for variable, kind in self.types.items()}

    @property
    def required(self) -> tuple[str, ...]:
        """The variables that must be given."""
        return tuple(name for name in self.variables if name not in self.optional)

    def render(self, values: Mapping[str, Any] | None = None, /, **named: Any) -> str:
        """The text with its holes filled. Values that it has no hole for are left aside.

        Raises PromptError for a value that is missing or of another type, and for a template that works or writes too much.
        """
        given = {**(values or {}), **named}
        if missing := [name for name in self.required if name not in given]:
            near = nearest_name(missing[0], [name for name in given if name not in self.variables])
            raise PromptError(f"{self.name} needs {missing[0]!r}, which is not given; {near}")
        data = {name: self._checked(name, given[name]) for name in self.variables if name in given}
        try:
            return render_bounded(self._compiled, data, self.bounds)
        except TooMuchError as error:
            raise PromptError(f"{self.name}{_line_of(error)} {error}; make it or what it is given smaller") from error
        except _MISTAKES as error:
            raise PromptError(
                f"{self.name}{_line_of(error)} cannot be filled: {_first_line(error)}; mend it"
            ) from error

    def _checked(self, name: str, value: Any) -> Any:
        if name in self._adapters:
            try:
                value = self._adapters[name].validate_python(value, strict=True)
            except ValidationError as error:
                kind = self.types[name]
                raise PromptError(
                    f"{self.name} takes {name} as {getattr(kind, '__name__', kind)}, and it is {shown(value)}: "
                    f"{error.errors()[0]['msg']}"
                ) from error
        return plain(value, name)

    def __repr__(self) -> str:
        return f"Template({shown(self.text)})"


@functools.lru_cache(maxsize=1024)
def template(text: str, name: str = "the template") -> Template:
    """A template that is compiled once."""
    return Template(text, name=name)


def nearest_name(wanted: str, known: Iterable[str]) -> str:
    """The remedy for a name that is not there."""
    names = list(dict.fromkeys(known))
    if near := difflib.get_close_matches(wanted, names, n=1, cutoff=0.5):
        return f"did you mean {near[0]!r}?"
    return f"there are: {', '.join(names[:12])}" if names else "give it"


def plain(value: Any, name: str, *, depth: int = 0) -> Any:
    """A value as plain data; pydantic models and data classes become mappings. Raises PromptError for any other object."""
    if depth > MOST_DEPTH:
        raise PromptError(f"{name} stands in itself, or is more than {MOST_DEPTH} deep; give flatter data")
    if value is None or isinstance(value, bool):
        return value
    # Of subclasses, which may bring methods of their own, the text or the number alone.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {_key(key): plain(item, name, depth=depth + 1) for key, item in items}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray | memoryview):
        return [plain(item, name, depth=depth + 1) for item in cast("Iterable[Any]", value)]
    raise PromptError(
        f"{name} is a {type(cast('object', value)).__name__}, which a template cannot take; give text, numbers, lists or mappings"
    )


def _key(key: Any) -> Any:
    return plain(key, "a key") if key is None or isinstance(key, str | numbers.Real) else str(key)


def _optional(tree: nodes.Template) -> Iterable[str]:
    for test in tree.find_all(nodes.Test):
        if test.name in ("defined", "undefined") and isinstance(test.node, nodes.Name):
            yield test.node.name
    for chosen in tree.find_all(nodes.Filter):
        if chosen.name in ("default", "d") and isinstance(chosen.node, nodes.Name):
            yield chosen.node.name


def _line_of(error: BaseException) -> str:
    """Where in the template it happened: jinja2 puts the template's own lines into the traceback."""
    line, at = 0, error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename == "<template>":
            line = at.tb_lineno
        at = at.tb_next
    return f", line {line}," if line else ""


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
