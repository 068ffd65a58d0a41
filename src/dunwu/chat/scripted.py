"""A partner that says what it was told to say: for testing the rooms above in milliseconds."""

from collections.abc import Callable, Iterator, Sequence

from dunwu.core.errors import DataError
from dunwu.core.records import Completion, Message
from dunwu.tokenizer.template import validate_messages

Script = Sequence[str] | Callable[[Sequence[Message]], str]


class ScriptedChat:
    """Answers from a list, one after the other, or from a function of the conversation. `asked` keeps what it was asked.

    Its tokens are characters: an answer longer than `max_tokens` characters is cut, with finish reason "length".
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[tuple[Message, ...]] = []

    def reply(
        self, messages: Sequence[Message], *, max_tokens: int = 256, temperature: float = 0.0, seed: int | None = None
    ) -> Completion:
        validate_messages(messages)
        text = self._next(messages)
        self.asked.append(tuple(messages))
        cut = text[:max_tokens]
        return Completion(text=cut, ids=tuple(map(ord, cut)), finish_reason="stop" if cut == text else "length")

    def stream(
        self, messages: Sequence[Message], *, max_tokens: int = 256, temperature: float = 0.0, seed: int | None = None
    ) -> Iterator[str]:
        yield from self.reply(messages, max_tokens=max_tokens, temperature=temperature, seed=seed).text

    def reply_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[Completion]:
        return [
            self.reply(messages, max_tokens=max_tokens, temperature=temperature, seed=seed)
            for messages in conversations
        ]

    def _next(self, messages: Sequence[Message]) -> str:
        if callable(self.script):
            return self.script(messages)
        if len(self.asked) >= len(self.script):
            raise DataError(f"the script has {len(self.script)} answers and was asked once more; write another")
        return self.script[len(self.asked)]
