"""Runs: which rows they read, that they go on to the bit after a kill, and that a tiny table is understood after all."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from dunwu.cli import run as command
from dunwu.core.devices import prepare_cpu
from dunwu.core.errors import CheckpointError, RecipeError, TrainingError
from dunwu.core.progress import RecordedProgress, SilentProgress
from dunwu.lab.grok.measures import measure
from dunwu.lab.grok.plan import Member, Plan, members_of
from dunwu.lab.grok.run import Run, stream_rows
from dunwu.train.signals import Interrupted, StopSignal
from tests.lab.grok import killed
from tests.lab.grok.killed import SMALL


@pytest.fixture(autouse=True)
def one_thread():
    """And the kernels of the command line, which tests before may have chosen: the same in this process and in the killed one."""
    before = torch.get_num_threads()
    prepare_cpu(1)
    yield
    torch.set_num_threads(before)


def test_every_row_is_read_once_an_epoch_in_an_order_of_its_own():
    rows = np.array([3, 5, 8, 13, 21, 34, 55])
    stream = stream_rows(rows, 4, 0, 28)
    epochs = stream.reshape(4, 7)
    assert all(sorted(epoch) == rows.tolist() for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    pieces = [stream_rows(rows, 4, start, min(start + 5, 28)) for start in range(0, 28, 5)]
    assert np.array_equal(np.concatenate(pieces), stream)
    assert not np.array_equal(stream_rows(rows, 5, 0, 28), stream)


def test_a_run_that_was_killed_ends_as_one_that_was_not(tmp_path):
    whole = Run(SMALL, tmp_path / "whole")
    expected = whole.train(SilentProgress())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    died = subprocess.run([sys.executable, killed.__file__, str(tmp_path / "killed")], env=environment, check=False)
    assert died.returncode == -signal.SIGKILL
    again = Run(SMALL, tmp_path / "killed")
    seen = []
    curves = again.train(SilentProgress(), watch=lambda look: seen.append(look.step))
    assert curves.looks == expected.looks
    assert seen == [look.step for look in expected.looks]
    for name, weight in whole.network.weights.items():
        assert torch.equal(weight, again.network.weights[name])
    ours, theirs = whole.optimiser.tensors(), again.optimiser.tensors()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert measure(whole, 0, SilentProgress()) == measure(again, 0, SilentProgress())


def test_a_run_that_is_asked_to_stop_saves_and_goes_on(tmp_path):
    stop = StopSignal()
    with pytest.raises(Interrupted, match="is saved; the same command goes on from there"):
        Run(SMALL, tmp_path).train(
            SilentProgress(), watch=lambda look: stop.request() if look.step > 50 else None, stop=stop
        )
    progress = RecordedProgress()
    Run(SMALL, tmp_path).train(progress)
    assert progress.updates[0][0] > 50
    finished = RecordedProgress()
    Run(SMALL, tmp_path).train(finished)  # nothing is left to do
    assert not finished.updates


def test_a_folder_of_another_run_is_refused(tmp_path):
    Run(SMALL, tmp_path / "run").train(SilentProgress())
    other = replace(SMALL, lr=0.01)
    with pytest.raises(
        RecipeError, match=r"holds another run \(lr=0.0015 there and 0.01 here\); choose another folder"
    ):
        Run(other, tmp_path / "run").train(SilentProgress())


def test_a_damaged_checkpoint_is_not_believed(tmp_path):
    Run(SMALL, tmp_path).train(SilentProgress())
    for file in tmp_path.glob("step-*/model.safetensors"):
        file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        Run(SMALL, tmp_path).train(SilentProgress())


def test_a_run_that_diverges_says_what_to_lower(tmp_path):
    wild = Plan(
        task="addition",
        modulus=7,
        members=members_of([0], [0.6], [0.0], control=False),
        optimizer="sgd",
        lr=1e6,
        steps=50,
    )
    with pytest.raises(TrainingError, match=r"the loss is no number at step .* use a smaller one"):
        Run(wild, tmp_path).train(SilentProgress())


def test_members_of_an_ensemble_learn_as_they_would_alone(tmp_path):
    settings = {"task": "addition", "modulus": 7, "batch": 16, "width": 16, "steps": 30, "looks_per_decade": 6}
    together = Plan(members=(Member(seed=0, fraction=0.5, weight_decay=1.0), Member(seed=1, fraction=0.8, weight_decay=0.0)), **settings)  # fmt: skip
    both = Run(together, tmp_path / "both").train(SilentProgress())
    for number, member in enumerate(together.members):
        alone = Run(Plan(members=(member,), **settings), tmp_path / str(number)).train(SilentProgress())
        losses = [look.train_loss[number] for look in both.looks]
        assert losses == pytest.approx([look.train_loss[0] for look in alone.looks], rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 30, "heads": 4}, "width=30 is not divisible by heads=4; use 32"),
        ({"lr": 0.0}, "lr=0: a learning rate is a number above 0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"steps": 3}, "steps=3: must be at least 10"),
        ({"batch": 0}, "batch=0: must be at least 1"),
        ({"depth": 0}, "depth=0: must be at least 1"),
        ({"init_scale": -1.0}, "init_scale=-1: must be a number above 0"),
        ({"optimizer": "lion"}, "optimizer 'lion' is not known; use adamw, adam, sgd"),
        ({"members": ()}, "no member"),
        ({"members": members_of([0], [0.5], [-1.0], control=False)}, "weight decay -1: must be at least 0 and below"),
        ({"members": members_of([0], [0.5, 0.5], [1.0], control=False)}, "named twice"),
    ],
)
def test_plans_that_cannot_be_run_are_refused(changes, words):
    with pytest.raises(RecipeError, match=words):
        Plan(**{"task": "addition", **changes})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["division", "--modulus", "96"], "modulus=96 is not prime"),
        (["addition", "--fraction", "1.5"], "fraction=1.5"),
        (["addition", "--modulus", "5", "--fraction", "0.99"], "leaves no pair of 25 held out"),
        (["multiplication"], "task 'multiplication' is not known"),
        (["addition", "--seeds", "0"], "--seeds"),
    ],
)
def test_bad_values_of_the_command_line_end_with_2_and_one_line(arguments, words, capsys):
    assert command(["lab", "grok", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
