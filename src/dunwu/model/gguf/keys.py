"""The keys of a GGUF header that belong to one architecture, checked for type."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dunwu.core.errors import ModelError


class Reader:
    """The keys of one architecture, checked for type."""

    def __init__(self, arch: str, metadata: Mapping[str, Any]) -> None:
        self._arch, self._metadata = arch, metadata

    def get(self, key: str) -> Any:
        return self._metadata.get(f"{self._arch}.{key}")

    def count(self, key: str, default: int | None = None) -> int:
        value = self.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
            shown = "a list" if isinstance(value, list) else repr(value)
            raise ModelError(f"the GGUF key {self._arch}.{key} is {shown}; it must be a whole number above 0")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ModelError(f"the GGUF key {self._arch}.{key} is {value!r}; it must be a finite number")
        return shortest(value)


def shortest(value: float) -> float:
    return float(str(np.float32(value)))
