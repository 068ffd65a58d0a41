"""Pydantic's complaints about a request, in plain words and in OpenAI's form."""

from collections.abc import Mapping, Sequence
from typing import Any

from dunwu.core.nearest import data_path, rule_of, shown, value_at
from dunwu.serve.errors import ApiError

MOST_SHOWN = 5


def refusal(complaints: Sequence[Mapping[str, Any]], body: Any) -> ApiError:
    """The 400 for a request that does not have the form; names each field, its value and the rule."""
    rules: dict[str, list[Mapping[str, Any]]] = {}
    for complaint in complaints:
        place, missing = complaint["loc"][1:], complaint["type"] == "missing"
        path = data_path(place, body, missing=missing)
        if complaint["type"] == "unknown_field":
            path = (*path, complaint["ctx"]["field"])
        rules.setdefault(".".join(map(str, path)), []).append(complaint)
    inner = [key for key in rules if not any(other.startswith(f"{key}.") for other in rules if key)]
    lines = [_line(key, rules[key], body) for key in inner[:MOST_SHOWN]]
    if len(inner) > MOST_SHOWN:
        lines.append(f"and {len(inner) - MOST_SHOWN} more")
    kind = rules[inner[0]][0]["type"]
    code = {"missing": "missing_required_parameter", "unknown_field": "unknown_parameter"}.get(kind, "invalid_value")
    return ApiError(400, "; ".join(lines), param=inner[0] or None, code=code)


def _line(key: str, complaints: Sequence[Mapping[str, Any]], body: Any) -> str:
    first = complaints[0]
    match first["type"]:
        case "unknown_field":
            return f"unknown field {key}: {first['ctx']['remedy']}"
        case "extra_forbidden":
            return f"unknown field {key}: leave it out"
        case "missing":
            return f"{key} is missing; give it"
        case "text_only":
            return f"{key}: {first['msg']}"
        case "value_error":
            return f"{key}: {first['ctx']['error']}" if key else str(first["ctx"]["error"])
        case "none_required":
            return f"{key}={shown(value_at(key, body))} is not supported here; leave it out"
    rule = " or ".join(dict.fromkeys(rule_of(complaint) for complaint in complaints))
    if not key:
        return f"the body must be {rule}"
    return f"{key}={shown(value_at(key, body))}: must be {rule}"
