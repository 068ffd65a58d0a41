"""The examples of the documentation, run against a live server."""

import json
import re
import shlex
from pathlib import Path

import pytest

from dunwu.cli import app
from dunwu.serve.gateway_config import load_gateway

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "serving.md"]


def blocks(kind: str) -> list[str]:
    return [
        block for page in PAGES for block in re.findall(rf"^```{kind}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    ]


@pytest.mark.parametrize("code", blocks("python"))
def test_examples_in_python_run(code, live, capsys):
    code = code.replace("http://127.0.0.1:8000/v1", live.api).replace("my-folder", "kitten")
    exec(compile(code, "example", "exec"), {})
    said = capsys.readouterr().out
    assert said.strip()
    if "json_schema" in code:
        city = json.loads(said)
        assert set(city) == {"name", "country"}
        assert city["country"] in ("France", "Japan")


def test_the_gateways_example_is_valid(tmp_path):
    (example,) = [block for block in blocks("yaml") if "partners:" in block]
    (tmp_path / "gateway.yaml").write_text(example, "utf-8")
    assert load_gateway(tmp_path / "gateway.yaml").routes["careful"].cascade == ("small", "large")


def test_the_commands_have_the_options_that_are_shown():
    lines = [line.partition("#")[0] for line in "".join(blocks("sh")).splitlines() if line.startswith("dunwu ")]
    assert len(lines) >= 5
    for line in lines:
        app.parse_args(shlex.split(line)[1:], exit_on_error=False, print_error=False)
