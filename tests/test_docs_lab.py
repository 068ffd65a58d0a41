"""The examples of the page on the lab, run."""

import re
import shlex
from pathlib import Path

import pytest

from dunwu.cli import run
from dunwu.core.files import read_json

PAGE = (Path(__file__).parent.parent / "docs" / "lab.md").read_text("utf-8")


def test_the_table_of_the_page_gives_a_law(tmp_path, monkeypatch):
    pytest.importorskip("scipy")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (table,) = re.findall(r"^```csv\n(.*?)^```", PAGE, re.M | re.S)
    (command,) = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)
    Path("runs.csv").write_text(table, "utf-8")
    assert run(shlex.split(command)[1:]) == 0
    law = read_json(Path("law/experiment.json"))["facts"]
    assert law["runs"] == 12
    assert law["forecasts"][0]["flops"] == 1e21
