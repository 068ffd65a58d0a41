"""What the benchmarks share: sides in processes of their own that take turns, memory counted from a base, figures as JSON."""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from dunwu.core import devices


def print_figure(name: str, values: Sequence[float], *, unit: str = "x", target: str, **facts: Any) -> None:
    """One JSON line: the median of `values`, how many there are, and the least and the greatest."""
    line = {"figure": name, "value": round(statistics.median(values), 4), "unit": unit, **facts, "target": target}
    spread = {"n": len(values), "min": round(min(values), 4), "max": round(max(values), 4)}
    machine = (
        f"{devices.cpu_name()}, {devices.available_cores()} threads, torch {torch.__version__}, {platform.system()}"
    )
    print(json.dumps(line | spread | {"device": machine}), flush=True)


def status_bytes(key: str) -> int:
    """A size from /proc/self/status, for example VmRSS (held now) or VmHWM (the most held)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def forget_peak() -> None:
    """Let VmHWM start again from what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


def serve_steps(make_step: Callable[[], Callable[[], None]], warmup: int) -> None:
    """The child's side: make a training step, then run as many as each line of standard input asks for.

    Answers each line with the seconds of each step and the peak bytes above what was held before `make_step`.
    """
    forget_peak()
    base = status_bytes("VmRSS")
    step = make_step()
    for _ in range(warmup):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"seconds": seconds, "extra_bytes": status_bytes("VmHWM") - base}), flush=True)


class Side:
    """The parent's side: one child process, idle between its turns."""

    def __init__(self, script: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        if self._line() != "ready":
            raise RuntimeError(f"{arguments} did not get ready")

    def run(self, steps: int) -> dict[str, Any]:
        """Run `steps` steps and return the child's answer."""
        print(steps, file=self.stdin, flush=True)
        return json.loads(self._line())

    def close(self) -> None:
        """Let the child end."""
        self.stdin.close()
        self.process.wait()

    def _line(self) -> str:
        line = self.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended early with {self.process.wait()}")
        return line.strip()
