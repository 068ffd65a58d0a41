"""Dotted overrides from the command line: `model.hidden_size=256`, `corpus.sources.0.path=books`."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from pydantic import BaseModel
from ruamel.yaml.error import YAMLError

from dunwu.core.errors import RecipeError
from dunwu.core.nearest import TAGS, is_text, known_keys, pattern, unknown_key
from dunwu.core.yaml import parse_yaml

_OVERRIDE = re.compile(r"[A-Za-z_][\w-]*(\.\w+)*=")


def looks_like_override(argument: str) -> bool:
    """Whether a command-line word has the form `dotted.key=value`."""
    return _OVERRIDE.match(argument) is not None


def parse_overrides(arguments: Iterable[str], model: type[BaseModel]) -> dict[str, Any]:
    """Dotted key → value, values read as YAML (text keys: as typed). Raises RecipeError on an unknown or repeated key."""
    overrides: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals:
            raise RecipeError(f"{argument!r} is not an override: write key=value, such as model.hidden_size=256")
        if key in overrides:
            raise RecipeError(f"{key} is given twice: {overrides[key]!r} and {text!r}; keep one")
        annotation = known_keys(model).get(pattern(key))
        if annotation is None:
            raise RecipeError(unknown_key(key, model))
        overrides[key] = text if is_text(annotation) else _read_value(key, text)
    return overrides


def _read_value(key: str, text: str) -> Any:
    try:
        return parse_yaml(text)
    except YAMLError as error:
        raise RecipeError(f"{key}={text}: the value is not valid YAML; quote it, or write lists as [a, b]") from error


def apply_overrides(data: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Set each key in nested `data`, in place; another kind or method begins afresh, for its options are its own.

    Raises RecipeError as `apply_override` does.
    """
    tags_first = sorted(overrides, key=lambda key: key.rsplit(".", 1)[-1] not in TAGS)
    for key in tags_first:
        apply_override(data, key, overrides[key])


def apply_override(data: dict[str, Any], key: str, value: Any) -> None:
    """Set `key` in nested `data`, in place; one past a list's end appends. Raises RecipeError for an index beyond."""
    at: Any = data
    *parents, last = key.split(".")
    for depth, part in enumerate(parents):
        if isinstance(at, dict):
            at = cast("dict[str, Any]", at).setdefault(part, [] if _is_index(key, depth + 1) else {})
        else:
            at = _item(at, part, key)
    if isinstance(at, dict):
        group = cast("dict[str, Any]", at)
        if last in TAGS and group.get(last, value) != value:
            group.clear()
        group[last] = value
    else:
        _item(at, last, key)
        at[int(last)] = value


def _is_index(key: str, depth: int) -> bool:
    return key.split(".")[depth].isdigit()


def _item(value: Any, part: str, key: str) -> Any:
    if not isinstance(value, list):
        raise RecipeError(
            f"{key}: there is nothing named {part} to set inside the value {value!r}; set what is above it"
        )
    items = cast("list[Any]", value)
    if not part.isdigit() or int(part) > len(items):
        raise RecipeError(f"{key}: there is no entry {part} to set; the list has {len(items)}, counted from 0")
    if int(part) == len(items):
        items.append({})
    return items[int(part)]
