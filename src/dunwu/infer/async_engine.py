"""The engine in a thread of its own, for callers that wait in asyncio: a server, many conversations at once.

Whatever touches the engine runs in its thread, between two steps; events come back to the loop of whoever asked, those of one
step together.
"""

import asyncio
import contextlib
import queue
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import Tensor

from dunwu.core.errors import BusyError, ModelError
from dunwu.infer.engine import Engine, embedding_requests, embeddings
from dunwu.infer.events import Answer, Event, FinishEvent, answer
from dunwu.infer.sequence import Request
from dunwu.infer.texts import EngineStats
from dunwu.infer.turns import turn_on

T = TypeVar("T")
EMBEDDED_TOGETHER = 16
"""Texts of one call that wait or are read at a time: a long list leaves room for others."""


class EventStream:
    """The events of one request, in order, until its last completion is over. Left early, it cancels the request: by
    `aclose`, by the end of an `async with`, by the cancellation of the task that waits, or when it is thrown away."""

    _left = 0

    def __init__(self, owner: "AsyncEngine", request: Request) -> None:
        self.id = request.id
        self._owner = owner
        self.loop = asyncio.get_running_loop()
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
        self.leave()

    async def aclose(self) -> None:
        """Go away; the request is cancelled if it still runs."""
        self.leave()

    def forget(self) -> None:
        """Nothing more comes, and there is nothing to cancel."""
        self._left = 0

    def leave(self) -> None:
        """`aclose` without waiting: from any thread."""
        if self._left:
            self._left = 0
            self._owner.cancel(self.id)

    def put(self, events: list[Event]) -> None:
        """Called in the stream's loop."""
        for event in events:
            self._events.put_nowait(event)


class AsyncEngine:
    """Steps `engine` for as long as there is work. The engine belongs to the thread from now on: reach it through `call`.

    `max_waiting`: completions that may wait beside the `max_sequences` that are written at a time; None is no bound. What has
    no `await` here answers at once, from any thread: `full`, `open_texts`, `stats`, `cancel`.
    """

    def __init__(self, engine: Engine, *, max_waiting: int | None = None) -> None:
        self._engine = engine
        self._turn = turn_on(engine.model.head_weight.device)
        self.tokenizer, self.context_length = engine.tokenizer, engine.context_length
        self.max_texts = None if max_waiting is None else engine.max_sequences + max_waiting
        self._open_texts = 0
        self._stats = engine.stats()
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # Weak: a stream that its owner throws away cancels its request.
        self._streams: weakref.WeakValueDictionary[str, EventStream] = weakref.WeakValueDictionary()
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()
        self._draining = self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def open_texts(self) -> int:
        """Completions that are written or wait."""
        return self._open_texts

    @property
    def full(self) -> bool:
        """Whether so much waits that one more completion would be refused."""
        return self.max_texts is not None and self._open_texts >= self.max_texts

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken."""
        return self._draining

    @property
    def stats(self) -> EngineStats:
        """As they stood after the last step."""
        return self._stats

    async def submit(self, request: Request) -> EventStream:
        """Queue a request; its events are the result.

        Raises what `Engine.submit` raises; BusyError, at once, when too much waits already; ModelError while draining.
        """
        stream = EventStream(self, request)
        self._enter(request.params.n)

        def begin(engine: Engine) -> None:
            try:
                self._require_open()
                engine.submit(request)
            except BaseException:
                self._leave(request.params.n)
                raise
            self._sizes[request.id] = request.params.n
            self._streams[request.id] = stream

        try:
            await self.call(begin)
        except asyncio.CancelledError:
            stream.leave()
            raise
        except Exception:
            stream.forget()  # it never began, and another request may have this id
            raise
        return stream

    async def answer(self, request: Request) -> Answer:
        """The whole answer."""
        async with await self.submit(request) as stream:
            return answer(request.id, [event async for event in stream])

    async def embed(self, prompts: Iterable[Iterable[int]], adapter: str | None = None) -> Tensor:
        """As `Engine.embed`, beside whatever else is answered."""
        turns = asyncio.Semaphore(EMBEDDED_TOGETHER)

        async def one(request: Request) -> Answer:
            async with turns:
                return await self.answer(request)

        tasks = [asyncio.create_task(one(request)) for request in embedding_requests(prompts, adapter)]
        try:
            return embeddings(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    def cancel(self, request_id: str) -> None:
        """End a request soon; harmless when it is over."""

        def run() -> None:
            self._engine.cancel(request_id)

        self._calls.put(run)

    async def call(self, do: Callable[[Engine], T]) -> T:
        """`do(engine)` between two steps: new weights, tables of blocks."""
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

        with self._lock:
            if self._closed:
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

    def _require_open(self) -> None:
        if self._draining:
            raise ModelError("the engine is closing and takes no new requests; ask again once it runs anew")

    def _enter(self, texts: int) -> None:
        """Count completions that come in."""
        with self._lock:
            if self.max_texts is not None and self._open_texts + texts > self.max_texts:
                raise BusyError(
                    f"{self._open_texts} completions are written or wait, and at most {self.max_texts} may with the "
                    f"{texts} asked for; ask again in a while"
                )
            self._open_texts += texts

    def _leave(self, texts: int) -> None:
        with self._lock:
            self._open_texts -= texts

    def _run(self) -> None:
        while True:
            try:
                do = self._calls.get(block=not self._engine.busy)
            except queue.Empty:
                self._step()
                continue
            if do is None:
                break
            with self._turn:
                do()
            del do  # it may hold a stream that nobody else holds
            self._stats = self._engine.stats()
        self._end()

    def _end(self) -> None:
        with self._lock:
            self._closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                if (do := self._calls.get(block=False)) is not None:
                    with self._turn:
                        do()
        for request_id in list(self._sizes):
            self._engine.cancel(request_id)
        self._step()

    def _step(self) -> None:
        with self._turn:
            try:
                events = self._engine.step()
            except Exception as error:  # a mistake of ours: those who wait are told, and the thread lives on
                self._engine.fail_all(f"{type(error).__name__}: {error}")
                events = self._engine.step()
        self._stats = self._engine.stats()
        told: dict[str, list[Event]] = {}
        for event in events:
            told.setdefault(event.id, []).append(event)
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[EventStream, list[Event]]]] = {}
        for request_id, own in told.items():
            stream = self._streams.get(request_id)
            if stream is not None:
                by_loop.setdefault(stream.loop, []).append((stream, own))
            if not self._engine.answers(request_id):
                self._streams.pop(request_id, None)
                self._leave(self._sizes.pop(request_id, 0))
        for loop, parts in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(_hand_out, parts)


def _hand_out(parts: list[tuple[EventStream, list[Event]]]) -> None:
    for stream, events in parts:
        stream.put(events)
