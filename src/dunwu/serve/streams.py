"""Requests under way in the engine: their events as one stream, cancelled when nobody listens."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import Request as HttpRequest

from dunwu.infer.async_engine import EventStream
from dunwu.infer.events import Answer, Event, FinishEvent, answer
from dunwu.infer.sequence import Request
from dunwu.serve.errors import ApiError
from dunwu.serve.models import ServedModel

T = TypeVar("T")
DONE = "data: [DONE]\n\n"
LEFT_STATUS = 499  # nginx's, for the log: nobody reads it


class ClientLeft(Exception):  # noqa: N818 (nothing went wrong)
    """Whoever asked is gone."""


class Asked:
    """One or more requests of one client. Iterating gives (which request, event); leaving early cancels them."""

    def __init__(self, streams: Sequence[EventStream]) -> None:
        self._streams = list(streams)

    @classmethod
    async def submit(cls, model: ServedModel, requests: Sequence[Request]) -> "Asked":
        """Queue all of them, or none. Raises ApiError."""
        streams: list[EventStream] = []
        try:
            for request in requests:
                streams.append(await model.submit(request))
        except BaseException:
            for stream in streams:
                await stream.aclose()
            raise
        return cls(streams)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        try:
            if len(self._streams) == 1:
                async for event in self._streams[0]:
                    yield 0, event
            else:
                async for pair in self._merged():
                    yield pair
        finally:
            await self.aclose()

    async def answers(self) -> list[Answer]:
        """Each request's whole answer. Raises ApiError when one of them failed."""
        events: list[list[Event]] = [[] for _ in self._streams]
        async for place, event in self:
            if isinstance(event, FinishEvent):
                require_finished(event)
            events[place].append(event)
        return [answer(stream.id, own) for stream, own in zip(self._streams, events, strict=True)]

    async def aclose(self) -> None:
        """Cancel what still runs."""
        for stream in self._streams:
            await stream.aclose()

    async def _merged(self) -> AsyncIterator[tuple[int, Event]]:
        queue: asyncio.Queue[tuple[int, Event | None]] = asyncio.Queue()

        async def pump(place: int, stream: EventStream) -> None:
            async for event in stream:
                queue.put_nowait((place, event))
            queue.put_nowait((place, None))

        pumps = [asyncio.create_task(pump(place, stream)) for place, stream in enumerate(self._streams)]
        try:
            left = len(pumps)
            while left:
                place, event = await queue.get()
                if event is None:
                    left -= 1
                else:
                    yield place, event
        finally:
            for task in pumps:
                task.cancel()


def require_finished(event: FinishEvent) -> None:
    """Raises ApiError for a completion that failed, or that the server cut off as it closes."""
    if event.reason == "error":
        raise ApiError(500, event.error or "the model failed", code="model_failed")
    if event.reason == "cancelled":
        raise ApiError(503, "the server closed before the answer was whole; ask again", code="cancelled")


async def unless_left(http: HttpRequest, work: Awaitable[T]) -> T:
    """The result of `work`; when the client goes away first, `work` is cancelled and ClientLeft raised."""
    task = asyncio.ensure_future(work)
    watch = asyncio.create_task(_gone(http))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


async def _gone(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def sse(data: Mapping[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def with_errors(chunks: AsyncIterator[str]) -> AsyncIterator[str]:
    """What goes wrong once the answer has begun is told in the stream; then it ends as it would have."""
    try:
        async for chunk in chunks:
            yield chunk
    except ApiError as error:
        yield sse(error.body)
    yield DONE
