"""`metrics.jsonl`: one row a step, and one for each incident. Writing is buffered and never waits for the disk."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from dunwu.core.errors import MissingExtraError
from dunwu.core.files import disk_errors

FLUSH_EVERY_S = 1.0


class MetricsLog:
    """Appends rows to `path`, and to TensorBoard's event files in `tensorboard` where that is given.

    Raises MissingExtraError when TensorBoard is wanted and not installed, DiskError when the disk is full.
    """

    def __init__(self, path: Path, *, tensorboard: Path | None = None) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._flushed_s = time.monotonic()
        self._board_folder = tensorboard
        self._board: Any = None

    def continue_from(self, size_bytes: int, step: int) -> None:
        """Forget the rows written after a checkpoint, made when the file had `size_bytes` and `step` steps were done."""
        with disk_errors(self.path):
            self._close_file()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            if self.path.stat().st_size >= size_bytes:
                os.truncate(self.path, size_bytes)
            else:
                self.path.write_bytes(b"".join(_rows_until(self.path, step)))
            self._file = self.path.open("ab", buffering=1 << 16)
        if self._board_folder is not None:
            self._close_board()
            self._board = _summary_writer(self._board_folder, first_step=step + 1)

    def row(self, values: Mapping[str, Any]) -> None:
        """Add a row; it reaches the file within about a second."""
        with disk_errors(self.path):
            self._open_file().write(json.dumps(values).encode() + b"\n")
            if time.monotonic() - self._flushed_s > FLUSH_EVERY_S:
                self._open_file().flush()
                self._flushed_s = time.monotonic()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float) and name != "step":
                    self._board.add_scalar(name, value, values["step"])

    def sync(self) -> int:
        """Bring all rows safely to disk; returns the size of the file in bytes."""
        with disk_errors(self.path):
            file = self._open_file()
            file.flush()
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_board()
        try:
            self._close_file()
        except OSError:
            if error is None:
                raise

    def _open_file(self) -> IO[bytes]:
        if self._file is None:
            self._file = self.path.open("ab", buffering=1 << 16)
        return self._file

    def _close_board(self) -> None:
        if self._board is not None:
            self._board.close()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _rows_until(path: Path, step: int) -> list[bytes]:
    """The whole rows of a damaged file that belong to the first `step` steps."""
    kept: list[bytes] = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if line.endswith(b"\n") and isinstance(row, dict) and row.get("step", step + 1) <= step:
            kept.append(line)
    return kept


def _summary_writer(folder: Path, *, first_step: int) -> Any:
    """A writer whose readers forget what earlier ones wrote from `first_step` on."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # an optional extra, and slow to import
    except ImportError as error:
        raise MissingExtraError("tensorboard", "tensorboard", "tensorboard=true") from error
    return SummaryWriter(str(folder), purge_step=first_step)
