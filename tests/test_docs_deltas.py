"""The examples of the page on the registry of deltas, run."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from dunwu.cli import app, run
from dunwu.core.deltas import LoraSpec
from dunwu.delta.library import Library
from dunwu.delta.registry import attach
from dunwu.delta.storing import save_delta
from dunwu.model.hub import load_model
from dunwu.serve.deltas import chosen
from dunwu.serve.source import ModelSource
from tests.delta.helpers import shake
from tests.serve.live import make_folder, running

PAGE = (Path(__file__).parent.parent / "docs" / "deltas_registry.md").read_text("utf-8")


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DUNWU_DELTAS", str(tmp_path / "deltas"))
    model = load_model(make_folder(tmp_path / "models" / "kitten"))
    for folder, seed in (("tone", 0), ("adapters/facts", 1)):
        delta = shake(attach(model, LoraSpec(r=2), seed=seed), seed=seed)
        save_delta(delta, tmp_path / folder)
        delta.detach()
    return tmp_path


def test_the_commands_run_as_they_stand(place, monkeypatch, capsys):
    monkeypatch.setattr("builtins.input", lambda *_: "/quit")
    lines = [line for line in "".join(blocks("sh")).splitlines() if not line.startswith("dunwu serve")]
    assert len(lines) >= 8
    for line in lines:
        assert run(shlex.split(line)[1:]) == 0, (line, capsys.readouterr().err)
    assert (place / "models" / "polite-kitten" / "model.safetensors").is_file()
    kept, damaged = Library(place / "deltas").entries()
    assert ([entry.name for entry in kept], damaged) == (["both"], [])
    for registry in ("shared", "mine"):
        assert [entry.note for entry in Library(place / registry).entries()[0]] == ["answers politely"]


def test_the_servers_examples_are_understood_and_answered(place, capsys):
    for line in "".join(blocks("sh")).splitlines():
        app.parse_args(shlex.split(line)[1:], exit_on_error=False, print_error=False)
    base = ModelSource(id="kitten", folder=place / "models" / "kitten")
    (code,) = blocks("python")
    with running(base, *chosen(["tone=./tone"], [base], Library(place / "deltas"))) as live:
        exec(compile(code.replace("http://127.0.0.1:8000/v1", live.api), "example", "exec"), {})
    model, answer = capsys.readouterr().out.strip().split(" ", 1)
    assert model == "kitten:tone"
    assert ast.literal_eval(answer)
