"""A prompt strategy: what is asked, step by step, on the way to one answer. Around any chat it is a chat again.

A strategy's `steps` is a generator: it yields what is to be asked next, all that can be asked at once, gets the answers, and
returns the final one. It asks nobody itself. So the steps of many conversations are taken together, each step in one batch, and
the same generator serves those who wait in a thread and those in asyncio.
"""

import hashlib
from abc import abstractmethod
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar, Unpack

from dunwu.chat.options import ChatOptions, OptionChanges, settled
from dunwu.chat.protocol import AsyncChat, Chat, Delta, Finish, Piece
from dunwu.core.errors import DataError, PartnerError, RecipeError
from dunwu.core.records import Completion, Message, TokenUsage
from dunwu.core.section import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A conversation to be answered, and how. `last`: what comes is the strategy's answer, as it is, and can be told while it is written."""

    messages: tuple[Message, ...]
    options: ChatOptions
    last: bool = False


Steps = Generator[Sequence[Ask], Sequence[Completion], Completion]
Result = TypeVar("Result")


class Strategy(Section):
    """The way to an answer, with its options. `title`: its name in the registry. Each has a file, and a line in `registry.py`."""

    title: ClassVar[str]

    @abstractmethod
    def steps(self, messages: Sequence[Message], options: ChatOptions) -> Steps:
        """The way to one answer; see above. Raises DataError for a conversation that it cannot take up."""
        ...


class StrategyChat(Chat):
    """A strategy around a chat. Usage and cost of an answer are those of all that was asked for it. The answer comes as it is written where
    the last step is the answer (`Ask.last`), else in one piece.

    It answers in words: tools, a schema, beams and logprobs are refused with RecipeError. When the chat fails midway its error is
    raised, and says how far the strategy had come.
    """

    def __init__(self, strategy: Strategy, chat: Chat) -> None:
        self.strategy, self.chat = strategy, chat

    def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> Iterator[Piece]:
        options = settled(options, changes)
        course = _Course(self.strategy, messages, options)
        return self._pieces(course)

    def reply_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        options: ChatOptions | None = None,
        **changes: Unpack[OptionChanges],
    ) -> list[Completion]:
        options = settled(options, changes)
        own = [
            options,
            *(replace(options, seed=derived_seed(options.seed, place)) for place in range(1, len(conversations))),
        ]
        return self.reply_each(conversations, own[: len(conversations)])  # one seed for all would draw alike for all

    def reply_each(
        self, conversations: Sequence[Sequence[Message]], options: Sequence[ChatOptions]
    ) -> list[Completion]:
        courses = [_Course(self.strategy, messages, one) for messages, one in zip(conversations, options, strict=True)]
        while asks := [ask for course in courses for ask in course.asks]:
            try:
                told = self.chat.reply_each([ask.messages for ask in asks], [ask.options for ask in asks])
            except PartnerError as error:
                raise _midway(self.strategy, sum(course.answers for course in courses), error) from error
            for course in courses:
                wanted = len(course.asks)
                if wanted:
                    course.tell(told[:wanted])
                    told = told[wanted:]
        return [course.done for course in courses]

    def forgotten(self, messages: Sequence[Message], *, max_tokens: int = 256) -> int:
        """How many messages of the longest of the first questions do not fit the chat's context; 0 where it does not say."""
        inner = getattr(self.chat, "forgotten", None)
        asks = _Course(self.strategy, messages, ChatOptions(max_tokens=max_tokens)).asks
        if inner is None:
            return 0
        return max((inner(ask.messages, max_tokens=ask.options.max_tokens or max_tokens) for ask in asks), default=0)

    def _pieces(self, course: "_Course") -> Iterator[Piece]:
        while course.asks:
            if course.is_last:
                yield from self._as_written(course)
                return
            try:
                told = self.chat.reply_each([ask.messages for ask in course.asks], [ask.options for ask in course.asks])
            except PartnerError as error:
                raise _midway(self.strategy, course.answers, error) from error
            course.tell(told)
        yield from _told(course.done)

    def _as_written(self, course: "_Course") -> Iterator[Piece]:
        (one,) = course.asks
        try:
            for piece in self.chat.pieces(one.messages, one.options):
                yield course.summed(piece)
        except PartnerError as error:
            raise _midway(self.strategy, course.answers, error) from error


class AsyncStrategyChat(AsyncChat):
    """`StrategyChat` for callers in asyncio."""

    def __init__(self, strategy: Strategy, chat: AsyncChat) -> None:
        self.strategy, self.chat = strategy, chat

    async def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> AsyncGenerator[Piece]:
        course = _Course(self.strategy, messages, settled(options, changes))
        while course.asks:
            if course.is_last:
                async with aclosing(self._as_written(course)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            try:
                told = await self.chat.reply_each(
                    [ask.messages for ask in course.asks], [ask.options for ask in course.asks]
                )
            except PartnerError as error:
                raise _midway(self.strategy, course.answers, error) from error
            course.tell(told)
        for piece in _told(course.done):
            yield piece

    async def _as_written(self, course: "_Course") -> AsyncGenerator[Piece]:
        (one,) = course.asks
        try:
            async with aclosing(self.chat.pieces(one.messages, one.options)) as pieces:
                async for piece in pieces:
                    yield course.summed(piece)
        except PartnerError as error:
            raise _midway(self.strategy, course.answers, error) from error


class _Course:
    """One conversation on its way. `asks`: what is to be asked now; none once it is done."""

    def __init__(self, strategy: Strategy, messages: Sequence[Message], options: ChatOptions) -> None:
        _require_words(strategy.title, messages, options)
        self._steps = strategy.steps(tuple(messages), options)
        self._usage: TokenUsage | None = None
        self._cost: float | None = None
        self._done: Completion | None = None
        self.answers = 0
        self.asks: Sequence[Ask] = ()
        self._go(None)

    @property
    def done(self) -> Completion:
        assert self._done is not None, "there is still something to ask"
        return replace(self._done, usage=self._usage, cost=self._cost)

    @property
    def is_last(self) -> bool:
        """Whether what is asked now is the answer."""
        return len(self.asks) == 1 and self.asks[0].last

    def summed(self, piece: Piece) -> Piece:
        """A piece of the answer; its end has the usage and cost of all."""
        if not isinstance(piece, Finish):
            return piece
        cost = piece.cost if self._cost is None else self._cost + (piece.cost or 0.0)
        return replace(piece, usage=_usage(self._usage, piece.usage), cost=cost)

    def tell(self, told: Sequence[Completion]) -> None:
        """The answers to what was asked."""
        for one in told:
            self._usage = _usage(self._usage, one.usage)
            self._cost = one.cost if self._cost is None else self._cost + (one.cost or 0.0)
        self.answers += len(told)
        self._go(told)

    def _go(self, told: Sequence[Completion] | None) -> None:
        try:
            self.asks = next(self._steps) if told is None else self._steps.send(told)
            assert self.asks, "a step asks something"
        except StopIteration as end:
            self._done, self.asks = end.value, ()


def ask(
    messages: Sequence[Message], options: ChatOptions, *, last: bool = False
) -> Generator[Sequence[Ask], Sequence[Completion], Completion]:
    """A step that asks one thing: `answer = yield from ask(…)`. `last`: the answer is returned as it is."""
    (told,) = yield [Ask(messages=tuple(messages), options=options, last=last)]
    return told


def carried_out(steps: Generator[Sequence[Ask], Sequence[Completion], Result], chat: Chat) -> Result:
    """What the steps come to, with a chat that answers."""
    asks = next(steps)
    while True:
        told = chat.reply_each([one.messages for one in asks], [one.options for one in asks])
        try:
            asks = steps.send(told)
        except StopIteration as end:
            return end.value


def alongside(
    courses: Sequence[Steps],
) -> Generator[Sequence[Ask], Sequence[Completion], list[Completion]]:
    """Steps of several courses, taken together: what each comes to, in order."""
    done: dict[int, Completion] = {}
    asks: dict[int, Sequence[Ask]] = {}
    told: dict[int, Sequence[Completion]] = {}
    while len(done) < len(courses):
        for place, course in enumerate(courses):
            if place in done:
                continue
            try:
                asks[place] = course.send(told[place]) if place in told else next(course)
            except StopIteration as end:
                done[place] = end.value
                asks.pop(place, None)
        if asks:
            answers = iter((yield [replace(one, last=False) for own in asks.values() for one in own]))
            told = {place: [next(answers) for _ in own] for place, own in asks.items()}
    return [done[place] for place in range(len(courses))]


def thinking(options: ChatOptions, tokens: int) -> ChatOptions:
    """The options with room for `tokens` more, and without stops at the end of a line, which end a short answer."""
    most = None if options.max_tokens is None else options.max_tokens + tokens
    return replace(options, max_tokens=most, stop=tuple(text for text in options.stop if text.strip()))


def sampled(options: ChatOptions, temperature: float, *place: object) -> ChatOptions:
    """The options of one of several draws, with a seed of its own where there is one."""
    return replace(options, temperature=temperature, seed=derived_seed(options.seed, *place))


def derived_seed(seed: int | None, *place: object) -> int | None:
    """A seed for a place, decided by both: within 31 bits, as endpoints take them."""
    if seed is None:
        return None
    digest = hashlib.sha256("\x1f".join(map(str, (seed, *place))).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def question_of(messages: Sequence[Message]) -> str:
    """What was asked last."""
    return messages[-1].content


def asked_with(messages: Sequence[Message], words: str) -> tuple[Message, ...]:
    """The conversation with words after its last question, on a line of their own."""
    last = messages[-1]
    return (*messages[:-1], replace(last, content=f"{last.content}\n{words}"))


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


def _require_words(title: str, messages: Sequence[Message], options: ChatOptions) -> None:
    if not messages or messages[-1].role != "user":
        raise DataError(f"{title} answers a question; let the conversation end with a message of the user")
    given = {
        "tools": bool(options.tools) and options.tool_choice != "none",
        "a schema": options.schema is not None,
        "beams": options.beams is not None,
        "logprobs": options.logprobs is not None,
    }
    for name, there in given.items():
        if there:
            raise RecipeError(
                f"the strategy {title} answers in words, and takes no {name.removeprefix('a ')}; leave it out"
            )


def _midway(strategy: Strategy, answers: int, error: PartnerError) -> PartnerError:
    return PartnerError(
        f"{strategy.title} came as far as {answers} answers, then: {error}",
        transient=error.transient,
        retry_after_s=error.retry_after_s,
    )


def _told(done: Completion) -> Iterator[Piece]:
    if done.thinking:
        yield Delta(thinking=done.thinking)
    yield Delta(text=done.text, ids=done.ids)
    yield Finish(reason=done.finish_reason, usage=done.usage, cost=done.cost, model=done.model)


def _usage(one: TokenUsage | None, other: TokenUsage | None) -> TokenUsage | None:
    if one is None or other is None:
        return one or other
    return TokenUsage(
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        completion_tokens=one.completion_tokens + other.completion_tokens,
        cached_tokens=one.cached_tokens + other.cached_tokens,
    )
