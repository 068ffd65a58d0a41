"""The examples of docs/grokking.md, run short; its table, held against the command."""

import inspect
import re
import shlex
from pathlib import Path

import pytest

from dunwu.cli import run
from dunwu.cli.commands.lab import grok
from dunwu.core.files import read_json
from dunwu.lab.grok.optimisers import NAMES
from dunwu.lab.grok.plan import Plan
from dunwu.lab.grok.tasks import TASKS

PAGE = (Path(__file__).parent.parent / "docs" / "grokking.md").read_text("utf-8")
COMMANDS = [shlex.split(block) for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)]
SHORT = ["--modulus", "7", "--batch", "8", "--width", "8"]


def test_the_examples_run(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    one, sweep = COMMANDS
    assert run([*one[1:], *SHORT, "--steps", "12"]) == 0
    assert len(read_json(Path("grok-division/experiment.json"))["facts"]["members"]) == 4
    assert run([*sweep[1 : sweep.index("--steps") + 1], "12", *sweep[sweep.index("--steps") + 2 :]]) == 0
    assert len(read_json(Path("sweep/experiment.json"))["facts"]["members"]) == 6
    assert Path("sweep/fractions.svg").exists()


def test_the_table_names_what_there_is_and_the_defaults_are_those_of_a_plan():
    table = PAGE[PAGE.index("| tasks |") : PAGE.index("A sweep names")]
    for name in (*TASKS, *NAMES):
        assert f"`{name}`" in table
    named = dict(re.findall(r"--([a-z-]+) ([.\d]+)", table))
    plan = Plan()
    given = inspect.signature(grok).parameters
    for name in ("width", "heads", "depth", "init_scale", "batch", "lr", "steps"):
        assert float(named[name.replace("_", "-")]) == getattr(plan, name) == given[name].default
    assert float(named["weight-decay"]) == plan.members[0].weight_decay
    assert float(named["fraction"]) == plan.members[0].fraction
    assert int(named["seeds"]) == given["seeds"].default
