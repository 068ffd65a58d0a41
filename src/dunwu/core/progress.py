"""How long-running work tells a person where it stands."""

import sys
import time
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as RichProgress,
)

from dunwu.core.screen import harmless

LINE_EVERY_S = 10.0  # plain output: at most one line of progress in this time


class Progress(Protocol):
    """What a room needs to report: how far it is, a few figures, and the odd remark."""

    def update(self, done: float, total: float | None, **shown: str | float) -> None:
        """Say that `done` of `total` (any unit; None: unknown) is finished; `shown` are figures such as `loss=2.31`."""
        ...

    def note(self, text: str) -> None:
        """Say something worth keeping, on a line of its own."""
        ...


class SilentProgress:
    """Says nothing; for tests and for work inside work."""

    def update(self, done: float, total: float | None, **shown: str | float) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""


class RecordedProgress:
    """Remembers everything: the fake for tests."""

    def __init__(self) -> None:
        self.updates: list[tuple[float, float | None, dict[str, str | float]]] = []
        self.notes: list[str] = []

    def update(self, done: float, total: float | None, **shown: str | float) -> None:
        """Kept in `updates`."""
        self.updates.append((done, total, dict(shown)))

    def note(self, text: str) -> None:
        """Kept in `notes`."""
        self.notes.append(text)


class TerminalProgress:
    """One live bar on a terminal, and on anything else a plain line every ten seconds. A context manager.

    `title` names the work at hand; set it with `start`. Output goes to stderr, so that stdout stays for results.
    """

    def __init__(self, file: TextIO | None = None, *, line_every_s: float = LINE_EVERY_S) -> None:
        self._console = Console(file=file or sys.stderr, highlight=False, soft_wrap=True)
        self._live = self._console.is_terminal
        self._line_every_s = line_every_s
        self._last_line_s = time.monotonic()
        self._title = ""
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> "TerminalProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def start(self, title: str) -> None:
        """Begin a new piece of work; the bar of the one before disappears."""
        self.finish()
        self._title = title
        self._last_line_s = time.monotonic()
        if self._live:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task(title, total=None, figures="")
            self._bar.start()

    def finish(self) -> None:
        """End the present piece of work and take its bar away."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None

    def update(self, done: float, total: float | None, **shown: str | float) -> None:
        """Move the bar, or print a line if the last one is old enough."""
        figures = "  ".join(f"{key} {_figure(value)}" for key, value in shown.items())
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, figures=figures)
        elif not self._live and time.monotonic() - self._last_line_s >= self._line_every_s:
            self._last_line_s = time.monotonic()
            share = f"{100 * done / total:.0f}%" if total else "" if shown else f"{done:g}"
            self._console.print(f"{self._title}: {'  '.join(filter(None, (share, figures)))}", markup=False)

    def note(self, text: str) -> None:
        """Print `text` on a line of its own, above the bar."""
        self._console.print(harmless(text), markup=False)

    def show(self, renderable: RenderableType) -> None:
        """Print a table or another thing that rich can draw."""
        self._console.print(renderable)


def _figure(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
