"""Killed for real, at any moment, and resumed: the same weights, bit for bit."""

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from dunwu.core.progress import RecordedProgress, SilentProgress
from dunwu.train.signals import Interrupted, StopSignal

from . import tiny

SETTINGS = {
    "steps": 200,
    "poison": [[100, 104], [700, 724]],  # one bad batch, and four in a row: a skip and a way back
    "checkpoint_every_s": 0.03,
}


# A server that has imported everything forks the processes: each is a real one, and starts in milliseconds.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["dunwu.corpus.shards", "dunwu.train.loop"])


def start(folder: Path, **more: Any) -> BaseProcess:
    process = SERVER.Process(target=tiny.process, args=(folder, {**SETTINGS, **more}))
    process.start()
    return process


def steps_saved(folder: Path) -> int:
    return max((int(p.name[5:]) for p in (folder / "checkpoints").glob("step-*")), default=-1)


def wait_until(process: BaseProcess, condition: Callable[[], Any]) -> None:
    deadline_s = time.monotonic() + 120
    while not condition():
        assert process.is_alive(), "it ended before it could be killed"
        assert time.monotonic() < deadline_s
        time.sleep(0.0005)


def kill_after_step(folder: Path, step: int, wait_s: float) -> None:
    process = start(folder)
    wait_until(process, lambda: steps_saved(folder) >= step)
    time.sleep(wait_s)
    process.kill()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def kill_in_the_middle_of_a_write(folder: Path) -> None:
    process = start(folder, stall=2)
    wait_until(process, lambda: list((folder / "checkpoints").glob(".step-*.tmp/optimizer.safetensors")))
    process.kill()
    process.join(60)
    assert list((folder / "checkpoints").glob(".step-*.tmp/model.safetensors")), "the kill must hit the write"


def stop_gently(folder: Path, number: signal.Signals) -> str:
    before = steps_saved(folder)
    process = start(folder)
    wait_until(process, lambda: steps_saved(folder) > before)
    assert process.pid
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 128 + number
    return (folder / "said.txt").read_text()


def finish(process: BaseProcess, folder: Path) -> dict[str, Any]:
    process.join(120)
    assert process.exitcode == 0
    return json.loads((folder / "result.json").read_text())


def test_kill_9_anywhere_and_signals_end_in_the_same_weights(memory_folder: Path) -> None:
    tiny.stream(memory_folder / "shards", SilentProgress(), 0)
    whole = start(memory_folder / "whole", checkpoint_every_s=3600)
    broken = memory_folder / "broken"
    moments = random.Random()
    steps = [moments.randrange(1, 40), moments.randrange(45, 80), moments.randrange(95, 120)]
    waits_s = [moments.random() * 0.05 for _ in steps]
    print("killed at", steps, waits_s)  # pytest shows it when the test fails
    kill_after_step(broken, steps[0], waits_s[0])
    kill_in_the_middle_of_a_write(broken)
    kill_after_step(broken, steps[1], waits_s[1])
    assert "stopped by SIGTERM; saved at step" in stop_gently(broken, signal.SIGTERM)
    kill_after_step(broken, steps[2], waits_s[2])
    assert "stopped by Ctrl-C; saved at step" in stop_gently(broken, signal.SIGINT)
    resumed, uninterrupted = finish(start(broken), broken), finish(whole, memory_folder / "whole")
    assert resumed["resumed_from"] > 0
    assert uninterrupted["resumed_from"] is None
    assert resumed["sha256"] == uninterrupted["sha256"]
    assert resumed["incidents"] == uninterrupted["incidents"]
    assert {i["kind"] for i in resumed["incidents"]} == {"skip", "rewind"}
    assert metrics(broken) == metrics(memory_folder / "whole")
    assert not list((broken / "checkpoints").glob(".step-*"))


def metrics(folder: Path) -> list[dict[str, Any]]:
    """All rows, without what depends on the clock and the machine; where incidents stand among the steps does not matter."""
    measured = {"tokens_per_s", "seconds", "peak_bytes"}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in row.items() if key not in measured} for row in rows]
    return sorted(kept, key=lambda row: (row["step"], "incident" in row, row.get("row", 0), row.get("incident", "")))


class StopAtStep(RecordedProgress):
    """Asks to stop as soon as the progress shows so many tokens."""

    def __init__(self, stop: StopSignal, tokens: int) -> None:
        super().__init__()
        self.stop, self.tokens = stop, tokens

    def update(self, done: float, total: float | None, **shown: str | float) -> None:
        if done >= self.tokens:
            self.stop.request()


def test_stopped_at_any_step_of_an_eventful_run_ends_in_the_same_weights(
    memory_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dunwu.train.loop.SHOW_EVERY_S", 0.0)
    eventful: dict[str, Any] = {"steps": 60, "poison": [(90, 91), (330, 352)]}
    tiny.run(memory_folder / "whole", progress=SilentProgress(), **eventful)
    for step in (1, 12, 41, 59):
        folder = memory_folder / str(step)
        stop = StopSignal()
        with pytest.raises(Interrupted):
            tiny.run(folder, progress=StopAtStep(stop, step * 8 * 32), stop=stop, **eventful)
        result = tiny.run(folder, progress=SilentProgress(), **eventful)
        assert result.resumed_from is not None
        assert tiny.weights(folder) == tiny.weights(memory_folder / "whole"), step
        assert metrics(folder) == metrics(memory_folder / "whole"), step


def test_how_often_checkpoints_are_written_changes_nothing(memory_folder: Path) -> None:
    eventful: dict[str, Any] = {"steps": 60, "poison": [(90, 91), (330, 352)]}
    for name, every_s in (("often", 1e-6), ("never", 3600.0)):
        result = tiny.run(memory_folder / name, progress=SilentProgress(), checkpoint_every_s=every_s, **eventful)
        assert [i["kind"] for i in result.incidents].count("rewind") == 1
    assert tiny.weights(memory_folder / "often") == tiny.weights(memory_folder / "never")
    assert metrics(memory_folder / "often") == metrics(memory_folder / "never")
