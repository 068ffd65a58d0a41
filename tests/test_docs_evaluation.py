"""The examples of docs/evaluation.md, run; its options, held against the command."""

import dataclasses
import inspect
import json
import re
import shlex
from pathlib import Path

import pytest

from dunwu.cli import run
from dunwu.cli.commands.evaluating import compare
from dunwu.cli.evaluating_options import Evaluating
from dunwu.evaluate.outcome import read_outcome
from tests.chat.conftest import make_home

PAGE = (Path(__file__).parent.parent / "docs" / "evaluation.md").read_text("utf-8")


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.M | re.S)


def test_the_commands_run_as_they_stand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dunwu.evaluate.identity.user_cache_folder", lambda: tmp_path / "cache")
    Path("MODEL").mkdir()
    make_home(Path("MODEL"), facts={"name": "kitten", "instruction_tuned": True})
    (task,), (commands,) = blocks("yaml"), blocks("sh")
    Path("exam.yaml").write_text(task)
    rows = [
        {"question": f"{at}?", "options": ["a cat", "sat"], "key": at % 2, "text": f"t{at // 2}"} for at in range(12)
    ]
    Path("exam.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for line in commands.splitlines():
        assert run(shlex.split(line)[1:]) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert "exam: 12 questions in 6 groups, by likelihood" in told
    assert "not alike: solver: likelihood → chat" in told
    assert [figure.score.name for figure in read_outcome(Path("first")).tasks[0].figures] == ["acc", "acc_norm"]
    for name in re.findall(r"`(\w+\.(?:jsonl?|html))`", PAGE.partition("The folder holds")[2].partition("\n\n")[0]):
        assert (tmp_path / "first" / name).is_file(), name
    assert Path("comparison.html").is_file()


@pytest.mark.parametrize("at", range(2))
def test_the_assertions_of_the_page_hold(at):
    assert "assert " in blocks("python")[at]
    exec(compile(blocks("python")[at], "example", "exec"), {})


def test_every_option_named_is_one():
    names = [field.name for field in dataclasses.fields(Evaluating)] + list(inspect.signature(compare).parameters)
    known = {f"--{name.replace('_', '-')}" for name in names} | {"--pass"}
    named = set(re.findall(r"`(--[\w-]+)", PAGE))
    assert named <= known, named - known
