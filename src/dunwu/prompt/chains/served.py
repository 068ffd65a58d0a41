"""A chain as a model: whoever asks it sends messages, which become the chain's values, and gets its answer."""

import dataclasses
import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Unpack, cast

from dunwu.chat.options import ChatOptions, OptionChanges, settled
from dunwu.chat.protocol import AsyncChat, Chat, Delta, Finish, Piece
from dunwu.core.errors import DataError, PartnerError, PromptError
from dunwu.core.records import Completion, Message, TokenUsage
from dunwu.core.templates import nearest_name
from dunwu.prompt.chains.ask import Ask
from dunwu.prompt.chains.kinds import fits
from dunwu.prompt.chains.runner import Chats, checked, iterated, partners, run_all, waited
from dunwu.prompt.chains.running import Again, Result, Text
from dunwu.prompt.chains.step import Step
from dunwu.prompt.chains.trace import jsonable

GIVEN = ("question", "messages", "history", "system")
"""Values that any conversation gives: its last message, all as a list, all but the last as text, and the system prompt."""


class ChainChat(AsyncChat):
    """A chain that answers conversations. What it takes is of `GIVEN`, or else is told in the last message: as its whole text where
    one value is missing, as a JSON object with these names where several are. Options of the request hold for steps that say
    nothing else. An answer that is no text is JSON."""

    def __init__(self, chain: Step, chat: Chats, *, name: str = "") -> None:
        self.chain, self.chats, self.name = chain, partners(chat), name or chain.name
        self.missing = [one for one in chain.takes if one not in GIVEN and one not in chain.optional]

    async def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> AsyncGenerator[Piece]:
        options = self._options(settled(options, changes))
        values = self._values(messages)
        speaks, said = self.chain.speaks(""), False
        async with aclosing(self.chain.events_async(values, self.chats, options=options)) as events:
            async for event in events:
                if isinstance(event, Text) and event.path == speaks:
                    said = True
                    yield Delta(text=event.text)
                elif isinstance(event, Again) and said:
                    raise PartnerError(f"the answer broke off: {event.error}; ask again", transient=True)
                elif isinstance(event, Result):
                    for piece in self._end(event, said=said):
                        yield piece

    async def reply_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        options: ChatOptions | None = None,
        **changes: Unpack[OptionChanges],
    ) -> list[Completion]:
        """Step by step for all of them."""
        asked = self._options(settled(options, changes))
        items = [self._values(messages) for messages in conversations]
        found = await run_all(self.chain, items, self.chats, options=asked)
        if failed := next((one for one in found if one.error is not None), None):
            raise _as_told(failed)
        return [self._completion(one) for one in found]

    def _values(self, messages: Sequence[Message]) -> dict[str, Any]:
        try:
            return checked(self.chain, values_of(messages, self.chain.takes, self.missing))
        except PromptError as error:
            raise DataError(str(error)) from error

    def _options(self, options: ChatOptions) -> ChatOptions:
        if options.tools and options.tool_choice != "none":
            raise DataError(f"{self.name} is a chain, which calls no tools of others; leave them out")
        if options.schema is not None:
            raise DataError(f"{self.name} is a chain, whose answer follows no schema of others; leave it out")
        return dataclasses.replace(options, tools=(), logprobs=None)

    def _end(self, result: Result, *, said: bool) -> Iterator[Piece]:
        if result.error is not None:
            raise _as_told(result)
        done = self._completion(result)
        if not said:
            yield Delta(text=done.text)
        yield Finish(reason=done.finish_reason, usage=done.usage, cost=done.cost, model=self.name)

    def _completion(self, result: Result) -> Completion:
        answer, last = result.answer, result.completion
        text = answer if isinstance(answer, str) else json.dumps(jsonable(answer), ensure_ascii=False)
        trace = result.trace
        costs = [span.cost for span in trace.spans if span.cost is not None]
        whole = last is None or last.text == answer
        return Completion(
            text=text,
            ids=(),
            finish_reason=last.finish_reason
            if last is not None and whole and last.finish_reason != "tool_calls"
            else "stop",
            usage=TokenUsage(prompt_tokens=trace.prompt_tokens, completion_tokens=trace.completion_tokens),
            cost=sum(costs) if costs else None,
            model=self.name,
        )


class BlockingChainChat(Chat):
    """`ChainChat` for callers without asyncio: to evaluate a chain, or to put a strategy around it."""

    def __init__(self, chain: Step, chat: Chats, *, name: str = "") -> None:
        self.inner = ChainChat(chain, chat, name=name)
        self.name = self.inner.name

    def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> Iterator[Piece]:
        return iterated(self.inner.pieces(messages, options, **changes))

    def reply_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        options: ChatOptions | None = None,
        **changes: Unpack[OptionChanges],
    ) -> list[Completion]:
        """Step by step for all of them."""
        return waited(self.inner.reply_batch(conversations, options, **changes))


def values_of(messages: Sequence[Message], takes: Mapping[str, Any], missing: Sequence[str]) -> dict[str, Any]:
    """What a conversation gives a chain. Raises DataError where it does not give all."""
    if not messages:
        raise DataError("a conversation has no messages; give at least one from the user")
    system = "\n\n".join(one.content for one in messages if one.role in ("system", "developer"))
    turns = [one for one in messages if one.role not in ("system", "developer")] or [*messages]
    last = turns[-1].content
    given: dict[str, Any] = {
        "question": last,
        "messages": [{"role": one.role, "content": one.content} for one in messages],
        "history": "\n".join(f"{one.role}: {one.content}" for one in turns[:-1]),
        "system": system,
    }
    values = {name: given[name] for name in GIVEN if name in takes}
    if len(missing) == 1 and fits(str, takes[missing[0]]):
        return values | {missing[0]: last}
    return values | (_named(last, takes, missing) if missing else {})


def _named(text: str, takes: Mapping[str, Any], missing: Sequence[str]) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError(
            f"this chain takes {', '.join(missing)}: write them in the last message as a JSON object, "
            f"{{{', '.join(f'{json.dumps(one)}: …' for one in missing)}}}"
        )
    values = cast("dict[str, Any]", found)
    for name in missing:
        if name not in values:
            raise DataError(f"the last message gives no {name!r}; {nearest_name(name, values)}")
    for name in values:
        if name not in takes:
            raise DataError(
                f"the last message gives {name!r}, which this chain does not take; {nearest_name(name, takes)}"
            )
    return values


def _as_told(result: Result) -> Exception:
    """A chain that failed is the partner's fault, or that of what it was asked; never a fault of the server's."""
    error = result.error
    assert error is not None
    if isinstance(error, PromptError):
        return PartnerError(f"the chain failed: {error}", transient=False)
    return error


def models_of(step: Step) -> list[str]:
    """The partners that a chain names, beside the default."""
    own = [step.model] if isinstance(step, Ask) and step.model else []
    return list(dict.fromkeys([*own, *(name for one in step.inside for name in models_of(one))]))
