"""The engine in a thread of its own, for callers that wait in asyncio: a server, many conversations at once.

Whatever touches the engine runs in its thread, between two steps; events come back to the loop of whoever asked.
"""

import asyncio
import contextlib
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from dunwu.core.errors import ModelError
from dunwu.infer.engine import Engine
from dunwu.infer.events import Answer, Event, FinishEvent, answer
from dunwu.infer.sequence import Request

T = TypeVar("T")


class EventStream:
    """The events of one request, in order, until its last completion is over. Left early, it cancels the request: by
    `aclose`, by the end of an `async with`, by the cancellation of the task that waits, or when it is thrown away."""

    _left = 0

    def __init__(self, owner: "AsyncEngine", request: Request) -> None:
        self.id = request.id
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._left = request.params.n

    def __aiter__(self) -> "EventStream":
        return self

    async def __anext__(self) -> Event:
        if self._left == 0:
            raise StopAsyncIteration
        try:
            event = await self._events.get()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if isinstance(event, FinishEvent):
            self._left -= 1
        return event

    async def __aenter__(self) -> "EventStream":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._leave()

    async def aclose(self) -> None:
        """Go away; the request is cancelled if it still runs."""
        self._leave()

    def _leave(self) -> None:
        if self._left:
            self._left = 0
            self._owner.cancel(self.id)

    def put(self, events: list[Event]) -> None:
        """Called in the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self._put, events)

    def _put(self, events: list[Event]) -> None:
        for event in events:
            self._events.put_nowait(event)


class AsyncEngine:
    """Steps `engine` for as long as there is work. The engine belongs to the thread from now on: reach it through `call`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # Weak: a stream that its owner throws away cancels its request.
        self._streams: weakref.WeakValueDictionary[str, EventStream] = weakref.WeakValueDictionary()
        self._draining = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def submit(self, request: Request) -> EventStream:
        """Queue a request; its events are the result. Raises what `Engine.submit` raises, and ModelError while draining."""
        stream = EventStream(self, request)

        def begin(engine: Engine) -> None:
            if self._draining:
                raise ModelError("the engine is closing and takes no new requests; ask again once it runs anew")
            engine.submit(request)
            self._streams[request.id] = stream

        try:
            await self.call(begin)
        except asyncio.CancelledError:
            stream._leave()
            raise
        except Exception:
            stream._left = 0  # it never began, and another request may have this id
            raise
        return stream

    async def answer(self, request: Request) -> Answer:
        """The whole answer."""
        async with await self.submit(request) as stream:
            return answer(request.id, [event async for event in stream])

    def cancel(self, request_id: str) -> None:
        """End a request soon; from any thread, and harmless when it is over."""

        def run() -> None:
            self._engine.cancel(request_id)

        self._calls.put(run)

    async def call(self, do: Callable[[Engine], T]) -> T:
        """`do(engine)` between two steps: statistics, new weights."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()

        def settle(set_result: Callable[[Any], None], value: Any) -> None:
            if not result.done():
                set_result(value)

        def run() -> None:
            try:
                value = do(self._engine)
            except Exception as error:
                outcome: tuple[Callable[[Any], None], Any] = (result.set_exception, error)
            else:
                outcome = (result.set_result, value)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(settle, *outcome)

        if not self._thread.is_alive():
            raise ModelError("the engine is closed; make a new one")
        self._calls.put(run)
        return await result

    async def drain(self) -> None:
        """Take nothing new, and wait until all that was begun is over."""
        self._draining = True
        while await self.call(lambda engine: engine.busy):
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Cancel all that runs, and end the thread."""
        self._draining = True
        self._calls.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while True:
            try:
                do = self._calls.get(block=not self._engine.busy)
            except queue.Empty:
                self._step()
                continue
            if do is None:
                break
            do()
            del do  # it may hold a stream that nobody else holds
        for request_id in list(self._streams):
            self._engine.cancel(request_id)
        self._step()

    def _step(self) -> None:
        try:
            events = self._engine.step()
        except Exception as error:  # a mistake of ours: those who wait are told, and the thread lives on
            self._engine.fail_all(f"{type(error).__name__}: {error}")
            events = self._engine.step()
        told: dict[str, list[Event]] = {}
        for event in events:
            told.setdefault(event.id, []).append(event)
        for request_id, own in told.items():
            stream = self._streams.get(request_id)
            if stream is not None:
                stream.put(own)
            if not self._engine.answers(request_id):
                self._streams.pop(request_id, None)
