"""The finding itself on a tiny table, and what is said of it."""

import json

import pytest
import torch

from dunwu.cli import run as command
from dunwu.core.files import read_json
from dunwu.core.progress import SilentProgress
from dunwu.lab.grok.drawing import plotted, series_of
from dunwu.lab.grok.findings import findings_of
from dunwu.lab.grok.measures import measure
from dunwu.lab.grok.plan import Plan, members_of
from dunwu.lab.grok.run import Look, Run

PLAN = Plan(
    task="addition",
    modulus=23,
    members=members_of([0], [0.7], [0.3], control=True),
    batch=128,
    lr=0.01,
    width=32,
    heads=2,
    init_scale=1.0,
    steps=3000,
    looks_per_decade=12,
)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """One run for the tests of this file."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    run = Run(PLAN, tmp_path_factory.mktemp("grok"))
    curves = run.train(SilentProgress())
    measures = [measure(run, member, SilentProgress()) for member in range(2)]
    torch.set_num_threads(before)
    return curves, measures, findings_of(PLAN, curves, measures)


def test_a_tiny_table_is_memorised_and_understood_long_after(outcome):
    _, _, (decayed, free) = outcome
    assert decayed.memorised < 300
    assert decayed.factor > 3
    assert free.memorised < 300
    assert free.understood is None  # without weight decay it stays where it was
    assert free.last_held_out < 0.9


def test_the_mechanism_moves_before_held_out_accuracy_does(outcome):
    _, (decayed, free), (found, _) = outcome
    assert found.moved["logit concentration"] < found.moved["held-out accuracy"]
    assert found.moved["restricted loss"] < found.moved["held-out accuracy"]
    assert decayed.logits[-1] > 0.75 > free.logits[-1]
    assert decayed.restricted_loss[-1] < 0.1
    assert decayed.excluded_loss[-1] > 1  # without its frequencies it does not even know what it was trained on


def test_a_run_ends_a_while_after_all_have_understood(outcome):
    curves, _, (decayed, _) = outcome
    steps = [look.step for look in curves.looks]
    assert steps[-1] >= 1.1 * decayed.understood > steps[-2]


def test_the_command_tells_prints_json_and_writes_a_page(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    line = ["lab", "grok", "subtraction", "--modulus", "7", "--seeds", "1", "--steps", "20", "--width", "8", "--batch", "8"]  # fmt: skip
    assert command([*line, "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "a - b mod 7: 49 pairs" in told
    assert "seed 0, 50%, decay 0: " in told
    assert command([*line, "--out", str(tmp_path), "--json"]) == 0  # the run is there already
    facts = json.loads(capsys.readouterr().out)
    assert facts["steps"] == 20
    assert [member["weight_decay"] for member in facts["members"]] == [0.1, 0.0]
    assert len(facts["members"][0]["measures"]["logits"]) == len(facts["looks"])
    written = read_json(tmp_path / "experiment.json")
    assert written["facts"]["looks"] == facts["looks"]
    assert {figure["name"] for figure in written["figures"]} == {
        "accuracy",
        "loss",
        "concentration",
        "restricted",
        "norm",
    }
    assert (tmp_path / "accuracy.svg").stat().st_size > 1000


def test_a_sweep_over_fractions_draws_when_each_understood(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    line = [
        "lab",
        "grok",
        "quadratic",
        "--modulus",
        "5",
        "--seeds",
        "2",
        "--steps",
        "15",
        "--width",
        "8",
        "--batch",
        "8",
    ]
    line += ["--fraction", "0.3", "--fraction", "0.7", "--out", str(tmp_path)]
    assert command(line) == 0
    assert "not defined" in capsys.readouterr().out  # of measures, for what is no product in a group
    written = read_json(tmp_path / "experiment.json")
    assert len(written["facts"]["members"]) == 6
    (sweep,) = [figure for figure in written["figures"] if figure["name"] == "fractions"]
    assert {tuple(own["x"]) for own in sweep["lines"]} == {(0.3, 0.7)}


def test_the_terminal_draws_accuracy_over_steps_on_a_log_scale():
    looks = [
        Look(step=step, train=(1.0, 1.0), held_out=(held, 0.0), train_loss=(0.0, 0.0), held_out_loss=(1.0, 1.0), norm=(1.0, 1.0))
        for step, held in ((1, 0.0), (10, 0.0), (100, 1.0))
    ]  # fmt: skip
    lines = plotted(series_of(PLAN, looks), 100, width=40, height=8).plain.split("\n")
    assert lines[0].startswith(" 100% ┤")
    assert lines[7].startswith("   0% ┤")
    body = [line[7:] for line in lines[:8]]
    assert body[0][:36] == "⠉" * 36  # trained: at the top throughout
    assert body[7][:18] + body[7][24:] == "⣀" * 34  # not decayed: at the bottom throughout
    middle = [line.index(next(c for c in line if c != " ")) for line in body[1:7]]
    assert middle == sorted(middle, reverse=True)  # held out: from the middle of the axis (10) up to its end
    assert middle[-1] >= 19
    assert "10^1" in lines[8]
