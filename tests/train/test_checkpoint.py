import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dunwu.core.errors import CheckpointError, DiskError
from dunwu.core.progress import RecordedProgress, SilentProgress
from dunwu.train import checkpoint
from dunwu.train.checkpoint import newest_intact, prune, remove_unfinished, write_checkpoint

from . import tiny


def write(root: Path, step: int) -> Path:
    model = {"w": torch.full((100,), float(step))}
    optimizer = {"m": torch.full((100,), -float(step)), "step": torch.tensor(float(step))}
    return write_checkpoint(root, step, model=model, optimizer=optimizer, values={"row": step * 8, "loss": 0.1 + step})


def steps(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 4
    path.write_bytes(bytes(content))


DAMAGE = [
    (damage, name)
    for damage in (truncate, flip_one_bit, Path.unlink)
    for name in ("model.safetensors", "optimizer.safetensors", "state.json")
]


def test_what_is_written_comes_back_exactly(tmp_path: Path) -> None:
    write(tmp_path, 3)
    found = newest_intact(tmp_path, SilentProgress())
    assert found is not None
    assert found.step == 3
    assert found.values == {"row": 24, "loss": 3.1}
    assert torch.equal(found.model_tensors()["w"], torch.full((100,), 3.0))
    assert found.optimizer_tensors()["step"].shape == ()


@pytest.mark.parametrize(("damage", "name"), DAMAGE)
def test_damage_is_said_and_the_one_before_is_used(tmp_path: Path, damage: object, name: str) -> None:
    write(tmp_path, 1)
    damage(write(tmp_path, 2) / name)  # type: ignore[operator]
    progress = RecordedProgress()
    found = newest_intact(tmp_path, progress)
    assert found is not None
    assert found.step == 1
    assert "step-00000002 is damaged" in progress.notes[0]
    assert name in progress.notes[0]
    assert steps(tmp_path) == ["damaged-step-00000002", "step-00000001"]


def test_an_altered_value_is_damage_too(tmp_path: Path) -> None:
    write(tmp_path, 1)
    state = write(tmp_path, 2) / "state.json"
    state.write_text(state.read_text().replace('"row": 16', '"row": 17'))
    found = newest_intact(tmp_path, SilentProgress())
    assert found is not None
    assert found.step == 1


def test_all_damaged_is_an_error_every_time(tmp_path: Path) -> None:
    for step in (1, 2):
        truncate(write(tmp_path, step) / "model.safetensors")
    for _ in range(2):  # and the second start does not quietly begin from nothing
        with pytest.raises(
            CheckpointError, match=r"no checkpoint in .* can be used: step-00000002 .* step-00000001 .* remove"
        ):
            newest_intact(tmp_path, SilentProgress())


def test_a_run_goes_on_from_the_one_before_a_damaged_one_to_the_same_weights(memory_folder: Path) -> None:
    tiny.run(memory_folder / "whole", progress=SilentProgress(), steps=8)
    folder, progress = memory_folder / "run", RecordedProgress()
    for count in (3, 5):  # leaves step 5, of a finished run, and below it step 3
        shutil.copytree(_run_until(memory_folder, count), folder / "checkpoints" / f"step-{count:08d}")
    flip_one_bit(folder / "checkpoints" / "step-00000005" / "model.safetensors")
    result = tiny.run(folder, progress=progress, steps=8)
    assert result.resumed_from == 3
    assert any("step-00000005 is damaged" in note for note in progress.notes)
    assert tiny.weights(folder) == tiny.weights(memory_folder / "whole")


def _run_until(root: Path, step: int) -> Path:
    """The checkpoint after `step` steps of the run of eight."""
    folder = root / f"until-{step}"
    kept = root / f"kept-{step}"

    def keep(path: Path, number: int, **parts: object) -> Path:
        made = write_checkpoint(path, number, **parts)  # type: ignore[arg-type]
        if number == step:
            shutil.copytree(made, kept)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dunwu.train.loop.write_checkpoint", keep)
        tiny.run(folder, progress=SilentProgress(), steps=8, checkpoint_every_s=1e-9)
    return kept


@pytest.mark.parametrize("every", [1, 5, 20, 50])
def test_prune_keeps_the_newest_and_always_one_far_enough_back(tmp_path: Path, every: int) -> None:
    for newest in range(0, 200, every):
        (tmp_path / f"step-{newest:08d}").mkdir()
        (tmp_path / f"damaged-step-{newest:08d}").mkdir()
        prune(tmp_path, keep=2, reach_steps=32)
        kept = [int(name.removeprefix("step-")) for name in steps(tmp_path)]
        assert kept[-1] == newest
        assert newest == 0 or kept[-2] == newest - every
        assert kept[0] <= max(0, newest - 32)
        assert kept[0] >= newest - 32 - 16 - every  # nor so far that going back takes for ever
        assert len(kept) <= 6


def test_a_finished_run_keeps_one(tmp_path: Path) -> None:
    for step in (0, 10, 20):
        write(tmp_path, step)
    prune(tmp_path, keep=1, reach_steps=0)
    assert steps(tmp_path) == ["step-00000020"]


def test_going_back_takes_none_that_is_too_new(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        write(tmp_path, step)
    found = newest_intact(tmp_path, SilentProgress(), at_most=29)
    assert found is not None
    assert found.step == 20


def test_a_write_that_fails_leaves_the_ones_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)

    def full(path: Path, tensors: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    with pytest.raises(DiskError, match="free some space"):
        write(tmp_path, 2)
    assert steps(tmp_path) == ["step-00000001"]


def test_leftovers_of_a_killed_writer_are_removed_and_never_read(tmp_path: Path) -> None:
    write(tmp_path, 1)
    shutil.copytree(write(tmp_path, 2), tmp_path / ".step-00000003.tmp")
    found = newest_intact(tmp_path, SilentProgress())
    assert found is not None
    assert found.step == 2
    remove_unfinished(tmp_path)
    assert steps(tmp_path) == ["step-00000001", "step-00000002"]


# Real disks


def mount(folder: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if shutil.which("mount") is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "size=1m")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_the_run_with_the_last_checkpoint_intact(small_disk: Path, tmp_path: Path) -> None:
    tiny.run(tmp_path / "whole", progress=SilentProgress(), steps=12)
    tiny.stream(small_disk / "shards", SilentProgress(), 0)
    filling = (small_disk / "somebody's").open("wb")
    filling.write(b"x" * 300_000)
    filling.close()
    with pytest.raises(DiskError, match=r"No space left on device; free some space, then run the same command again"):
        tiny.run(small_disk / "run", progress=SilentProgress(), steps=12, checkpoint_every_s=1e-9)
    last = newest_intact(small_disk / "run" / "checkpoints", SilentProgress())
    assert last is not None
    assert last.step >= 1
    assert not list((small_disk / "run" / "checkpoints").glob(".*"))
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    result = tiny.run(small_disk / "run", progress=SilentProgress(), steps=12)
    assert result.resumed_from == last.step
    assert tiny.weights(small_disk / "run") == tiny.weights(tmp_path / "whole")


def test_a_folder_that_cannot_be_written_is_said_before_any_step(small_disk: Path) -> None:
    tiny.stream(small_disk / "shards", SilentProgress(), 0)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DiskError, match=r"Read-only file system; choose a folder that you may write"):
        tiny.run(small_disk / "run", progress=SilentProgress())
