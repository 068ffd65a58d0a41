"""`dunwu lab grok`: a network memorises a table, and long after understands it."""

import contextlib
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from dunwu.build.lock import locked
from dunwu.cli.lab_shared import page_folder, tell
from dunwu.core.devices import prepare_cpu
from dunwu.core.files import disk_errors
from dunwu.core.progress import TerminalProgress
from dunwu.core.screen import harmless
from dunwu.lab.grok.drawing import plotted, series_of
from dunwu.lab.grok.measures import Measures, measure
from dunwu.lab.grok.plan import Plan, members_of
from dunwu.lab.grok.run import Look, Run
from dunwu.lab.grok.telling import Outcome, experiment_of, lines_of
from dunwu.train.signals import Interrupted, StopSignal


def grok(
    task: str,
    *,
    fractions: Sequence[float],
    decays: Sequence[float],
    seeds: int,
    control: bool,
    out: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Run every seed with every fraction and weight decay, measure, and tell."""
    members = members_of(range(seeds), fractions, decays, control=control)
    plan = Plan(task=task, members=members, **settings)
    page = page_folder(out)
    prepare_cpu()
    with _folder(page) as folder, _honest(kept=page is not None):
        outcome = carried_out(plan, folder)
        tell(experiment_of(outcome), lines_of(outcome), out=page, as_json=as_json)


def carried_out(plan: Plan, folder: Path) -> Outcome:
    """Run a plan in its folder to the end, and take the measures where there is one fraction. Raises what `Run` raises."""
    run = Run(plan, folder)
    with StopSignal() as stop, _screen(plan) as screen:
        curves = run.train(screen, watch=screen.watch, stop=stop)
    began = time.perf_counter()
    measures: list[Measures | None] = []
    if len({member.fraction for member in plan.members}) == 1:  # a sweep asks when, not why
        with TerminalProgress() as progress:
            progress.start("Measuring")
            measures = [measure(run, number, progress) for number in range(len(plan.members))]
    return Outcome(
        plan=plan,
        table=run.table,
        parameters=run.network.parameters_each,
        curves=curves,
        measures=measures,
        seconds=curves.seconds + time.perf_counter() - began,
    )


@contextlib.contextmanager
def _folder(out: Path | None) -> Generator[Path]:
    """Where the run keeps its checkpoints: within `out`, one run at a time, or for as long as it lasts."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="dunwu-grok-") as folder:
            yield Path(folder)
        return
    folder = out / "run"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        yield folder


@contextlib.contextmanager
def _honest(*, kept: bool) -> Generator[None]:
    """What a run that was stopped says of itself where its folder goes with it."""
    try:
        yield
    except Interrupted as stopped:
        if kept:
            raise
        raise Interrupted("stopped, and nothing was kept; with --out FOLDER a run goes on", stopped.exit_code) from None


class _Lines(TerminalProgress):
    """A line every ten seconds, for what is no terminal."""

    def watch(self, look: Look) -> None:
        """Looks are in the lines already."""


class _Plot:
    """The figure as it grows, with a line below that says how far the run is."""

    def __init__(self, plan: Plan, live: Live) -> None:
        self._plan, self._live = plan, live
        self._looks: list[Look] = []
        self._status = ""

    def update(self, done: float, total: float | None, **shown: str | float) -> None:
        """Change the line; the figure changes with each look."""
        figures = "  ".join(
            f"{name} {value if isinstance(value, str) else f'{value:.3g}'}" for name, value in shown.items()
        )
        self._status = f"step {done:,.0f} of at most {total or 0:,.0f}  {figures}"
        self._draw()

    def note(self, text: str) -> None:
        """A line above the figure."""
        self._live.console.print(harmless(text), markup=False)

    def watch(self, look: Look) -> None:
        """Draw a look."""
        self._looks.append(look)
        self._draw()

    def _draw(self) -> None:
        figure = plotted(series_of(self._plan, self._looks), self._plan.steps)
        self._live.update(Group(figure, Text(self._status)))


@contextlib.contextmanager
def _screen(plan: Plan) -> Generator[_Plot | _Lines]:
    """A live figure on a terminal, else lines."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            yield _Plot(plan, live)
        return
    lines = _Lines()
    with lines:
        lines.start("Grokking")
        yield lines
