"""Numbers that JSON cannot hold, as null, and back."""

import math
from collections.abc import Mapping
from typing import Any, cast


def with_nulls(value: Any) -> Any:
    """The same nested value, with null for what is not finite."""
    if isinstance(value, Mapping):
        return {key: with_nulls(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [with_nulls(item) for item in cast("list[Any]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nans(data: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """The same mapping, with nan for null at these keys."""
    return {**data, **{key: math.nan for key in keys if data[key] is None}}
