"""The running of a build: each stage that is not done, in order, its choices fixed before it starts."""

import contextlib
import dataclasses
import datetime
import signal
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from dunwu import __version__
from dunwu.build.graph import Outlook, Stage, Step, Work, lay_out
from dunwu.build.home import (
    INPUTS_FILE,
    PLAN_FILE,
    STAGE_FILE,
    Figures,
    Forecast,
    Home,
    StageRecord,
    describe_files,
    read_forecast,
    write_forecast,
    write_record,
)
from dunwu.build.lock import locked
from dunwu.build.meters import CLOCK_FILE, machine_facts, peak_memory, timed
from dunwu.build.plan import make_plan, plan_table
from dunwu.core.files import disk_errors, write_json, write_text
from dunwu.core.load import dump_recipe
from dunwu.core.progress import TerminalProgress
from dunwu.core.recipe import Recipe
from dunwu.core.units import format_bytes, format_count, format_duration
from dunwu.train.signals import Interrupted


def run_build(
    stages: Sequence[Stage], recipe: Recipe, home: Home, progress: TerminalProgress, *, began_s: float
) -> dict[str, StageRecord]:
    """Show the plan, then run every stage that is not done, in order; the records by name.

    `began_s`: `time.time()` when the process began; the budget counts from there.

    Raises what the stages raise, BuildError if another process builds this home, and Interrupted on Ctrl-C and SIGTERM.
    """
    home.make()
    with locked(home.lock_file), stoppable():
        planned = make_plan(stages, recipe, home, spent_s=time.time() - began_s)
        table = plan_table(planned, recipe, home)  # it also tells what the home was built from before
        write_text(home.recipe_file, dump_recipe(recipe))
        progress.show(table)
        return _run_stages(stages, recipe, home, progress, began_s)


def _run_stages(
    stages: Sequence[Stage], recipe: Recipe, home: Home, progress: TerminalProgress, began_s: float
) -> dict[str, StageRecord]:
    records: dict[str, StageRecord] = {}
    reused_s = 0.0
    for step in lay_out(stages, recipe, home):
        name = step.stage.name
        if step.record is not None:
            records[name] = step.record
            reused_s += step.record.actual.seconds or 0.0
            progress.note(f"{name:<10} done before, in {format_duration(step.record.actual.seconds or 0.0)}")
        else:
            facts = {name: record.facts for name, record in records.items()}
            outlook = Outlook(
                recipe=recipe,
                facts=facts,
                spent_s=reused_s + time.time() - began_s,
                predicted_s=sum(record.predicted.seconds or 0.0 for record in records.values()),
            )
            records[name] = run_step(step, outlook, home, progress)
        _write_build_file(home, recipe, records)
    return records


def run_step(step: Step, outlook: Outlook, home: Home, progress: TerminalProgress) -> StageRecord:
    """Fix the choices, run, and mark the stage as done."""
    stage = step.stage
    progress.start(stage.title)
    forecast = _fixed_forecast(step, outlook)
    progress.note(f"{stage.name:<10} {step.reason}; expected: {_in_short(forecast.predicted)}")
    work = Work(
        recipe=outlook.recipe,
        home=home,
        folder=step.folder,
        needs={name: home.stage_folder(name, value) for name, value in step.identity["needs"].items()},
        facts=outlook.facts,
        resolved=forecast.resolved,
        progress=progress,
    )
    started = _now()
    with timed(step.folder) as clock, peak_memory() as peak:
        outcome = stage.run(work)
    progress.finish()
    counted_s = (
        outcome.actual.seconds or 0.0
    )  # by training, in its checkpoints: a killed process tells the clock nothing
    actual = dataclasses.replace(
        outcome.actual,
        seconds=max(clock.total_s(), counted_s),
        peak_bytes=outcome.actual.peak_bytes or peak.bytes,
    )
    record = StageRecord(
        stage=stage.name,
        hash=step.hash,
        identity=step.identity,
        resolved=forecast.resolved,
        predicted=forecast.predicted,
        actual=actual,
        facts=outcome.facts,
        files=describe_files(step.folder, [*_output_files(step), *outcome.outside]),
        machine=machine_facts(),
        started=started,
        finished=_now(),
        dunwu=__version__,
    )
    write_record(step.folder, record)
    progress.note(f"{stage.name:<10} finished: {_in_short(actual)}")
    return record


def _fixed_forecast(step: Step, outlook: Outlook) -> Forecast:
    """The choices of this stage: those that an interrupted run fixed, else made now and fixed."""
    with disk_errors(step.folder):
        step.folder.mkdir(parents=True, exist_ok=True)
        (step.folder / STAGE_FILE).unlink(missing_ok=True)
    forecast = read_forecast(step.folder)
    if forecast is None:
        forecast = step.stage.forecast(outlook)
        write_json(step.folder / INPUTS_FILE, step.inputs)
        write_forecast(step.folder, forecast)
    return forecast


def _output_files(step: Step) -> list[Path]:
    """What counts as a stage's output: all but its bookkeeping, checkpoints and leftovers of interrupted writes."""
    own = {PLAN_FILE, STAGE_FILE, CLOCK_FILE}
    files = [file for file in sorted(step.folder.rglob("*")) if file.is_file() and file.name not in own]
    return [
        file
        for file in files
        if "checkpoints" not in file.relative_to(step.folder).parts and not file.name.endswith(".tmp")
    ]


def _write_build_file(home: Home, recipe: Recipe, records: Mapping[str, StageRecord]) -> None:
    """List the folders that the present build is made of."""
    stages = {name: home.folder_of(record).name for name, record in records.items()}
    seconds = sum(record.actual.seconds or 0.0 for record in records.values())
    write_json(
        home.build_file,
        {"name": recipe.name, "budget": recipe.budget, "seconds": seconds, "stages": stages, "dunwu": __version__},
    )


def _in_short(figures: Figures) -> str:
    parts = [format_duration(figures.seconds)] if figures.seconds is not None else []
    if figures.tokens is not None:
        parts.append(f"{format_count(figures.tokens)} tokens")
    if figures.peak_bytes:
        parts.append(f"{format_bytes(figures.peak_bytes)} of memory")
    return ", ".join(parts) or "no figures"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@contextlib.contextmanager
def stoppable() -> Generator[None]:
    """Ctrl-C and SIGTERM outside training end the build with a message; training handles them itself, and saves first."""
    remedy = "what is finished is kept; the same command goes on from there"

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Interrupted(f"stopped by SIGTERM; {remedy}", 128 + number)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"stopped by Ctrl-C; {remedy}", 128 + signal.SIGINT) from error
    finally:
        signal.signal(signal.SIGTERM, before)
