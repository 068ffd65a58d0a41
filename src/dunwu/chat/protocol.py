"""What every partner in a conversation can do: our own engine, a scripted fake, and later any remote endpoint."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from dunwu.core.records import Completion, Message


@runtime_checkable
class Chat(Protocol):
    """Answers the last message of a conversation, which must be the user's. `seed` None: a different answer each time."""

    def reply(
        self, messages: Sequence[Message], *, max_tokens: int = 256, temperature: float = 0.0, seed: int | None = None
    ) -> Completion:
        """The whole answer."""
        ...

    def stream(
        self, messages: Sequence[Message], *, max_tokens: int = 256, temperature: float = 0.0, seed: int | None = None
    ) -> Iterator[str]:
        """The answer in pieces of text as they are made; joined they are the text of `reply`."""
        ...

    def reply_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[Completion]:
        """One answer for each conversation, in their order."""
        ...
