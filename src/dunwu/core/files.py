"""Files written whole or not at all, and read with a checksum."""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

from dunwu.core.errors import DataError, DiskError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DISK_ERRNOS = _FULL | {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG}
"""What a user can mend: no space, or a place that cannot be written."""


@contextlib.contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """Turn a full, read-only, forbidden or impossible place at `path` into a `DiskError` that names it."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRNOS:
            raise
        remedy = (
            "free some space"
            if error.errno in _FULL
            else "choose a folder that you may write (out=FOLDER or --out FOLDER)"
        )
        raise DiskError(
            f"cannot write {path}: {os.strerror(error.errno or 0)}; {remedy}, then run the same command again"
        ) from error


@contextlib.contextmanager
def atomic_write(path: Path, mode: int = 0o644) -> Generator[IO[bytes]]:
    """A binary file that appears at `path` complete and flushed to disk when the block ends well, and otherwise not at all.

    `mode`: who may read it. Raises DiskError when the disk is full or may not be written; what was at `path` before is then untouched.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        except FileNotFoundError as error:  # /proc and its like: the folder is there, and no file can be made in it
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from error
        try:
            os.fchmod(handle, mode)
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. Names of files that are not UTF-8 come back as Python has them."""
    text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # a lone surrogate as JSON's own escape of it


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises DataError naming the file when it is missing or damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is not valid JSON ({error}); it may have been cut short: remove it and run again"
        ) from error


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; the file is streamed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
