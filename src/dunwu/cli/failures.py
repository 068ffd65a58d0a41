"""Errors that nobody expected: the trace goes to a file, a short message to the terminal."""

import contextlib
import datetime
import traceback
from collections.abc import Generator
from pathlib import Path

from cyclopts import CycloptsError

from dunwu import __version__
from dunwu.core.errors import DunwuError
from dunwu.core.files import DISK_ERRNOS, disk_errors
from dunwu.core.lineage import user_cache_folder
from dunwu.train.signals import Interrupted


class Crash(Exception):  # noqa: N818 (a fault of dunwu's own, not of its user)
    """An unexpected error whose trace was written down. The message is for the user."""


@contextlib.contextmanager
def crash_log(folder: Path | None = None) -> Generator[None]:
    """Turn an unexpected error into a `Crash`, its trace kept in `folder` or, failing that, in the user's cache folder."""
    try:
        yield
    except (DunwuError, CycloptsError, Interrupted, Crash, BrokenPipeError):
        raise
    except OSError as error:
        if error.errno in DISK_ERRNOS:
            with disk_errors(Path(error.filename or "the output")):
                raise
        raise Crash(_message(error, [folder] if folder else [])) from error
    except Exception as error:
        raise Crash(_message(error, [folder] if folder else [])) from error


def _message(error: Exception, folders: list[Path]) -> str:
    trace = f"dunwu {__version__}\n" + "".join(traceback.format_exception(error))
    for folder in [*folders, user_cache_folder() / "logs"]:
        file = folder / f"{datetime.datetime.now():%Y%m%d-%H%M%S}.log"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(trace, "utf-8")
            return (
                f"an error in dunwu itself: {type(error).__name__}: {error}\nits trace is in {file}; please report it"
            )
    return f"an error in dunwu itself; please report it\n{trace}"
