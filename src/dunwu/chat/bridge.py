"""A partner that waits in a thread, for callers in asyncio, and the other way round."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, Unpack

from dunwu.chat.options import ChatOptions, OptionChanges, settled
from dunwu.chat.protocol import AsyncChat, Chat, Piece
from dunwu.core.records import Completion, Message

T = TypeVar("T")
_OVER = object()


class Threaded(AsyncChat):
    """A `Chat` as an `AsyncChat`. It runs in threads of its own, at most `threads` answers at a time; 1 for a partner that
    may not be used by several threads."""

    def __init__(self, chat: Chat, *, threads: int = 1) -> None:
        self.chat = chat
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="chat")
        self._turns = asyncio.Semaphore(threads)

    async def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> AsyncGenerator[Piece]:
        options = settled(options, changes)
        async with self._turns:
            steps = await self._run(lambda: iter(self.chat.pieces(messages, options)))
            try:
                while (piece := await self._run(lambda: next(steps, _OVER))) is not _OVER:
                    yield piece  # pyright: ignore[reportReturnType]
            finally:
                if close := getattr(steps, "close", None):
                    await asyncio.shield(self._run(close))

    def close(self) -> None:
        """End the threads once they are idle."""
        self._pool.shutdown(wait=False)

    async def _run(self, do: Callable[[], T]) -> T:
        """`do` in a thread. When the waiting is cancelled, what runs still ends before anything else of this answer runs."""
        work = asyncio.get_running_loop().run_in_executor(self._pool, do)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await work
            raise


class Blocking(Chat):
    """An `AsyncChat` as a `Chat`, for callers in any number of threads. It runs in a loop of its own."""

    def __init__(self, chat: AsyncChat) -> None:
        self.chat = chat
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chat", daemon=True)
        self._thread.start()

    def pieces(
        self, messages: Sequence[Message], options: ChatOptions | None = None, **changes: Unpack[OptionChanges]
    ) -> Iterator[Piece]:
        options = settled(options, changes)
        steps = self.chat.pieces(messages, options)
        try:
            while (piece := self._wait(_next(steps))) is not _OVER:
                yield piece
        finally:
            self._wait(steps.aclose())

    def reply_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        options: ChatOptions | None = None,
        **changes: Unpack[OptionChanges],
    ) -> list[Completion]:
        return self._wait(self.chat.reply_batch(conversations, options, **changes))

    def reply_each(
        self, conversations: Sequence[Sequence[Message]], options: Sequence[ChatOptions]
    ) -> list[Completion]:
        return self._wait(self.chat.reply_each(conversations, options))

    def close(self) -> None:
        """End the loop; nothing can be asked afterwards."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C, while it still runs
            raise


async def _next(steps: AsyncGenerator[Piece]) -> Any:
    return await anext(steps, _OVER)
