"""A partner that says what it was told to say: for testing the rooms above in milliseconds."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Unpack

from dunwu.chat.calls import CallDelta
from dunwu.chat.options import ChatOptions, OptionChanges, settled
from dunwu.chat.protocol import Chat, Delta, Finish, Piece
from dunwu.core.errors import DataError
from dunwu.core.records import Message, TokenLogprob, TokenUsage, ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer of a script: first words, then calls. `probability`: of each token, for whoever asks for logprobs.
    `latency_s`: before it begins. `fails_after`: so many characters before `error` is raised."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    probability: float = 1.0
    latency_s: float = 0.0
    error: Exception | None = None
    fails_after: int = 0


Line = str | Answer | Exception
Script = Sequence[Line] | Callable[[Sequence[Message]], Line]


class ScriptedChat(Chat):
    """Answers from a list, one after the other, or from a function of the conversation; an exception is raised.

    `asked` and `options` keep what it was asked, and how. Its tokens are characters: an answer longer than `max_tokens`
    characters is cut, with finish reason "length". `sleep` waits for an answer's latency.
    """

    def __init__(
        self, script: Script, *, name: str = "scripted", sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self.script, self.name, self.sleep = script, name, sleep
        self.asked: list[tuple[Message, ...]] = []
        self.options: list[ChatOptions] = []

    def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> Iterator[Piece]:
        options = settled(options, changes)
        if not messages:
            raise DataError("a conversation has no messages; give at least one from the user")
        answer = self._next(messages)
        self.asked.append(tuple(messages))
        self.options.append(options)
        return self._say(answer, messages, options)

    def _next(self, messages: Sequence[Message]) -> Answer:
        if callable(self.script):
            line = self.script(messages)
        elif len(self.asked) < len(self.script):
            line = self.script[len(self.asked)]
        else:
            raise DataError(f"the script has {len(self.script)} answers and was asked once more; write another")
        match line:
            case str():
                return Answer(text=line)
            case Exception():
                return Answer(error=line)
            case Answer():
                return line

    def _say(self, answer: Answer, messages: Sequence[Message], options: ChatOptions) -> Iterator[Piece]:
        if answer.latency_s:
            self.sleep(answer.latency_s)
        text = answer.text
        ends = [at for stop in options.stop if (at := text.find(stop)) >= 0]
        text = text[: min(ends, default=None)]
        cut = text[: options.max_tokens]
        for place, character in enumerate(cut):
            if answer.error is not None and place >= answer.fails_after:
                raise answer.error
            yield Delta(text=character, ids=(ord(character),), logprobs=_scored(character, answer, options))
        if answer.error is not None:
            raise answer.error
        calls = answer.calls if cut == text and options.tool_choice != "none" else ()
        for index, call in enumerate(calls):
            yield Delta(call=CallDelta(index=index, id=call.id, name=call.name))
            yield Delta(call=CallDelta(index=index, arguments=call.arguments))
        yield Finish(
            reason="length" if cut != text else "tool_calls" if calls else "stop",
            usage=TokenUsage(
                prompt_tokens=sum(len(message.content) for message in messages), completion_tokens=len(cut)
            ),
            model=self.name,
        )


def _scored(character: str, answer: Answer, options: ChatOptions) -> tuple[TokenLogprob, ...]:
    if options.logprobs is None:
        return ()
    logprob = math.log(answer.probability)
    return (TokenLogprob(text=character, logprob=logprob, top=((character, logprob),) if options.logprobs else ()),)
