"""Checkpoints: whole or not at all, and never believed without their checksums.

`step-00000123/` holds `model.safetensors`, `optimizer.safetensors` and `state.json` with the SHA-256 of both and of itself.
It is written under another name, flushed to disk and renamed, so a folder of that name is complete unless the disk is at fault.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dunwu.core.errors import CheckpointError, DataError
from dunwu.core.files import disk_errors, fsync_folder, read_json, sha256_file, write_json
from dunwu.core.progress import Progress
from dunwu.model.hub import read_tensors, write_tensors

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
DAMAGED = "damaged-"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose checksums were right when it was found. `values` is what the writer wanted to remember."""

    path: Path
    step: int
    values: dict[str, Any]

    def model_tensors(self) -> dict[str, Tensor]:
        """The weights, by name."""
        return read_tensors(self.path / MODEL)

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """The optimiser's state, by name."""
        return read_tensors(self.path / OPTIMIZER)


def write_checkpoint(
    root: Path, step: int, *, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], values: Mapping[str, Any]
) -> Path:
    """Write `root/step-…`; a folder of that name from before (a damaged one) gives way.

    Raises DiskError when the disk is full or may not be written; the checkpoints before are then untouched.
    """
    target = _path(root, step)
    temporary = root / f".{target.name}.tmp"
    try:
        with disk_errors(root):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            write_tensors(temporary / MODEL, model)
            write_tensors(temporary / OPTIMIZER, optimizer)
            files = {name: sha256_file(temporary / name) for name in (MODEL, OPTIMIZER)}
            body = {"format": FORMAT, "step": step, "files": files, "values": dict(values)}
            write_json(temporary / STATE, {**body, "sha256": _digest(body)})
            fsync_folder(temporary)
            if target.exists():
                shutil.rmtree(target)
            temporary.rename(target)
            fsync_folder(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def newest_intact(root: Path, progress: Progress, *, at_most: int | None = None) -> Checkpoint | None:
    """The newest checkpoint whose checksums are right (at or before step `at_most`); None where there is no checkpoint.

    Damaged ones are named to `progress` and set aside once a good one is found. Raises CheckpointError when all are damaged.
    """
    complaints: dict[Path, str] = {}
    for step, path in _steps(root):
        if at_most is not None and step > at_most:
            continue
        try:
            checkpoint = _verified(path, step)
        except CheckpointError as error:
            complaints[path] = str(error)
            continue
        for damaged, complaint in complaints.items():
            progress.note(f"{complaint}; going on from {path.name} instead")
            _set_aside(damaged)
        return checkpoint
    if complaints:
        raise CheckpointError(
            f"no checkpoint in {root} can be used: {'; '.join(complaints.values())}. "
            "Check the disk; to begin again from the first step, remove that folder"
        )
    return None


def prune(root: Path, *, keep: int, reach_steps: int) -> None:
    """Remove old checkpoints: keep the newest `keep`, and one that lies at least `reach_steps` before the newest.

    Those between, one every half of that, are kept to take its place in turn; so at most `keep` + 4 remain.
    """
    steps = _steps(root)
    newest = steps[0][0] if steps else 0
    anchor = max((step for step, _ in steps if step <= newest - reach_steps), default=0)
    spacing = max(1, reach_steps // 2)
    older = [step for step, _ in steps[1:]] + [-1]
    for number, ((step, path), before) in enumerate(zip(steps, older, strict=True)):
        in_waiting = step > anchor and step // spacing != before // spacing
        if number >= keep and step != anchor and not in_waiting:
            shutil.rmtree(path, ignore_errors=True)
    for path in root.glob(f"{DAMAGED}*"):
        shutil.rmtree(path, ignore_errors=True)


def remove_after(root: Path, step: int) -> None:
    """Remove the checkpoints of a future that is given up, the newest first."""
    with disk_errors(root):
        for number, path in _steps(root):
            if number > step:
                shutil.rmtree(path)


def remove_unfinished(root: Path) -> None:
    """Remove what a killed writer left. Only one process may write here; the build's lock sees to that."""
    for path in root.glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def _steps(root: Path) -> list[tuple[int, Path]]:
    """Steps and folders, the newest first."""
    return sorted(_named_steps(root), reverse=True)


def _named_steps(root: Path) -> Iterator[tuple[int, Path]]:
    for path in root.glob("step-*"):
        with suppress(ValueError):
            yield int(path.name.removeprefix("step-")), path


def _path(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"


def _verified(path: Path, step: int) -> Checkpoint:
    """Raises CheckpointError saying what is wrong."""
    try:
        body = read_json(path / STATE)
    except (DataError, OSError) as error:
        raise CheckpointError(f"{path.name} is damaged ({error})") from error
    if not isinstance(body, dict) or body.pop("sha256", None) != _digest(body) or body.get("step") != step:
        raise CheckpointError(f"{path.name} is damaged ({STATE} was altered)")
    if body["format"] != FORMAT:
        raise CheckpointError(f"{path.name} has format {body['format']}, this version of dunwu reads {FORMAT}")
    for name, sha256 in body["files"].items():
        if not (path / name).is_file():
            raise CheckpointError(f"{path.name} is damaged ({name} is missing)")
        if sha256_file(path / name) != sha256:
            raise CheckpointError(f"{path.name} is damaged ({name} was altered or cut short: its SHA-256 differs)")
    return Checkpoint(path=path, step=step, values=body["values"])


def _set_aside(path: Path) -> None:
    """Take a damaged checkpoint out of the count, until the next good one is written."""
    aside = path.with_name(DAMAGED + path.name)
    with disk_errors(path):
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
