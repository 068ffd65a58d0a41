"""What an estimate with an interval looks like, whoever made it."""

from typing import Protocol


class Spanned(Protocol):
    """A value between its limits."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
