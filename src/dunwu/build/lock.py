"""One build of a home at a time."""

import contextlib
import datetime
import fcntl
import json
import os
from collections.abc import Generator
from pathlib import Path

from dunwu.core.errors import BuildError
from dunwu.core.files import disk_errors


@contextlib.contextmanager
def locked(lock_file: Path) -> Generator[None]:
    """Hold the lock of a home. The kernel frees it when the process dies, so a lock left by a dead process is no lock.

    Raises BuildError naming the process that holds it and since when.
    """
    with disk_errors(lock_file):
        handle = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BuildError(_held(handle, lock_file)) from error
        with disk_errors(lock_file):
            os.ftruncate(handle, 0)
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            os.pwrite(handle, json.dumps({"pid": os.getpid(), "since": now}).encode(), 0)
        yield
    finally:
        os.close(handle)


def _held(handle: int, lock_file: Path) -> str:
    try:
        holder = json.loads(os.pread(handle, 1000, 0))
        who = f"process {holder['pid']} since {holder['since']}"
    except (ValueError, KeyError):
        who = "another process"
    return f"{lock_file.parent} is being built by {who}; wait for it, stop it, or build elsewhere with out=FOLDER"
