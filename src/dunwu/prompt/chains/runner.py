"""Running steps: one item or many, waiting or in asyncio, whole or as it is made."""

import asyncio
import datetime
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, Protocol, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from dunwu.chat.options import ChatOptions
from dunwu.core.errors import PromptError
from dunwu.core.nearest import shown
from dunwu.core.templates import nearest_name
from dunwu.prompt.chains.kinds import NAMED, name_of
from dunwu.prompt.chains.running import DEFAULT, AnyChat, Event, Result, Row, Run, Values, token_counter
from dunwu.prompt.chains.trace import Trace, jsonable

T = TypeVar("T")
Chats = AnyChat | Mapping[str, AnyChat] | None


class Walkable(Protocol):
    """What is needed of a step."""

    takes: Mapping[str, Any]
    optional: frozenset[str]
    gives: Mapping[str, Any]

    @property
    def name(self) -> str: ...

    @property
    def answer(self) -> str: ...

    async def walk(self, rows: Sequence[Row], run: Run, before: str) -> None: ...


def partners(chat: Chats) -> Mapping[str, AnyChat]:
    """By name; one alone is the default."""
    if chat is None:
        return {}
    return cast("Mapping[str, AnyChat]", chat) if isinstance(chat, Mapping) else {DEFAULT: chat}


async def run_all(
    step: Walkable,
    items: Sequence[Values],
    chat: Chats,
    *,
    options: ChatOptions | None = None,
    count: Callable[[str], int] | None = None,
    hear: Callable[[Event], Coroutine[Any, Any, None]] | None = None,
    **clock: Any,
) -> list[Result]:
    """A result for each item, with its error where it failed. Raises PromptError where an item is not what the step takes."""
    chats = partners(chat)
    if count is None and DEFAULT in chats:
        count = token_counter(chats[DEFAULT])
    rows = [Row(values=checked(step, item)) for item in items]
    given = [dict(row.values) for row in rows]
    began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    run = Run(chats, options=options, count=count, hear=hear, **clock)
    try:
        await step.walk(rows, run, "")
    finally:
        run.close()
    return [_result(step, row, item, began, run) for row, item in zip(rows, given, strict=True)]


async def events_of(step: Walkable, item: Values, chat: Chats, **how: Any) -> AsyncGenerator[Event]:
    """All that happens, as it happens, and last the Result. Left early, the run ends."""
    queue: asyncio.Queue[Event] = asyncio.Queue(maxsize=1)

    async def work() -> None:
        (result,) = await run_all(step, [item], chat, hear=queue.put, **how)
        await queue.put(result)

    task = asyncio.create_task(work())
    try:
        while True:
            waiting = asyncio.create_task(queue.get())
            await asyncio.wait((waiting, task), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done() and queue.empty():
                waiting.cancel()
                task.result()  # it raised, or this is reached never
            event = await waiting
            yield event
            if isinstance(event, Result):
                return
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def waited(work: Coroutine[Any, Any, T]) -> T:
    """Run in a loop of its own; in a thread of its own where this one has a loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def iterated(steps: AsyncGenerator[T]) -> Iterator[T]:
    """What an asynchronous generator yields, for callers without a loop."""
    with asyncio.Runner() as runner:

        async def following() -> tuple[T, ...]:
            async for one in steps:
                return (one,)
            return ()

        try:
            while found := runner.run(following()):
                yield found[0]
        finally:
            runner.run(_closed(steps))


async def _closed(steps: AsyncGenerator[Any]) -> None:
    async with aclosing(steps):
        pass


def checked(step: Walkable, item: Values) -> dict[str, Any]:
    """The item. Raises PromptError where it is not what the step takes."""
    required = [name for name in step.takes if name not in step.optional]
    for name in required:
        if name not in item:
            unused = [one for one in item if one not in step.takes]
            raise PromptError(f"{step.name} needs {name!r}, which is not given; {nearest_name(name, unused)}")
    for name, value in item.items():
        if name not in step.takes:
            raise PromptError(f"{step.name} takes no {name!r}; {nearest_name(name, step.takes)}")
        _require_kind(name, value, step.takes[name])
    return dict(item)


def _require_kind(name: str, value: Any, kind: Any) -> None:
    if kind is Any or kind not in NAMED.values():
        return
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        raise PromptError(f"{name} is {shown(value)}, and is wanted as {name_of(kind)}; give it so") from error


def _result(step: Walkable, row: Row, given: Values, began: str, run: Run) -> Result:
    error = row.error
    answers = {name: row.values.get(name) for name in step.gives}
    answer = None if error else row.values[step.answer] if len(answers) == 1 else answers
    trace = Trace(
        chain=step.name,
        began=began,
        seconds=run.clock() - run.began,
        input=jsonable(given),
        output={} if error else jsonable(answers),
        error=None if error is None else str(error),
        spans=row.spans,
    )
    return Result(values=row.values, answer=answer, trace=trace, error=error, completion=row.completion)
