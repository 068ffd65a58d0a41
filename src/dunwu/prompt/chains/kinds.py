"""The kinds of named values: their names in YAML, and whether one fits where another is wanted."""

import types
from collections.abc import Mapping
from typing import Annotated, Any, Union, cast, get_args, get_origin

from pydantic import BaseModel, create_model

from dunwu.core.errors import PromptError
from dunwu.core.templates import nearest_name

NAMED: Mapping[str, Any] = {
    "text": str,
    "int": int,
    "float": float,
    "bool": bool,
    "list": list[Any],
    "list[text]": list[str],
    "list[int]": list[int],
    "list[float]": list[float],
    "object": dict[str, Any],
    "any": Any,
}


def kind_of(name: str, where: str) -> Any:
    """The kind that a YAML file calls so. Raises PromptError."""
    if name not in NAMED:
        raise PromptError(f"{where} has the kind {name!r}, which there is not; {nearest_name(name, NAMED)}")
    return NAMED[name]


def name_of(kind: Any) -> str:
    """As a YAML file, or a message, calls it."""
    for name, known in NAMED.items():
        if known == kind:
            return name
    return getattr(kind, "__name__", str(kind))


def fits(given: Any, wanted: Any) -> bool:
    """Whether a value of one kind can go where the other is wanted; True wherever the annotations do not say."""
    given, wanted = _bare(given), _bare(wanted)
    if Any in (given, wanted) or object in (given, wanted) or given == wanted:
        return True
    if get_origin(given) in (Union, types.UnionType):
        return all(fits(one, wanted) for one in get_args(given))
    if get_origin(wanted) in (Union, types.UnionType):
        return any(fits(given, one) for one in get_args(wanted))
    outer, around = get_origin(given) or given, get_origin(wanted) or wanted
    if not (isinstance(outer, type) and isinstance(around, type)):
        return True
    if outer is int and around is float:
        return True
    if not issubclass(outer, around):
        return False
    if outer is str:  # text is no sequence of texts, whatever Python says
        return around is str
    inner, within = get_args(given), get_args(wanted)
    return not (inner and within) or all(fits(*pair) for pair in zip(inner, within, strict=False))


def _bare(kind: Any) -> Any:
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return type(None) if kind is None else kind


def record(name: str, fields: Mapping[str, str]) -> type[BaseModel]:
    """A pydantic model of named fields, each with the name of its kind. Raises PromptError."""
    kinds: dict[str, Any] = {field: (kind_of(kind, f"{name}.{field}"), ...) for field, kind in fields.items()}
    return cast("type[BaseModel]", create_model(name, **kinds))


def fields_of(model: type[BaseModel]) -> dict[str, str] | None:
    """What `record` makes the model of; None for one that it does not make."""
    found = {name: name_of(field.annotation) for name, field in model.model_fields.items()}
    return found if all(kind in NAMED for kind in found.values()) else None
