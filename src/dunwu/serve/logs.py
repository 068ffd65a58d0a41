"""One line of JSON for each request, and for what else happens. No prompt unless asked for, and never a key."""

import contextlib
import json
import logging
import queue
import re
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

from dunwu.serve.visit import Visit

MOST_WAITING_LINES = 10_000
_MOST_PROMPT_BYTES = 32_768
_MOST_PATH_CHARACTERS = 200
_MOST_MESSAGE_CHARACTERS = 1000
_FLUSH_S = 2.0
_BEFORE_VALUES = re.compile(r"[^\n(<]*")  # asyncio writes tasks, exceptions and arguments after these


class Log:
    """Writes lines from a thread of its own: a terminal or pipe that nobody reads must not stop the server. Lines beyond
    `MOST_WAITING_LINES` are dropped, and counted."""

    def __init__(self, out: TextIO | None = None, *, prompts: bool = False) -> None:
        self._out, self.prompts = out or sys.stderr, prompts
        self._lines: queue.Queue[str | None] = queue.Queue(MOST_WAITING_LINES)
        self.dropped = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def say(self, level: str, event: str, **facts: Any) -> None:
        """One line. Facts of None are left out."""
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {"time": stamp, "level": level, "event": event}
        line |= {name: fact for name, fact in facts.items() if fact is not None}
        if self.dropped:
            line["lines_dropped"] = self.dropped
        try:
            self._lines.put_nowait(json.dumps(line))
        except queue.Full:
            self.dropped += 1

    def take_over(self, logger: str) -> None:
        """Write what a library logs, warnings and worse, as lines of this kind; where it happened, but no prompt."""
        theirs = logging.getLogger(logger)
        theirs.handlers, theirs.propagate = [_Handler(self)], False
        theirs.setLevel(logging.WARNING)

    def begins(self, visit: Visit) -> None:
        """Nothing yet."""

    def ends(self, visit: Visit) -> None:
        """A request is over."""
        fault = visit.fault
        first_s = None if visit.first_token is None else round(visit.first_token - visit.began, 4)
        self.say(
            "error" if fault else "info",
            "request",
            id=visit.id,
            client=visit.client or None,
            key=visit.key or None,
            method=visit.method,
            path=visit.path[:_MOST_PATH_CHARACTERS],
            status=visit.status,
            seconds=round(visit.seconds, 4),
            model=visit.model,
            stream=visit.streams or None,
            prompt_tokens=visit.prompt_tokens or None,
            cached_tokens=visit.cached_tokens or None,
            completion_tokens=visit.completion_tokens or None,
            first_token_s=first_s,
            refused=visit.refusal,
            disconnected=visit.gone or None,
            fault=None if fault is None else self.shown(fault),
            body=self._body(visit),
        )

    def close(self) -> None:
        """Write what waits, for a moment at most."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=_FLUSH_S)
        self._thread.join(_FLUSH_S)

    def _body(self, visit: Visit) -> str | None:
        if not self.prompts or not visit.body:
            return None
        return visit.body[:_MOST_PROMPT_BYTES].decode("utf-8", "replace")

    def shown(self, fault: BaseException) -> str:
        """Where it happened. What it says may quote a prompt, so that comes only where prompts may be seen."""
        if self.prompts:
            return "".join(traceback.format_exception(fault))
        places = [
            f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(fault.__traceback__)
        ]
        return " < ".join([type(fault).__name__, *reversed(places[-12:])])

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            with contextlib.suppress(OSError, ValueError):  # closed: nobody reads
                self._out.write(line + "\n")
                self._out.flush()


class _Handler(logging.Handler):
    """Python's own logging, as lines of ours."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fault = record.exc_info[1] if record.exc_info else None
        message = record.getMessage().strip()
        if fault is not None and not self._log.prompts:
            message = _BEFORE_VALUES.match(message).group().strip()  # pyright: ignore[reportOptionalMemberAccess]
        self._log.say(
            record.levelname.lower(),
            record.name,
            message=message[:_MOST_MESSAGE_CHARACTERS],
            fault=None if fault is None else self._log.shown(fault),
        )
