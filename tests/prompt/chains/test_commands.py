"""`dunwu chain`: from files and words to answers, traces and pages; what is wrong is said in a line."""

import json
import sys
from pathlib import Path

import pytest

from dunwu.chat.scripted import ScriptedChat
from dunwu.cli import run, talking
from dunwu.core.errors import DataError

EXAMPLES = Path(__file__).parents[3] / "examples" / "chains"


@pytest.fixture
def chat(monkeypatch):
    partner = ScriptedChat(lambda messages: f"<{messages[-1].content[:40]}>")
    partner.instruction_tuned = True
    monkeypatch.setattr(talking, "load", lambda model: partner)
    return partner


def dunwu(*words):
    return run(["chain", *map(str, words)])


def test_run_prints_the_answer_as_it_is_written(chat, capsys):
    assert dunwu("run", EXAMPLES / "company.yaml", "product=socks", "--model", "m", "--seed", "3") == 0
    assert capsys.readouterr().out == "<Write a slogan for <What is a good name\n"
    assert chat.options[1].seed == 3


def test_values_come_from_files_and_have_kinds(chat, capsys, tmp_path):
    (tmp_path / "long.txt").write_text("one\n\ntwo\n\nthree\n\nfour")
    (tmp_path / "chain.yaml").write_text(
        "inputs: {document: text, n: int}\nsteps: [{call: first_paragraphs, with: {text: document}, gives: start}]"
    )
    assert dunwu("run", tmp_path / "chain.yaml", f"document=@{tmp_path / 'long.txt'}", "n=2") == 0
    assert capsys.readouterr().out == "one\n\ntwo\n"
    assert dunwu("run", tmp_path / "chain.yaml", "document=a=b\n\nc", "n=1", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "answer": "a=b",
        "values": {"document": "a=b\n\nc", "n": 1, "start": "a=b"},
    }


def test_traces_are_written_shown_and_made_pages(chat, capsys, tmp_path):
    file, page, other = (tmp_path / name for name in ("t.json", "t.html", "u.html"))
    words = ("run", EXAMPLES / "two_outputs.yaml", "topic=[red]tides[/red]", "--model", "m", "--trace")
    assert dunwu(*words, file) == 0
    assert dunwu(*words, page) == 0
    capsys.readouterr()
    assert dunwu("trace", file) == 0
    out = capsys.readouterr().out
    assert "parallel" in out
    assert "tokens read" in out
    assert dunwu("trace", file, "--page", other) == 0
    assert "[red]tides[/red]" in other.read_text()
    assert page.read_text().count("<details") == other.read_text().count("<details") == 6


def test_many_rows_are_a_line_each_and_a_failure_is_told_at_the_end(chat, capsys, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"x": "1"}\n\n{"x": "no"}\n')
    (tmp_path / "chain.yaml").write_text(
        'steps: [{fill: "{{ x }}", gives: answer}, {parse: {regex: "\\\\d"}, gives: n}]'
    )
    assert dunwu("run", tmp_path / "chain.yaml", "--rows", tmp_path / "rows.jsonl") == 2
    told = capsys.readouterr()
    first, second = map(json.loads, told.out.splitlines())
    assert first == {"answer": "1"}
    assert "nothing fits" in second["error"]
    assert "1 of 2 items failed" in told.err


def test_show_says_what_each_step_takes_and_gives(capsys):
    assert dunwu("show", EXAMPLES / "map_reduce.yaml") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "map-reduce: takes document (text)"
    assert "  map summaries: parts (list) → summaries (list[text])" in out
    assert "    ask summary: part (any) → summary (text)" in out
    assert out.splitlines()[-1] == "answer: summary"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "none.yaml"], "cannot read the chain none.yaml"),
        (["run", EXAMPLES / "company.yaml", "produkt=x"], "company takes no 'produkt'; did you mean 'product'?"),
        (["run", EXAMPLES / "company.yaml", "socks"], "'socks' gives no value; write NAME=TEXT"),
        (["run", EXAMPLES / "company.yaml", "--model", "m"], "needs 'product', which is not given"),
        (["run", EXAMPLES / "company.yaml", "product=x"], "needs a model, and none was given"),
        (["run", EXAMPLES / "company.yaml", "product=@nowhere"], "cannot read nowhere: No such file"),
        (["run", EXAMPLES / "company.yaml", "product=x", "--trace", "t.txt"], "name a .json, or an .html"),
        (["run", EXAMPLES / "company.yaml", "product=x", "--url", "http://localhost:1/v1"], "--url needs --model"),
        (["run", EXAMPLES / "company.yaml", "--rows", "r.jsonl", "--model", "m"], "cannot read r.jsonl"),
        (["trace", EXAMPLES / "company.yaml"], "is no trace of a chain"),
    ],
)
def test_what_is_wrong_is_one_line(words, says, chat, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert dunwu(*words) == 2
    told = capsys.readouterr()
    assert says in told.err
    assert "Traceback" not in told.err
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_leaves_its_trace(chat, capsys, tmp_path):
    chat.script = [DataError("the model is out")]
    file = tmp_path / "t.json"
    assert dunwu("run", EXAMPLES / "company.yaml", "product=x", "--model", "m", "--trace", file) == 2
    assert "the model is out" in capsys.readouterr().err
    assert json.loads(file.read_text())["error"] == "the model is out"


def test_help_imports_no_torch(capsys):
    before = "torch" in sys.modules
    assert dunwu("--help") == 0
    assert "trace" in capsys.readouterr().out
    assert ("torch" in sys.modules) == before
