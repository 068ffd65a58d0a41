"""The examples of the page on forecasts, run as they stand."""

import re
import shlex
from pathlib import Path

import pytest

from dunwu.cli import run
from tests.build.place import new_place
from tests.test_cli import write_documents

PAGE = (Path(__file__).parent.parent / "docs" / "predict.md").read_text("utf-8")


@pytest.mark.slow
def test_the_commands_of_the_page(tmp_path_factory, capsys):
    (commands,) = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)
    with new_place(tmp_path_factory):
        write_documents(Path("my-folder"), count=60)
        for command in commands.splitlines():
            assert run(shlex.split(command)[1:]) == 0, command
        assert "1 forecasts, 1 scored" in capsys.readouterr().out
        assert Path("page/loss_by_compute.csv").is_file()
        assert Path("scores/experiment.json").is_file()
