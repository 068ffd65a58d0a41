"""Every answer that was paid for, on disk before anything is made of it: a file that only grows, and that a kill can only cut short."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Generator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from dunwu.core.errors import DataError
from dunwu.core.files import disk_errors, fsync_folder
from dunwu.core.lineage import differences

_SUM_LENGTH = 12
_OPENING = b'{"head"'


class Record(Protocol):
    """A dataclass of plain values with a key of its own: `request`, the hash of what was asked, of whom, and how."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def request(self) -> str: ...


R = TypeVar("R", bound=Record)


class Journal(Generic[R]):
    """Records by request. Open it with `opened`."""

    def __init__(self, path: Path, handle: int, head: Mapping[str, Any], answers: dict[str, R], damaged: int) -> None:
        self.path, self.head, self.damaged = path, head, damaged
        self._handle, self._answers, self._lock = handle, answers, Lock()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, request: str) -> R | None:
        """The answer to a request, if it was given before."""
        return self._answers.get(request)

    def add(self, *answers: R) -> None:
        """Write answers down; they are on the disk when this returns. From any thread. Raises DiskError."""
        with self._lock:
            _append(self._handle, self.path, *(_plain(answer) for answer in answers))
            self._answers.update((answer.request, answer) for answer in answers)

    def settle(self, head: Mapping[str, Any]) -> None:
        """Begin anew, with the answers that are there: from now on this is the head."""
        with self._lock:
            _append(self._handle, self.path, {"head": dict(head)})
            self.head = head


@contextlib.contextmanager
def opened(path: Path, kind: type[R]) -> Generator[Journal[R]]:
    """The journal at `path` of records of a kind, made if there is none; `head` is then empty. Nobody else can have it open.

    A torn last line is cut off, and other damaged lines are passed over: what they held is asked again. Raises DataError for a file that
    is no journal, or is in use; DiskError where it cannot be written.
    """
    with disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent)) from error
        except FileNotFoundError as error:  # /proc and its like: there is a folder, and nothing can be made in it
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent)) from error
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"{path} is in use: another process writes it; wait for that, or give another --out"
            ) from error
        head, answers, damaged, whole_bytes = _read(path, kind)
        with disk_errors(path):
            os.ftruncate(handle, whole_bytes)
        fsync_folder(path.parent)
        yield Journal(path, handle, head, answers, damaged)
    finally:
        os.close(handle)


def head_of(path: Path) -> Mapping[str, Any]:
    """The head of the journal at `path`, without opening it for work; empty where there is none. Raises DataError as `opened`."""
    if not path.is_file():
        return {}
    return _read(path, None)[0]


def require_same(before: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    """Raise DataError naming what changed, where data were begun with other settings."""
    changed = differences(before, now)
    if changed:
        listed = ", ".join(f"{key}: {_shown(old)} → {_shown(new)}" for key, old, new in changed)
        raise DataError(
            f"{out} was begun with other settings ({listed}); give the same ones to go on, --anew to make it anew (answers that it has "
            "are used again where the question is the same), or another --out"
        )


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "…"


def _read(path: Path, kind: type[R] | None) -> tuple[Mapping[str, Any], dict[str, R], int, int]:
    """The head, the answers (none without a kind), how many lines are damaged, and where the last whole line ends."""
    head: Mapping[str, Any] = {}
    answers: dict[str, R] = {}
    damaged = whole_bytes = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            record = _record(line) if line.endswith(b"\n") else None
            if number == 0 and "head" not in (record or {}) and not _OPENING.startswith(line[: len(_OPENING)]):
                raise DataError(f"{path} is no journal of dunwu's; move it away, or give another --out")
            if not line.endswith(b"\n"):
                break  # torn: the process ended while it wrote
            whole_bytes += len(line)
            if record is None:
                damaged += 1
            elif "head" in record:
                head = record["head"]
            elif kind is not None and record.keys() == kind.__dataclass_fields__.keys():
                answer = kind(**record)
                answers[answer.request] = answer
            elif kind is not None:
                damaged += 1
    return head, answers, damaged, whole_bytes


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        told = record.pop("sum")
    except (ValueError, AttributeError, KeyError, RecursionError):
        return None
    return record if told == _sum(record) else None


def _plain(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def _append(handle: int, path: Path, *records: dict[str, Any]) -> None:
    line = b"".join(
        json.dumps({**record, "sum": _sum(record)}, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        for record in records
    )
    with disk_errors(path):
        start = os.fstat(handle).st_size
        try:
            while line:
                line = line[os.write(handle, line) :]
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, start)  # a full disk leaves no half a line for the next answer to follow
            raise


def _sum(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, ensure_ascii=True, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_SUM_LENGTH]
