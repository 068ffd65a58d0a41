"""The keys that a recipe knows, the nearest one to a misspelling, and pydantic's complaints in plain words."""

import difflib
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError

from dunwu.core.errors import RecipeError

TAGS = ("kind", "method")  # keys that say which others their group has
Path = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)


@cache
def known_keys(model: type[BaseModel]) -> Mapping[str, Any]:
    """Every dotted key below `model`, to its annotation; an index into a list is written `*`: `corpus.sources.*.path`."""
    keys: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        keys[name] = field.annotation
        for nested, annotation in _below(field.annotation):
            keys.setdefault(f"{name}.{nested}", annotation)
    return keys


def _below(annotation: Any) -> list[tuple[str, Any]]:
    origin = get_origin(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return list(known_keys(annotation).items())
    if origin is Annotated:
        return _below(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [pair for choice in get_args(annotation) for pair in _below(choice)]
    if origin is tuple:
        item = get_args(annotation)[0]
        return [("*", item), *((f"*.{key}", value) for key, value in _below(item))]
    return []


def pattern(key: str) -> str:
    """`corpus.sources.0.path` → `corpus.sources.*.path`."""
    return ".".join("*" if part.isdigit() else part for part in key.split("."))


def nearest_key(key: str, model: type[BaseModel]) -> str | None:
    """The known dotted key most like `key`: the same last name elsewhere, else the closest spelling; None if nothing is near."""
    known = list(known_keys(model))
    wanted = pattern(key)
    leaf = wanted.rsplit(".", 1)[-1]
    same_leaf = [candidate for candidate in known if candidate.rsplit(".", 1)[-1] == leaf]
    siblings = [
        candidate for candidate in known if candidate.rpartition(".")[0] == wanted.rpartition(".")[0] and "." in wanted
    ]
    for candidates in (same_leaf, siblings, known):
        found = difflib.get_close_matches(wanted, candidates, n=1, cutoff=0.0 if candidates is same_leaf else 0.6)
        if found:
            return _with_indices(found[0], key)
    leaves = {candidate.rsplit(".", 1)[-1]: candidate for candidate in reversed(known)}
    by_leaf = difflib.get_close_matches(leaf, list(leaves), n=1, cutoff=0.75)
    return _with_indices(leaves[by_leaf[0]], key) if by_leaf else None


def _with_indices(found: str, key: str) -> str:
    indices = [part for part in key.split(".") if part.isdigit()]
    parts = [(indices.pop(0) if indices else "0") if part == "*" else part for part in found.split(".")]
    return ".".join(parts)


def unknown_key(key: str, model: type[BaseModel]) -> str:
    """The complaint about a key that `model` does not know."""
    near = nearest_key(key, model)
    remedy = f"did you mean {near}?" if near else "remove it, or see `dunwu build --help` for where the keys are listed"
    return f"unknown key {key}: {remedy}"


def validated(model: type[Model], data: Mapping[str, Any]) -> Model:
    """`data` as the model. Raises RecipeError with all complaints, one line each."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise RecipeError(explain_validation(error, data, model)) from error


def explain_validation(error: ValidationError, data: Any, model: type[BaseModel]) -> str:
    """All of pydantic's complaints about `data`, one line each: the key, its value, the rule and what to write."""
    rules: dict[str, list[Mapping[str, Any]]] = {}
    for complaint in error.errors(include_url=False):
        path = data_path(complaint["loc"], data, missing=complaint["type"] in ("missing", "extra_forbidden"))
        rules.setdefault(".".join(map(str, path)), []).append(cast("Mapping[str, Any]", complaint))
    inner = [key for key in rules if not any(other.startswith(f"{key}.") for other in rules)]
    return "\n".join(_complain(key, rules[key], data, model) for key in inner)


def data_path(location: Sequence[str | int], data: Any, *, missing: bool) -> Path:
    """The part of pydantic's location that exists in `data`; it mixes in names of union members, which are dropped. `missing`:
    the last part names what is not there."""
    path: list[str | int] = []
    at = data
    for index, part in enumerate(location):
        if isinstance(at, dict) and part in at:
            at = cast("dict[str, Any]", at)[str(part)]
        elif isinstance(at, list) and isinstance(part, int):
            at = cast("list[Any]", at)[part]
        elif not (missing and index == len(location) - 1):
            continue
        path.append(part)
    return tuple(path)


def _complain(key: str, complaints: Sequence[Mapping[str, Any]], data: Any, model: type[BaseModel]) -> str:
    kind = complaints[0]["type"]
    if kind == "extra_forbidden":
        return _of_another(key, data, model) or unknown_key(key, model)
    if kind == "missing":
        return f"{key} is missing: write it in the recipe, or give {key}=VALUE on the command line"
    if kind == "value_error":
        return f"{key}: {complaints[0]['ctx']['error']}"
    value = value_at(key, data)
    rule = " or ".join(dict.fromkeys(rule_of(complaint) for complaint in complaints))
    return f"{key or 'the recipe'}={shown(value)}: must be {rule}"


def _of_another(key: str, data: Any, model: type[BaseModel]) -> str | None:
    """The complaint about an option that its group would have with another kind or method."""
    if pattern(key) not in known_keys(model):
        return None
    parent, _, option = key.rpartition(".")
    group = value_at(parent, data)
    tag = next((tag for tag in TAGS if tag in group), None)
    return tag and f"{key}: with {tag}: {group[tag]} there is no {option}; remove it, or choose another {tag}"


def value_at(key: str, data: Any) -> Any:
    """What stands at a dotted key that exists."""
    at = data
    for part in filter(None, key.split(".")):
        at = cast("list[Any]", at)[int(part)] if isinstance(at, list) else at[part]
    return at


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def rule_of(complaint: Mapping[str, Any]) -> str:
    """What would be right, from pydantic's kind of error and its bounds."""
    bounds: Mapping[str, Any] = complaint.get("ctx", {})
    tag = str(bounds.get("discriminator", "kind")).strip("'")
    rules = {
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "int_parsing": "a whole number",
        "float_type": "a number",
        "float_parsing": "a number",
        "finite_number": "a finite number",
        "bool_type": "true or false",
        "bool_parsing": "true or false",
        "string_type": "text (put it in quotes)",
        "tuple_type": "a list, such as [a, b]",
        "list_type": "a list",
        "dict_type": "a group of keys",
        "string_too_short": f"text of at least {bounds.get('min_length')} characters",
        "string_too_long": f"text of at most {bounds.get('max_length')} characters",
        "model_type": "a group of keys",
        "model_attributes_type": "a group of keys",
        "greater_than": f"greater than {bounds.get('gt')}",
        "greater_than_equal": f"at least {bounds.get('ge')}",
        "less_than": f"less than {bounds.get('lt')}",
        "less_than_equal": f"at most {bounds.get('le')}",
        "literal_error": f"{bounds.get('expected')}",
        "union_tag_invalid": f"an entry whose {tag} is one of {bounds.get('expected_tags')}",
        "union_tag_not_found": f"an entry that says its {tag}, such as {tag}: {'lora' if tag == 'method' else 'folder'}",
        "too_short": f"a list of at least {bounds.get('min_length')}",
        "too_long": f"a list of at most {bounds.get('max_length')}",
        "string_pattern_mismatch": f"text that matches {bounds.get('pattern')}",
    }
    return rules.get(complaint["type"], str(complaint["msg"]).removeprefix("Input should be "))


def is_text(annotation: Any) -> bool:
    """Whether a key holds plain text, so that an override of it is taken as typed."""
    if get_origin(annotation) is Annotated:
        return is_text(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return all(isinstance(choice, str) for choice in get_args(annotation))
    return annotation is str
