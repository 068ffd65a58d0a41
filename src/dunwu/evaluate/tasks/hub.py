"""Data sets of the hub, as the Parquet files that it keeps of each: one folder a configuration and split.

`huggingface_hub` does the work and reads HF_ENDPOINT (a mirror), HF_HUB_OFFLINE, HF_HOME and HF_TOKEN. No code of a data set is
fetched, let alone run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dunwu.core.errors import DataError

if TYPE_CHECKING:
    from dunwu.evaluate.tasks.spec import Source

PARQUET = "refs/convert/parquet"


def hub_files(source: "Source", split: str, subjects: Sequence[str], *, task: str) -> list[tuple[str, Path]]:
    """The files of a split, subject by subject. Raises DataError where the hub cannot be reached or has no such split."""
    found: list[tuple[str, Path]] = []
    for subject in subjects:
        name, config = (text.replace("{subject}", subject) for text in (source.hub, source.config))
        found += [(subject, path) for path in _fetched(name, config, split, source.mirror, task)]
    return found


def _fetched(name: str, config: str, split: str, mirror: str, task: str) -> list[Path]:
    from huggingface_hub import constants, snapshot_download  # only where it is needed: it takes a third of a second

    where = mirror or constants.ENDPOINT
    pattern = f"{config}/{split}/*.parquet"
    try:
        folder = Path(
            snapshot_download(
                name, repo_type="dataset", revision=PARQUET, allow_patterns=[pattern], endpoint=mirror or None
            )
        )
    except (
        Exception
    ) as error:  # the library's own, its HTTP library's and the system's errors, of which versions differ
        raise DataError(
            f"{task}: the data set {name} could not be fetched from {where} ({type(error).__name__}: {_first_line(error)}); "
            "set HF_ENDPOINT to a mirror that you reach, or get its files by any other way and give data=FOLDER"
        ) from error
    files = sorted((folder / config / split).glob("*.parquet"))
    if not files:
        raise DataError(
            f"{task}: {name} on {where} has no configuration {config!r} with a split {split!r}; get its files by any other way "
            "and give data=FOLDER"
        )
    return files


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:160]
