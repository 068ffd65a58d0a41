"""What llama.cpp says while it works: kept here, not written over the user's terminal. It has one log for the whole process."""

import functools
import re
from collections import deque
from typing import Any

_KEPT = 2000  # pieces; a load says some hundreds
_ERROR, _GOES_ON = 4, 5  # ggml.h: enum ggml_log_level
_FELL_BACK = re.compile(r"(\d+) of (\d+) tensor\(s\) required fallback quantization")


class Said:
    """The latest lines of the log, from when `listen` was called."""

    def __init__(self, llama_cpp: Any) -> None:
        self._pieces: deque[tuple[int, str]] = deque(maxlen=_KEPT)
        self._callback = llama_cpp.llama_log_callback(self._keep)  # llama.cpp calls it as long as the process lives
        llama_cpp.llama_log_set(self._callback, None)

    def _keep(self, level: int, text: bytes, _user_data: object) -> None:
        self._pieces.append((level, text.decode("utf-8", "replace")))

    def forget(self) -> None:
        """Begin anew."""
        self._pieces.clear()

    def lines(self) -> list[tuple[int, str]]:
        """The lines with their levels; a piece that goes on from the one before has that one's level."""
        groups: list[tuple[int, str]] = []
        for level, text in self._pieces:
            if groups and level in (_GOES_ON, groups[-1][0]):
                groups[-1] = (groups[-1][0], groups[-1][1] + text)
            else:
                groups.append((level, text))
        return [(level, line.strip()) for level, text in groups for line in text.splitlines() if line.strip()]

    def last_error(self) -> str | None:
        """Why it failed: the first line that speaks of an error, which those after it pass on; else the last of that level."""
        errors = [line for level, line in self.lines() if level == _ERROR]
        return next((line for line in errors if "error" in line.lower()), errors[-1] if errors else None)

    def fallbacks(self) -> tuple[int, int] | None:
        """How many tensors, of how many, quantising put into another type than was asked for."""
        found = _FELL_BACK.search("\n".join(line for _, line in self.lines()))
        return (int(found[1]), int(found[2])) if found else None


@functools.cache
def _said() -> Said:
    import llama_cpp  # pyright: ignore[reportMissingImports]

    return Said(llama_cpp)


def listen() -> Said:
    """Take over llama.cpp's log, which must be installed, and begin anew."""
    said = _said()
    said.forget()
    return said
