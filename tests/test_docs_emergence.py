"""docs/emergence.md: its commands are understood, and its table gives what it is there for."""

import re
import shlex
from pathlib import Path

import pytest

from dunwu.cli import app, run
from dunwu.core.files import read_json

PAGE = (Path(__file__).parent.parent / "docs" / "emergence.md").read_text("utf-8")
COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S) for line in block.splitlines()]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_understood(line):
    words = shlex.split(line, comments=True)
    assert words[0] == "dunwu"
    app.parse_args(words[1:], exit_on_error=False, print_error=False)


def test_the_table_of_the_page_is_a_mirage(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (table,) = re.findall(r"^```csv\n(.*?)^```", PAGE, re.M | re.S)
    Path("scores.csv").write_text(table, "utf-8")
    own = [line for line in COMMANDS if "scores.csv" in line]
    assert len(own) == 3
    for line in own:
        assert run(shlex.split(line, comments=True)[1:]) == 0
    facts = read_json(Path("page/experiment.json"))["facts"]
    assert facts["curves"][0]["verdict"] == "jump"
    assert facts["pairs"][0]["survives"] == "no"
    assert facts["forecasts"][0]["fitted"] == 6
