"""Answers of `/v1/responses` that later questions may go on from. In memory alone, and only so many."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from dunwu.serve.errors import ApiError
from dunwu.serve.schemas import ChatMessage

MOST_KEPT = 1000
MOST_CHARACTERS = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An answer and the conversation up to it. `owner`: the name of the key that asked; nobody else sees it."""

    owner: str
    turns: tuple[ChatMessage, ...]
    response: dict[str, Any]

    @property
    def characters(self) -> int:
        """About what it takes."""
        return sum(len(turn.said) + 200 for turn in self.turns)


class Memory:
    """The latest answers; those that were not used for longest go first."""

    def __init__(self, most: int = MOST_KEPT, most_characters: int = MOST_CHARACTERS) -> None:
        self._most, self._most_characters = most, most_characters
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._characters = 0

    def put(self, response_id: str, kept: Kept) -> None:
        """Remember it."""
        self._kept[response_id] = kept
        self._characters += kept.characters
        while self._kept and (len(self._kept) > self._most or self._characters > self._most_characters):
            self._characters -= self._kept.popitem(last=False)[1].characters

    def get(self, response_id: str, owner: str) -> Kept:
        """Raises ApiError 404 for what was forgotten, was never there, or is somebody else's."""
        kept = self._kept.get(response_id)
        if kept is None or kept.owner != owner:
            raise ApiError(
                404,
                f"there is no response {response_id[:128]!r}: this server keeps the last {self._most} in memory; "
                "send the whole conversation as input",
                param="previous_response_id",
                code="response_not_found",
            )
        self._kept.move_to_end(response_id)
        return kept

    def forget(self, response_id: str, owner: str) -> None:
        """Raises as `get` does."""
        self._characters -= self.get(response_id, owner).characters
        del self._kept[response_id]
