"""Pydantic's complaints about a request, in plain words and in OpenAI's form."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from dunwu.core.nearest import Path, data_path, rule_of, shown
from dunwu.serve.errors import ApiError

MOST_SHOWN = 5
_MOST_NAME_CHARACTERS = 80


def refusal(complaints: Sequence[Mapping[str, Any]], body: Any) -> ApiError:
    """The 400 for a request that does not have the form; names each field, its value and the rule."""
    rules: dict[Path, list[Mapping[str, Any]]] = {}
    for complaint in complaints:
        place, missing = complaint["loc"][1:], complaint["type"] == "missing"
        path = data_path(place, body, missing=missing)
        if complaint["type"] == "unknown_field":
            path = (*path, complaint["ctx"]["field"])
        rules.setdefault(path, []).append(complaint)
    inner = [path for path in rules if not any(path and path == other[: len(path)] != other for other in rules)]
    lines = [_line(path, rules[path], body) for path in inner[:MOST_SHOWN]]
    if len(inner) > MOST_SHOWN:
        lines.append(f"and {len(inner) - MOST_SHOWN} more")
    kind = rules[inner[0]][0]["type"]
    code = {"missing": "missing_required_parameter", "unknown_field": "unknown_parameter"}.get(kind, "invalid_value")
    return ApiError(400, "; ".join(lines), param=_name(inner[0]) or None, code=code)


def _name(path: Path) -> str:
    return ".".join(str(part)[:_MOST_NAME_CHARACTERS] for part in path)


def _line(path: Path, complaints: Sequence[Mapping[str, Any]], body: Any) -> str:
    first, key = complaints[0], _name(path)
    match first["type"]:
        case "unknown_field":
            return f"unknown field {key}: {first['ctx']['remedy']}"
        case "extra_forbidden":
            return f"unknown field {key}: leave it out"
        case "missing":
            return f"{key} is missing; give it" if key else "the body is empty; send the request as JSON"
        case "text_only":
            return f"{key}: {first['msg']}"
        case "value_error":
            return f"{key}: {first['ctx']['error']}" if key else str(first["ctx"]["error"])
        case "none_required":
            return f"{key}={shown(_at(path, body))} is not supported here; leave it out"
    rule = " or ".join(dict.fromkeys(rule_of(complaint) for complaint in complaints))
    if not key:
        return f"the body must be {rule}"
    return f"{key}={shown(_at(path, body))}: must be {rule}"


def _at(path: Path, body: Any) -> Any:
    """What stands there; a name in it may hold dots."""
    return functools.reduce(lambda at, part: at[part], path, body)
