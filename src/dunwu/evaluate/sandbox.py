"""Python that a model wrote, run behind walls. On Linux they need no helper and no root:

- **namespaces**: a root of its own with nothing in it but Python and the system's libraries, to be read, and an empty folder of
  64 MB in memory; no network, no /proc, no other process; all that it started ends with it.
- **Landlock**: no file but these, by another mechanism; no TCP, no abstract sockets, no signals to others, as the kernel's age allows.
- **seccomp**: no sockets, no tracing, no mounts, no namespaces, no keys, no memory that no limit counts.
- **limits** on time, memory, processes, files and output, watched from outside, and an environment that holds nothing of ours.

A run is refused where neither namespaces nor Landlock with seccomp can be had (macOS, old kernels, containers that forbid both),
unless weak walls are allowed: then only the limits hold, and it reads and writes what the user may.
"""

import contextlib
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dunwu.core.errors import RecipeError
from dunwu.evaluate import sandbox_launcher

OUTPUT_BYTES = 1 << 20
GRACE_S = 10.0
SEPARATE = "no network, no other processes, no files but Python's and an empty folder"
LIMITED = "limits on time, memory, processes, files and output"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a run may use. `memory_bytes`: of each process, and of all together what they do not share. `processes`: threads too."""

    timeout_s: float = 10.0
    memory_bytes: int = 512 << 20
    file_bytes: int = 16 << 20
    open_files: int = 64
    processes: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended. `status`: its exit status, below 0 the signal that ended it; None where it was killed for `why`.
    `output`: what it printed, the first of it."""

    status: int | None
    output: str
    errors: str
    why: Literal["time", "memory", "processes", "files"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Walls:
    """What there is on this machine. `landlock`: its version; 0 where there is none."""

    namespaces: bool
    seccomp: bool
    landlock: int

    @property
    def hold(self) -> bool:
        """Whether they keep a program from files, network and other processes."""
        return self.namespaces or (self.seccomp and self.landlock > 0)

    @property
    def names(self) -> list[str]:
        """As the launcher knows them."""
        return ["namespaces"] * self.namespaces + ["seccomp"] * self.seccomp

    def said(self) -> tuple[str, ...]:
        """In plain words."""
        layers = [*self.names, *([f"Landlock {self.landlock}"] if self.landlock else [])]
        return (LIMITED, f"{SEPARATE} ({', '.join(layers)})") if self.hold else (LIMITED,)


@functools.cache
def walls() -> Walls:
    """Each is tried once."""
    command = [sys.executable, "-I", sandbox_launcher.__file__, "--try"]
    try:
        found = json.loads(subprocess.run(command, capture_output=True, timeout=30, check=True).stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        found = {"walls": [], "landlock": 0}
    return Walls(
        namespaces="namespaces" in found["walls"], seccomp="seccomp" in found["walls"], landlock=found["landlock"]
    )


def require_walls(*, allow_weak: bool) -> Walls:
    """Raises RecipeError where code of a model could reach what is not its own, and that was not allowed."""
    found = walls()
    if not found.hold and not allow_weak:
        raise RecipeError(
            "this machine cannot keep a program that a model wrote from files and network: it lets us make neither namespaces nor "
            "Landlock with seccomp rules; use Linux 5.13 or later outside such a container, or allow it where nothing can be "
            "lost: allow_weak=true"
        )
    return found


def run_python(
    code: str, limits: Limits, *, given: str = "", allow_weak: bool = False, behind: Walls | None = None
) -> Outcome:
    """Run a program to its end or a limit, with what is `given` on its standard input. Nothing that it does is trusted.
    `behind`: fewer walls than there are. Raises RecipeError where there are too few, and `allow_weak` does not say so."""
    found = behind or require_walls(allow_weak=allow_weak)
    with _folder() as folder:
        (folder / "in").write_text(given, "utf-8", "surrogatepass")
        with (folder / "in").open("rb") as entered, (folder / "out").open("wb") as output:
            held = _Held(folder, code, limits, found, entered.fileno(), output.fileno())
        ended = held.wait()
        return _outcome(folder, ended, _head(folder / "out"))


def run_together(
    first: str, second: str, limits: Limits, *, allow_weak: bool = False, behind: Walls | None = None
) -> Outcome:
    """Run two programs, each behind walls of its own, that read what the other prints. The outcome is that of the first, without
    output; the second ends with it."""
    found = behind or require_walls(allow_weak=allow_weak)
    with _folder() as one, _folder() as other:
        pipes = (*os.pipe(), *os.pipe())
        try:
            second_held = _Held(other, second, limits, found, pipes[0], pipes[3])
            first_held = _Held(one, first, limits, found, pipes[2], pipes[1])
        finally:
            for pipe in pipes:
                os.close(pipe)
        try:
            ended = first_held.wait()
        finally:
            second_held.end()
        return _outcome(one, ended, "")


@contextlib.contextmanager
def _folder() -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="dunwu-run-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _outcome(folder: Path, ended: Mapping[str, Any], output: str) -> Outcome:
    if "failed" in ended:
        raise RecipeError(
            f"the walls around a program could not be built: {ended['failed']}; allow_weak=true runs it without them"
        )
    why = ended.get("why", "time")
    return Outcome(status=ended.get("status"), output=output, errors=_head(folder / "err"), why=why)


class _Held:
    """A program that runs behind walls, begun at once."""

    def __init__(self, folder: Path, code: str, limits: Limits, found: Walls, given: int, output: int) -> None:
        box = folder / "box"
        box.mkdir()
        (box / "program.py").write_text(code, "utf-8", "surrogatepass")
        self._timeout_s = limits.timeout_s + GRACE_S
        self._said, report = os.pipe()
        config = {**_config(box, limits, found), "report": report}
        with (folder / "err").open("wb") as errors:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", sandbox_launcher.__file__, json.dumps(config)],
                    cwd=box,
                    env={},
                    stdin=given,
                    stdout=output,
                    stderr=errors,
                    pass_fds=(report,),
                    start_new_session=True,
                )
            except BaseException:
                os.close(self._said)
                raise
            finally:
                os.close(report)

    def wait(self) -> Mapping[str, Any]:
        """How the launcher says that it ended; nothing where it had to be killed."""
        try:
            return json.loads(_line(self._said, self._timeout_s) or b"{}")
        finally:
            os.close(self._said)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def end(self) -> None:
        """Now, and all that it started."""
        self._process.terminate()  # the launcher ends all
        self._timeout_s = GRACE_S
        self.wait()


def _config(box: Path, limits: Limits, found: Walls) -> dict[str, Any]:
    return {
        "folder": str(box),
        "place": str(box),
        "walls": found.names,
        "landlock": found.landlock,
        "python": _python(),
        "executable": sys.executable,
        "timeout_s": limits.timeout_s,
        "memory_bytes": limits.memory_bytes,
        "file_bytes": limits.file_bytes,
        "open_files": limits.open_files,
        "processes": limits.processes,
    }


@functools.cache
def _python() -> Sequence[str]:
    """Where Python and its libraries lie, all that leads to them included."""
    found = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    at = Path(sys.executable)
    while at.is_symlink():
        found.append(str(at.parent.parent))
        at = at.parent / os.readlink(at)
    found += [str(at.resolve().parent.parent), *(str(Path(one).resolve()) for one in found)]
    wanted = [one for one in dict.fromkeys(found) if one not in ("/", "/usr")]
    return [one for one in wanted if not any(other != one and Path(one).is_relative_to(other) for other in wanted)]


def _line(pipe: int, timeout_s: float) -> bytes:
    """The first line that a pipe gives, "" at its end or the timeout."""
    until, found = time.monotonic() + timeout_s, b""
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    while b"\n" not in found:
        ready = waiting.poll(max(0.0, until - time.monotonic()) * 1000)
        part = os.read(pipe, 65536) if ready else b""
        if not part:
            break
        found += part
    return found.partition(b"\n")[0]


def _head(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(OUTPUT_BYTES).decode("utf-8", "replace")
