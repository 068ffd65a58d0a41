"""Ctrl-C and SIGTERM: finish the step, save, leave. A second one leaves at once."""

import signal
import threading
from types import FrameType, TracebackType

_STOPPING = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):  # noqa: N818 (nothing went wrong: the work is saved)
    """The run was asked to stop and has saved its work. `exit_code`: 130 after Ctrl-C, 143 after SIGTERM, else 124."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StopSignal:
    """A context manager that turns the first SIGINT or SIGTERM into `requested`, for work that can save itself.

    The second one raises KeyboardInterrupt (SystemExit for SIGTERM) wherever the work stands, and a third ends the
    process without a word. Outside the main thread, where Python allows no handlers, only `request` sets it.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    @property
    def requested(self) -> bool:
        """Whether the work should save itself and stop."""
        return self.signal is not None

    def request(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask the work to stop, as the signal would."""
        self.signal = number

    def interrupted(self, saved: str) -> Interrupted:
        """The exception to leave with; `saved` says where the work stands."""
        number = self.signal or signal.SIGTERM
        cause = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        return Interrupted(f"stopped by {cause}; {saved}", 128 + number)

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _STOPPING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
            return
        signal.signal(number, signal.SIG_DFL)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)
