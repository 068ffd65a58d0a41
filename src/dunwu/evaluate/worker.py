"""A Python script in a process of its own that answers questions in JSON, one line each, and can be left when it hangs.

The script reads a line from standard input and writes one to the file descriptor that its first argument names; what it prints
goes to our standard error. It lives from the first question to `close`, or until its parent ends (it then reads the end of
its input).
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LAST_BREATH_S = 2.0  # for a process that has closed its pipe, to say why it ends


class WorkerEnded(Exception):  # noqa: N818  the caller says what it means
    """The process ended before it answered. `status`: its exit status; below 0, the signal that ended it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the process ended with status {status}")
        self.status = status


class Worker:
    """One process of `script`, started at the first question. Threads take turns."""

    def __init__(self, script: Path, *arguments: str) -> None:
        self.script, self.arguments = script, arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._lock = threading.Lock()

    def ask(self, question: Mapping[str, Any], *, timeout_s: float) -> Any:
        """What the script answers. Raises TimeoutError where it does not in time, and WorkerEnded where it ends instead; both
        leave no process behind, and the next question starts another."""
        line = json.dumps(question, ensure_ascii=True).encode() + b"\n"
        with self._lock:
            process = self._process or self._start()
            # A full pipe to a process that does not read must not hold us.
            threading.Thread(target=_write, args=(process, line), daemon=True).start()
            try:
                answer = self._answers.get(timeout=timeout_s)
            except queue.Empty:
                self._end()
                raise TimeoutError(f"no answer within {timeout_s:g} s") from None
            if not answer:
                raise WorkerEnded(self._end(LAST_BREATH_S))
            return json.loads(answer)

    def close(self) -> None:
        """End the process and whatever it started."""
        with self._lock:
            self._end()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        read, write = os.pipe()
        try:
            process = subprocess.Popen(
                # -P: what lies beside the script is not to be imported in place of Python's own modules.
                [sys.executable, "-P", str(self.script), str(write), *self.arguments],
                stdin=subprocess.PIPE,
                stdout=2,
                pass_fds=(write,),
                start_new_session=True,
            )
        finally:
            os.close(write)
        self._process, self._answers = process, queue.SimpleQueue()
        threading.Thread(target=_read, args=(read, self._answers), daemon=True).start()
        return process

    def _end(self, grace_s: float = 0.0) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started too, unless that left its session
        status = process.wait()
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        return status


def _write(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError, ValueError):  # it ended: the reader says so
        process.stdin.write(line)
        process.stdin.flush()


def _read(descriptor: int, answers: "queue.SimpleQueue[bytes]") -> None:
    with os.fdopen(descriptor, "rb") as pipe:
        for line in pipe:
            answers.put(line)
    answers.put(b"")
