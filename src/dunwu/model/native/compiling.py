"""The C sources beside this file become libraries for this very processor, once, kept in the user's cache folder.

A library is found by what it was made of (sources, flags, processor) and named by the checksum of what it is, so that one
cut short or changed is made anew, and two processes that compile at the same time do no harm.
"""

import hashlib
import itertools
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from dunwu.core.errors import DunwuError, ModelError
from dunwu.core.files import atomic_write, sha256_file

SOURCES = Path(__file__).parent
FLAGS = ("-O3", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-pthread")
ALIKE = ("--param", "avoid-fma-max-bits=0")
"""GCC on x86: for some processors it otherwise fuses `a * b + c` in one copy of a loop and not in another, and a row read alone
would differ from the same row beside others. Other compilers don't know it."""
FOR_THIS_PROCESSOR = ("-march=native", "-mcpu=native", "")
"""What compilers call it: gcc and clang on x86, clang on ARM, none."""
TIMEOUT_S = 120


def library(source: str) -> Path:
    """The library of this source, compiled now if need be. Raises ModelError saying why there is none."""
    folder, key = cache_folder(), _key(source)
    for path in folder.glob(f"kernels-{key}-*.so"):
        if path.stem.rpartition("-")[2] == sha256_file(path)[:32]:
            return path
        path.unlink(missing_ok=True)
    content = _compiled(source)
    path = folder / f"kernels-{key}-{hashlib.sha256(content).hexdigest()[:32]}.so"
    try:
        with atomic_write(path) as file:
            file.write(content)
    except DunwuError as error:
        raise ModelError(f"the kernels can't be kept: {error}") from error
    return path


def cache_folder() -> Path:
    """A folder that only this user may read and write. Raises ModelError where there can't be one."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "dunwu" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        owner = folder.stat().st_uid
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{folder} can't be made ({error}); set XDG_CACHE_HOME to a folder of your own") from error
    if owner != os.getuid():
        raise ModelError(f"{folder} belongs to another user; set XDG_CACHE_HOME to a folder of your own")
    return folder


def _key(source: str) -> str:
    """What the library is made of, as a hash."""
    digest = hashlib.sha256()
    for path in (SOURCES / source, *sorted(SOURCES.glob("*.h"))):
        digest.update(path.read_bytes())
    digest.update(" ".join((*FLAGS, *ALIKE, os.environ.get("CC", "cc"), platform.machine(), _features())).encode())
    return digest.hexdigest()[:16]


def _features() -> str:
    """What this processor can do, as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return platform.processor()


def _compiled(source: str) -> bytes:
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise ModelError("there is no C compiler; install one (Debian: gcc, macOS: xcode-select --install)")
    said = ""
    for processor, alike in itertools.product(FOR_THIS_PROCESSOR, (ALIKE, ())):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "kernels.so"
            command = [
                compiler,
                *FLAGS,
                *([processor] if processor else []),
                *alike,
                str(SOURCES / source),
                "-o",
                str(out),
                "-lm",
            ]
            try:
                done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise ModelError(f"{compiler} did not compile the kernels: {error}") from error
            if done.returncode == 0 and out.exists():
                return out.read_bytes()
            said = said or done.stderr.strip()
    raise ModelError(f"{compiler} did not compile the kernels: {said[-500:]}")
