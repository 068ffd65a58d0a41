"""Connections that do not wait for ever: for a request that comes in drops, or a reader who stopped reading."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_TIMEOUT_S = 15.0
STALL_TIMEOUT_S = 30.0


class BoundedConnection(H11Protocol):
    """uvicorn's connection with two more limits.

    Headers must be whole within `header_timeout_s` of the connection, or of their first byte on one that is kept open; the
    same holds for the rest of a body that was answered early. A reader who leaves the buffer of the socket full for
    `stall_timeout_s` is cut off: the application sees that its caller is gone, and what it was writing ends.
    """

    header_timeout_s = HEADER_TIMEOUT_S
    stall_timeout_s = STALL_TIMEOUT_S
    _waiting: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting = _stop(self._waiting)
        self._stalled = _stop(self._stalled)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = _stop(self._stalled) or self.loop.call_later(self.stall_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._stalled = _stop(self._stalled)
        super().resume_writing()

    def _watch(self) -> None:
        """Start the clock where a request is on its way in and nobody works on one; stop it where somebody does."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering or self.transport.is_closing():
            self._waiting = _stop(self._waiting)
        elif self._waiting is None:
            self._waiting = self.loop.call_later(self.header_timeout_s, self._give_up)

    def _give_up(self) -> None:
        self._waiting = None
        self.transport.abort()


def bounded_connection(
    *, header_timeout_s: float = HEADER_TIMEOUT_S, stall_timeout_s: float = STALL_TIMEOUT_S
) -> type[BoundedConnection]:
    """The class for `uvicorn.Config(http=…)`."""
    facts: dict[str, Any] = {"header_timeout_s": header_timeout_s, "stall_timeout_s": stall_timeout_s}
    return type("BoundedConnection", (BoundedConnection,), facts)


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
