"""The weights as they were on the way, at log-spaced places: `snapshots/step-00000123/`, each a model's folder with
`snapshot.json`. When they are written follows from the tokens learned alone, so a run that was interrupted leaves the same ones."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dunwu.core.errors import DataError
from dunwu.core.files import disk_errors, fsync_folder, read_json, write_json
from dunwu.train.learned import Learned

FOLDER, FACTS = "snapshots", "snapshot.json"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Where a run stood: after `step` updates, `tokens` learned from, `row` the stream's next one."""

    step: int
    tokens: int
    row: int


def snapshot_tokens(count: int, *, first: int, total: int) -> tuple[int, ...]:
    """After how many tokens each of `count` snapshots is taken: from the first batch on in equal ratios, the end left out."""
    return tuple(round(first * (total / first) ** (at / count)) for at in range(count)) if count else ()


def is_due(places: Sequence[int], before: int, after: int) -> bool:
    """Whether one is taken when the tokens learned go from `before` to `after`."""
    return any(before < place <= after for place in places)


def write_snapshot(folder: Path, at: Snapshot, learned: Learned) -> None:
    """Write it, whole or not at all; one of that step from before gives way. Raises DiskError."""
    target = folder / FOLDER / f"step-{at.step:08d}"
    temporary = target.with_name(f".{target.name}.tmp")
    with disk_errors(target):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        learned.save(temporary)
        write_json(temporary / FACTS, asdict(at))
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        fsync_folder(target.parent)


def remove_unfinished_snapshots(folder: Path) -> None:
    """Remove what a killed writer left."""
    for path in (folder / FOLDER).glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def snapshots_in(folder: Path) -> list[tuple[Snapshot, Path]]:
    """Those of a run's folder, the earliest first. Raises DataError for one that cannot be read."""
    found: list[tuple[Snapshot, Path]] = []
    for path in (folder / FOLDER).glob("step-*"):
        try:
            found.append((Snapshot(**read_json(path / FACTS)), path))
        except TypeError as error:
            raise DataError(f"{path / FACTS} does not describe a snapshot ({error}); remove {path}") from error
    return sorted(found, key=lambda one: one[0].step)
