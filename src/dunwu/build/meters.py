"""What a stage takes: wall time over all its runs, and the most memory, worker processes included."""

import contextlib
import os
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psutil
import torch

from dunwu.core.devices import available_cores, cpu_name, pick_device
from dunwu.core.files import read_json, write_json

CLOCK_FILE = "clock.json"
_SAMPLE_EVERY_S = 0.1


class Clock:
    """Seconds taken, those of earlier, interrupted runs included."""

    def __init__(self, earlier_s: float) -> None:
        self._earlier_s = earlier_s
        self._start_s = time.monotonic()

    def total_s(self) -> float:
        """Seconds so far."""
        return self._earlier_s + time.monotonic() - self._start_s


@contextlib.contextmanager
def timed(folder: Path) -> Generator[Clock]:
    """A clock that goes on, in `folder`, from where an interrupted run left it."""
    file = folder / CLOCK_FILE
    clock = Clock(read_json(file)["seconds"] if file.is_file() else 0.0)
    try:
        yield clock
    except BaseException:
        with contextlib.suppress(Exception):  # a full disk must not hide the error that ended the stage
            write_json(file, {"seconds": clock.total_s()})
        raise
    file.unlink(missing_ok=True)


def resident_bytes() -> int:
    """What this process holds now."""
    return psutil.Process().memory_info().rss


class Peak:
    """The most memory seen: resident bytes of this process and what its children hold for themselves."""

    def __init__(self) -> None:
        self.bytes = 0
        self._process = psutil.Process()
        self._done = threading.Event()

    def sample(self) -> None:
        """Look once."""
        total = self._process.memory_info().rss
        for child in self._process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                memory = child.memory_info()
                total += memory.rss - getattr(memory, "shared", 0)
        self.bytes = max(self.bytes, total)

    def watch(self) -> None:
        """Look every tenth of a second until `stop`."""
        while not self._done.wait(_SAMPLE_EVERY_S):
            self.sample()

    def stop(self) -> None:
        """End `watch`."""
        self._done.set()


@contextlib.contextmanager
def peak_memory() -> Generator[Peak]:
    """Watch memory from another thread while the block runs."""
    peak = Peak()
    peak.sample()
    thread = threading.Thread(target=peak.watch, name="memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        peak.sample()
        peak.stop()
        thread.join()


def machine_facts() -> dict[str, Any]:
    """The machine, for records: what a figure was measured on."""
    device = pick_device()
    return {
        "device": device.type,
        "name": torch.cuda.get_device_name() if device.type == "cuda" else cpu_name(),
        "cores": available_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "torch": torch.__version__,
        "system": " ".join(os.uname()[index] for index in (0, 4)),
    }
