"""Learning rate and batch over a run."""

import pytest

from dunwu.core.recipe import TrainSection
from dunwu.train.schedule import batch_scale, lr_scale


def test_warmup_stable_decay() -> None:
    section = TrainSection(schedule="wsd", warmup_fraction=0.1, decay_fraction=0.4, final_lr_fraction=0.2)
    points = {0.0: 0.0, 0.05: 0.5, 0.1: 1.0, 0.6: 1.0, 0.8: 0.6, 1.0: 0.2}
    assert {p: lr_scale(section, p) for p in points} == pytest.approx(points)


def test_cosine() -> None:
    section = TrainSection(schedule="cosine", warmup_fraction=0.2, final_lr_fraction=0.1)
    points = {0.1: 0.5, 0.2: 1.0, 0.6: 0.55, 1.0: 0.1}
    assert {p: lr_scale(section, p) for p in points} == pytest.approx(points)


def test_constant_after_warmup() -> None:
    section = TrainSection(schedule="constant", warmup_fraction=0.5)
    assert [lr_scale(section, p) for p in (0.25, 0.5, 1.0)] == [0.5, 1.0, 1.0]


def test_extremes() -> None:
    no_warmup = TrainSection(schedule="wsd", warmup_fraction=0.0, decay_fraction=1.0)
    assert [lr_scale(no_warmup, p) for p in (0.0, 0.25, 1.0)] == pytest.approx([1.0, 0.75, 0.0])
    only_warmup = TrainSection(schedule="cosine", warmup_fraction=1.0)
    assert lr_scale(only_warmup, 0.5) == 0.5
    assert lr_scale(TrainSection(decay_fraction=0.0), 1.0) == 1.0
    assert lr_scale(TrainSection(), 7.0) == lr_scale(TrainSection(), 1.0)


def test_the_batch_grows_from_a_quarter() -> None:
    section = TrainSection(batch_warmup_fraction=0.2)
    assert [batch_scale(section, p) for p in (0.0, 0.1, 0.2, 0.9)] == pytest.approx([0.25, 0.625, 1.0, 1.0])
    assert batch_scale(TrainSection(), 0.0) == 1.0
