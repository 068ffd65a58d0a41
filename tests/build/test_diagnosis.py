"""`dunwu doctor` on homes, finished, running and damaged, and on a file."""

import json
import random

import pytest

from dunwu.build.home import Home
from dunwu.cli import run
from tests.align.simulated import FAULTS, healthy, planted
from tests.align.test_doctor_training import curve


def write(folder, rows, tail=""):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return folder / "metrics.jsonl"


@pytest.fixture
def home(tmp_path):
    """A build whose reinforcement learning is still running, half a row written, and goes wrong."""
    home = Home(tmp_path / "there")
    home.make()
    home.recipe_file.write_text("name: there\ncorpus: {sources: [{kind: world}]}\n")
    write(home.stages / "pretrain-000000000001", curve(0, 100))
    fault = next(one for one in FAULTS if one.name == "KL runs away")
    write(home.stages / "rl-000000000002", planted(fault, random.Random(3))[0], tail='{"step": 121, "rew')
    return home.folder


def test_every_run_of_a_home_is_looked_at(home, capsys):
    assert run(["doctor", str(home)]) == 0
    said = capsys.readouterr().out
    assert "pretrain   100 steps, not finished: nothing found" in said
    assert "rl         120 steps, not finished" in said
    assert "warning: KL runs away, since step" in said
    assert "rl.algorithm.beta" in said


def test_as_json_it_is_for_programs(home, capsys):
    assert run(["doctor", str(home), "--json"]) == 0
    pretrain, rl = json.loads(capsys.readouterr().out)
    assert (pretrain["stage"], pretrain["findings"]) == ("pretrain", [])
    assert {one["name"] for one in rl["findings"]} >= {"KL runs away"}


def test_a_file_is_enough(tmp_path, capsys):
    file = write(tmp_path / "rl-abc", healthy(random.Random(2), 40))
    assert run(["doctor", str(file)]) == 0
    assert "rl         40 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder / "nowhere", "is neither a build's home nor a file of metrics"),
        (lambda folder: write(folder / "x", [], tail="not json\n"), "holds no rows of metrics"),
        (lambda folder: (Home(folder).make(), Home(folder).recipe_file.write_text("x"), folder)[-1], "nothing has been trained"),
    ],
)  # fmt: skip
def test_what_cannot_be_looked_at_is_said(tmp_path, capsys, make, says):
    assert run(["doctor", str(make(tmp_path))]) == 2
    assert says in capsys.readouterr().err
