"""Models that answer a question once: what was answered is in a journal under the hash of the request, and is never asked again.

So a run that was killed goes on where it stopped, whatever solver or prompt strategy asked, and two runs share what they both
ask. The request is the model's identity, what was asked, and how. What is drawn by a seed depends on its place among those asked
together, so their request is all of them; without a seed it is another answer each time, and is not kept.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Unpack

from dunwu.chat.calls import CallDelta
from dunwu.chat.options import ChatOptions, OptionChanges, settled
from dunwu.chat.protocol import Chat, Delta, Finish, Piece
from dunwu.chat.text_model import AroundText, Likelihood, TextModel
from dunwu.core.journal import Journal
from dunwu.core.lineage import stable_hash
from dunwu.core.records import Completion, Message, TokenLogprob, TokenUsage, ToolCall


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """An answer as plain values."""

    request: str
    answer: Mapping[str, Any]


class Memory:
    """A journal and the identity of who answers. `asked` and `known`: how many answers were new, and how many were there."""

    def __init__(self, journal: Journal[Remembered], identity: str) -> None:
        self.journal, self.identity = journal, identity
        self.asked = self.known = 0

    def key(self, *request: Any) -> str:
        """What a request is remembered by."""
        return stable_hash([self.identity, *request])

    def missing(self, keys: Sequence[str]) -> list[int]:
        """The places of what is not there; of equal ones the first."""
        first: dict[str, int] = {}
        for place, key in enumerate(keys):
            if self.journal.get(key) is None:
                first.setdefault(key, place)
        self.asked += len(first)
        self.known += len(keys) - len(first)
        return list(first.values())

    def add(self, keys: Sequence[str], answers: Sequence[Any]) -> None:
        """Write answers down, on the disk when this returns."""
        self.journal.add(
            *(Remembered(request=key, answer=_plain(answer)) for key, answer in zip(keys, answers, strict=True))
        )

    def all(self, keys: Sequence[str]) -> list[Mapping[str, Any]]:
        """The answers to all of these."""
        found = [self.journal.get(key) for key in keys]
        return [one.answer for one in found if one is not None]


class RememberingText(AroundText):
    """`TextModel` with a memory."""

    def __init__(self, model: TextModel, memory: Memory) -> None:
        super().__init__(model)
        self.memory = memory

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        keys = [self.memory.key("likelihood", *pair) for pair in pairs]
        places = self.memory.missing(keys)
        if places:
            answers = self.model.likelihoods([pairs[place] for place in places])
            self.memory.add([keys[place] for place in places], answers)
        return [Likelihood(**answer) for answer in self.memory.all(keys)]

    def complete(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[Completion]:
        how: dict[str, Any] = {"max_tokens": max_tokens, "stop": list(stop), "temperature": temperature}
        if temperature == 0.0:
            keys = [self.memory.key("completion", prompt, how) for prompt in prompts]
        elif seed is None:
            return self.model.complete(prompts, max_tokens=max_tokens, stop=stop, temperature=temperature)
        else:
            together = self.memory.key("completions", list(prompts), how, seed)
            keys = [f"{together}:{place}" for place in range(len(prompts))]
        places = self.memory.missing(keys)
        if places and temperature > 0:
            places = list(range(len(prompts)))
        if places:
            answers = self.model.complete(
                [prompts[place] for place in places],
                max_tokens=max_tokens,
                stop=stop,
                temperature=temperature,
                seed=seed,
            )
            self.memory.add([keys[place] for place in places], answers)
        return [_completion(answer) for answer in self.memory.all(keys)]


class RememberingChat(Chat):
    """`Chat` with a memory; put it beneath a strategy, so that each of the strategy's questions is remembered."""

    def __init__(self, chat: Chat, memory: Memory) -> None:
        self.chat, self.memory = chat, memory

    def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> Iterator[Piece]:
        completion = self.reply(messages, options, **changes)
        if completion.text or completion.thinking:
            yield Delta(text=completion.text, thinking=completion.thinking, logprobs=completion.logprobs)
        for index, call in enumerate(completion.tool_calls):
            yield Delta(call=CallDelta(index=index, id=call.id, name=call.name, arguments=call.arguments))
        yield Finish(
            reason=completion.finish_reason, usage=completion.usage, cost=completion.cost, model=completion.model
        )

    def reply(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> Completion:
        return self.reply_each([messages], [settled(options, changes)])[0]

    def reply_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        options: ChatOptions | None = None,
        **changes: Unpack[OptionChanges],
    ) -> list[Completion]:
        options = settled(options, changes)
        if options.temperature == 0.0 or options.seed is None or len(conversations) == 1:
            return self.reply_each(conversations, [options] * len(conversations))
        together = self.memory.key("replies", [_asked(one) for one in conversations], _how(options))
        keys = [f"{together}:{place}" for place in range(len(conversations))]
        if self.memory.missing(keys):
            self.memory.add(keys, self.chat.reply_batch(conversations, options))
        return [_completion(answer) for answer in self.memory.all(keys)]

    def reply_each(
        self, conversations: Sequence[Sequence[Message]], options: Sequence[ChatOptions]
    ) -> list[Completion]:
        if any(one.temperature > 0 and one.seed is None for one in options):
            return self.chat.reply_each(conversations, options)
        keys = [
            self.memory.key("reply", _asked(messages), _how(one))
            for messages, one in zip(conversations, options, strict=True)
        ]
        places = self.memory.missing(keys)
        if places:
            answers = self.chat.reply_each([conversations[p] for p in places], [options[p] for p in places])
            self.memory.add([keys[place] for place in places], answers)
        return [_completion(answer) for answer in self.memory.all(keys)]

    def forgotten(self, messages: Sequence[Message], *, max_tokens: int = 256) -> int:
        """As the chat within says; 0 where it does not say."""
        inner = getattr(self.chat, "forgotten", None)
        return 0 if inner is None else inner(messages, max_tokens=max_tokens)


def _asked(messages: Sequence[Message]) -> list[Any]:
    return [dataclasses.asdict(message) for message in messages]


def _how(options: ChatOptions) -> dict[str, Any]:
    """The options that an answer depends on."""
    how = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    del how["payer"]
    if options.temperature == 0.0:
        del how["seed"]  # the likeliest answer is drawn by nothing
    return how


def _plain(answer: Any) -> dict[str, Any]:
    plain = dataclasses.asdict(answer)
    plain.pop("ids", None)  # of no use without the tokenizer
    return plain


def _completion(answer: Mapping[str, Any]) -> Completion:
    usage = answer["usage"]
    return Completion(
        **{
            **answer,
            "ids": (),
            "tool_calls": tuple(ToolCall(**call) for call in answer["tool_calls"]),
            "logprobs": tuple(
                TokenLogprob(
                    text=one["text"], logprob=one["logprob"], top=tuple((text, value) for text, value in one["top"])
                )
                for one in answer["logprobs"]
            ),
            "usage": None if usage is None else TokenUsage(**usage),
        }
    )
