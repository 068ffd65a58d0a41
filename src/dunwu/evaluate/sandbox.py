"""Python that a model wrote, run in a process of its own with limits. The seam for stronger walls: `run_python` and `walls`.

Always: a fresh interpreter without our environment, in an empty temporary folder that is removed; limits on CPU seconds, memory,
file size and open files; an own session that is killed whole at the timeout. Where the system lets us make namespaces
(Linux, `unshare`): no network, no sight of other processes, and nothing that it started outlives it. With bubblewrap: the file
system is read-only but for that folder. Without bubblewrap it reads and writes what the user may: run it where that is harmless.
"""

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dunwu.evaluate import sandbox_launcher

OUTPUT_BYTES = 1 << 20
READ_ONLY = "a read-only file system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a run may use. `processes` counts all of the user's, as the system does; root it does not hold back."""

    timeout_s: float = 10.0
    memory_bytes: int = 512 << 20
    file_bytes: int = 16 << 20
    open_files: int = 64
    processes: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended. `status`: its exit status, below 0 the signal that ended it; None where it was killed at the timeout.
    `output`: what it printed, the first of it."""

    status: int | None
    output: str
    errors: str


def run_python(code: str, limits: Limits, *, given: str = "") -> Outcome:
    """Run a program to its end or the timeout, with what is `given` on its standard input. Nothing that it does is trusted."""
    with tempfile.TemporaryDirectory(prefix="dunwu-run-", ignore_cleanup_errors=True) as folder:
        program = Path(folder) / "program.py"
        program.write_text(code, "utf-8", "surrogatepass")
        entered = Path(folder) / "input.txt"
        entered.write_text(given, "utf-8", "surrogatepass")
        out, err = (Path(folder).with_name(f"{Path(folder).name}.{end}") for end in ("out", "err"))
        try:
            with entered.open("rb") as standard_in, out.open("wb") as output, err.open("wb") as errors:
                streams = standard_in.fileno(), output.fileno(), errors.fileno()
                status = _run(_command(program, limits), Path(folder), streams, limits.timeout_s)
            return Outcome(status=status, output=_head(out), errors=_head(err))
        finally:
            for file in (out, err):
                file.unlink(missing_ok=True)


@functools.cache
def walls() -> tuple[str, ...]:
    """What keeps a run apart on this machine, in plain words."""
    always = ("limits on time, memory, files and processes", "an empty folder")
    namespaces = ("no network", "no other processes") if _bubblewrap() or _namespaces() else ()
    return (*always, *namespaces, *((READ_ONLY,) if _bubblewrap() else ()))


def _run(command: list[str], folder: Path, streams: tuple[int, int, int], timeout_s: float) -> int | None:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=streams[0],
        stdout=streams[1],
        stderr=streams[2],
        start_new_session=True,
    )
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _command(program: Path, limits: Limits) -> list[str]:
    numbers = (limits.timeout_s, limits.memory_bytes, limits.file_bytes, limits.open_files, limits.processes)
    wall = "none" if _bubblewrap() or not _namespaces() else "namespaces"
    launch = [sys.executable, "-I", sandbox_launcher.__file__, str(program), wall, *map(str, numbers)]
    return [*_wrapped(program.parent), *launch] if _bubblewrap() else launch


def _wrapped(folder: Path) -> list[str]:
    """Bubblewrap's command line: all read-only, an own /tmp, only the folder to write in; nothing shared with the machine."""
    return [
        *(shutil.which("bwrap") or "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"),
        *("--ro-bind", sandbox_launcher.__file__, sandbox_launcher.__file__),
        *("--bind", str(folder), str(folder), "--chdir", str(folder)),
    ]


@functools.cache
def _bubblewrap() -> bool:
    """Whether bubblewrap is there and works: many machines forbid it."""
    return shutil.which("bwrap") is not None and _works([*_wrapped(Path("/usr")), sys.executable, "-I", "-c", ""])


@functools.cache
def _namespaces() -> bool:
    return sys.platform == "linux" and _works([sys.executable, "-I", sandbox_launcher.__file__, "--try"])


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _head(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(OUTPUT_BYTES).decode("utf-8", "replace")
