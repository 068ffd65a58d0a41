"""Weights kept on the way: at places that follow from the tokens alone, the same ones whether or not the run was interrupted."""

import itertools
from pathlib import Path

import pytest
import torch

from dunwu.core.errors import DataError
from dunwu.core.progress import SilentProgress
from dunwu.model.hub import load_model
from dunwu.train.signals import Interrupted, StopSignal
from dunwu.train.snapshots import is_due, snapshot_tokens, snapshots_in

from . import tiny
from .test_resume import StopAtStep


def test_places_are_in_equal_ratios_from_the_first_batch_to_short_of_the_end():
    assert snapshot_tokens(4, first=100, total=1_000_000) == (100, 1000, 10_000, 100_000)
    assert snapshot_tokens(0, first=100, total=1000) == ()
    assert snapshot_tokens(3, first=50, total=50) == (50, 50, 50)


@pytest.mark.parametrize("batches", [[100] * 100, [25, 50, 75, *[100] * 99], [9_999, 1]])
def test_every_place_falls_due_in_exactly_one_step(batches):
    places = snapshot_tokens(7, first=batches[0], total=sum(batches))
    ends = [0, *itertools.accumulate(batches)]
    for place in set(places):
        assert sum(is_due([place], before, after) for before, after in itertools.pairwise(ends)) == 1


def test_snapshots_are_models_and_an_interruption_changes_none(
    memory_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dunwu.train.loop.SHOW_EVERY_S", 0.0)
    for name in ("whole", "parts"):
        folder = memory_folder / name
        if name == "parts":
            stop = StopSignal()
            with pytest.raises(Interrupted):  # between the third snapshot and the fourth
                tiny.run(folder, progress=StopAtStep(stop, 5 * 8 * 32), stop=stop, more={"snapshots": 5})
            assert len(snapshots_in(folder)) == 3
            unfinished = folder / "snapshots" / ".step-00000009.tmp"
            unfinished.mkdir(parents=True)
        tiny.run(folder, progress=SilentProgress(), more={"snapshots": 5})
    whole, parts = (snapshots_in(memory_folder / name) for name in ("whole", "parts"))
    assert [at for at, _ in whole] == [at for at, _ in parts]
    assert [at.step for at, _ in whole] == [1, 2, 4, 7, 11]  # 20^(i/5), rounded up to a step
    assert all(at.row == at.step * 8 and at.tokens == at.row * tiny.CONTEXT for at, _ in whole)
    assert [tiny.weights(path) for _, path in whole] == [tiny.weights(path) for _, path in parts]
    assert len({tiny.weights(path) for _, path in whole}) == 5
    first, last = load_model(whole[0][1]), load_model(whole[-1][1])
    assert not torch.equal(first.head_weight, last.head_weight)
    assert not (memory_folder / "parts" / "snapshots" / ".step-00000009.tmp").exists()


def test_one_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "snapshots" / "step-00000001").mkdir(parents=True)
    (tmp_path / "snapshots" / "step-00000001" / "snapshot.json").write_text('{"step": 1}')
    with pytest.raises(DataError, match="step-00000001"):
        snapshots_in(tmp_path)
