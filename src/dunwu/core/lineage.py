"""Hashes that name things by what they are made of, and a memory of file hashes so that big folders are read once."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from dunwu.core.errors import DataError, DiskError
from dunwu.core.files import read_json, sha256_file, write_json

HASH_LENGTH = 12


def stable_hash(value: Any) -> str:
    """The SHA-256 of `value` as canonical JSON: independent of key order and of the process."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class FileHashes:
    """SHA-256 of files, remembered in `memory` by path, size and time of change. Call `save` when done."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._known: dict[str, list[Any]] = recall(memory)
        self._changed = False

    def of(self, file: Path) -> str:
        """The hash of `file`, read again only if its size or time of change differ from last time."""
        stat = file.stat()
        key, stamp = str(file.absolute()), [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(key)
        if known is not None and known[:2] == stamp:
            return str(known[2])
        digest = sha256_file(file)
        self._known[key] = [*stamp, digest]
        self._changed = True
        return digest

    def save(self) -> None:
        """Write the memory down, if anything is new."""
        if self._changed:
            remember(self._memory, self._known)
            self._changed = False


def recall(memory: Path) -> dict[str, Any]:
    """What `remember` wrote; nothing where there is nothing, or it is damaged: a memory only saves time."""
    try:
        return read_json(memory)
    except (DataError, OSError):
        return {}


def remember(memory: Path, known: Mapping[str, Any]) -> None:
    """Write a memory down; where the cache folder cannot be written, forget it."""
    with contextlib.suppress(DiskError, OSError):
        write_json(memory, known)


def user_cache_folder() -> Path:
    """Where dunwu remembers facts about this machine: `$XDG_CACHE_HOME/dunwu` or `~/.cache/dunwu`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dunwu"


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries and lists as dotted keys: `{"a": [1, {"b": 2}]}` → `{"a.0": 1, "a.1.b": 2}`."""
    items: Iterable[tuple[Any, Any]]
    if isinstance(value, Mapping) and value:
        items = cast("Mapping[Any, Any]", value).items()
    elif isinstance(value, list | tuple) and value:
        items = enumerate(cast("Sequence[Any]", value))
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def differences(before: Any, after: Any) -> list[tuple[str, Any, Any]]:
    """What changed between two nested values: (dotted key, before, after), None where a side lacks the key."""
    old, new = flatten(before), flatten(after)
    keys = list(dict.fromkeys([*old, *new]))
    return [(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]
