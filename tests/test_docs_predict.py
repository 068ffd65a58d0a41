"""The examples of the page on forecasts, run, with a ladder that asks for less text."""

import re
import shlex
from pathlib import Path

import pytest

from dunwu.cli import run
from dunwu.lab.ladder import plan
from tests.build.place import new_place
from tests.test_cli import write_documents

PAGE = (Path(__file__).parent.parent / "docs" / "predict.md").read_text("utf-8")


def test_the_commands_of_the_page(tmp_path_factory, capsys):
    (commands,) = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)
    with new_place(tmp_path_factory), pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "LEAST_STEPS", 8)
        patch.setattr(plan, "LEAST_TOKENS_AN_ENTRY", 5)
        write_documents(Path("my-folder"), count=20)
        for command in commands.splitlines():
            assert run(shlex.split(command)[1:]) == 0, command
        assert "1 forecasts, 1 scored" in capsys.readouterr().out
        assert Path("page/loss_by_compute.csv").is_file()
        assert Path("scores/experiment.json").is_file()
