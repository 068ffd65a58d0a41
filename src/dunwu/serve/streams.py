"""Requests under way in the engine: their events as one stream, cancelled when nobody listens."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from dunwu.infer.async_engine import EventStream
from dunwu.infer.events import Answer, Event, FinishEvent, TokenEvent, answer
from dunwu.infer.sequence import Request
from dunwu.serve.errors import ApiError
from dunwu.serve.models import ServedModel
from dunwu.serve.visit import Visit

DONE = "data: [DONE]\n\n"


class Asked:
    """One or more requests of one client. Iterating gives (which request, event); leaving early cancels them. The client's
    visit counts what is read and written."""

    def __init__(self, streams: Sequence[EventStream], visit: Visit) -> None:
        self._streams = list(streams)
        self._visit = visit

    @classmethod
    async def submit(cls, model: ServedModel, requests: Sequence[Request], visit: Visit) -> "Asked":
        """Queue all of them, or none. Raises ApiError."""
        wanted, most = sum(request.params.n for request in requests), model.engine.max_texts
        if most is not None and wanted > most:
            text = f"{wanted} completions at once are more than the {most} that this server has room for; send several requests"
            raise ApiError(400, text, param="n", code="invalid_value")
        streams: list[EventStream] = []
        try:
            for request in requests:
                streams.append(await model.submit(request))
        except BaseException:
            for stream in streams:
                await stream.aclose()
            raise
        visit.read(sum(len(request.prompt_ids) for request in requests), model=model.id)
        return cls(streams, visit)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        try:
            async for place, event in self._single() if len(self._streams) == 1 else self._merged():
                if isinstance(event, TokenEvent):
                    self._visit.wrote()
                elif isinstance(event, FinishEvent) and event.index == 0:
                    self._visit.read(0, cached_tokens=event.usage.cached_tokens)
                yield place, event
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

    async def _single(self) -> AsyncIterator[tuple[int, Event]]:
        async for event in self._streams[0]:
            yield 0, event

    async def _merged(self) -> AsyncIterator[tuple[int, Event]]:
        queue: asyncio.Queue[tuple[int, Event | None]] = asyncio.Queue()

        async def pump(place: int, stream: EventStream) -> None:
            try:
                async for event in stream:
                    queue.put_nowait((place, event))
            finally:
                queue.put_nowait((place, None))

        pumps = [asyncio.create_task(pump(place, stream)) for place, stream in enumerate(self._streams)]
        try:
            left = len(pumps)
            while left:
                place, event = await queue.get()
                if event is None:
                    left -= 1
                    await pumps[place]  # it is over; what went wrong in it is raised here
                else:
                    yield place, event
        finally:
            for task in pumps:
                task.cancel()


def require_finished(event: FinishEvent) -> None:
    """Raises ApiError for a completion that failed, or that the server cut off as it closes."""
    if event.unanswerable:
        raise ApiError(400, event.error or "this cannot be answered", code="invalid_value")
    if event.reason == "error":
        raise ApiError(500, event.error or "the model failed", code="model_failed")
    if event.reason == "cancelled":
        raise ApiError(503, "the server closed before the answer was whole; ask again", code="cancelled")


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
