"""What could not be read."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """A file or a row that could not be read: its name (`file` or `file:line`) and why."""

    source: str
    reason: str
