"""`dunwu prompt` from the command line, with a scripted model."""

import json

import pytest

from dunwu.chat.scripted import ScriptedChat
from dunwu.cli import prompting, run

HELPED = "Give a number alone."


def answer(messages):
    asked = messages[-1].content
    if asked.startswith("Here are some questions"):
        return HELPED
    number = int(asked.split()[2])
    knows = messages[0].content == HELPED or any(one.role == "assistant" for one in messages)
    return str(number + 1) if knows or number % 2 else "I do not know"


@pytest.fixture
def model(monkeypatch):
    chat = ScriptedChat(answer)
    chat.instruction_tuned = True
    monkeypatch.setattr(prompting, "load", lambda name: chat)
    return chat


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(100)]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


def test_a_search_writes_the_best_prompt_and_says_what_it_gains_held_out(model, file, tmp_path, capsys):
    out = tmp_path / "best.json"
    assert run(["prompt", "search", str(file), "--with", "model", "--out", str(out), "--candidates", "6"]) == 0
    told = capsys.readouterr().out
    assert "best 1.000; difference +0." in told
    assert "borne out" in told
    best = json.loads(out.read_text())
    assert best["prompt"]["instruction"] == HELPED or best["prompt"]["shots"]
    assert best["search"]["gained"] is True
    arguments = ["prompt", "curve", str(file), "--with", "model", "--k", "0", "--json", "--strategy"]
    assert run([*arguments, f"prompted:file={out}"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == 1.0


def test_a_curve_by_number_of_demonstrations(model, file, capsys):
    assert run(["prompt", "curve", str(file), "--with", "model", "--k", "0,2", "--draws", "2", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["k"], one["value"], one["n"], one["draws"]) for one in lines] == [(0, 0.5, 80, 1), (2, 1.0, 80, 2)]
    assert run(["prompt", "curve", str(file), "--with", "model", "--k", "1", "--reward", "exact"]) == 0
    assert "   1 demonstrations  1.000 [" in capsys.readouterr().out


def test_a_task_is_asked_as_it_says(model, tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"a": n, "b": n + 1}) for n in range(40)), "utf-8")
    task = tmp_path / "plus.yaml"
    task.write_text(
        "name: plus\nsource: {files: rows.jsonl}\nmax_tokens: 8\ninput: 'What is {{a}} + 1?'\ntarget: '{{b}}'\n"
        "metrics:\n  - {name: same, filters: [number]}\n",
        "utf-8",
    )
    code = run(["prompt", "curve", str(task), "--with", "model", "--k", "0", "--json"])
    told = capsys.readouterr()
    assert code == 0, told.err
    assert json.loads(told.out)["value"] == 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "FILE", "--strategy", "cott"], "there is no strategy 'cott'; did you mean cot?"),
        (["search", "FILE", "--most", "5"], "5 questions are too few for a search"),
        (["search", "none.jsonl"], "none.jsonl is no file"),
        (["search", "mmmlu"], "there is no task 'mmmlu'"),
        (["search", "FILE", "--out", "no/such/folder.json"], "cannot be written"),
        (["search", "FILE", "--reward", "exakt"], "exakt"),
        (["search", "FILE", "--data", "x"], "--data is for a task"),
        (["curve", "FILE", "--k", "1,x"], "must be whole numbers by commas"),
        (["curve", "FILE", "--k", "-1"], "cannot be shown"),
        (["curve", "FILE", "--demonstrations", "simular"], "did you mean similar?"),
        (["curve", "FILE", "--demonstrations", "random:budget=0"], "budget='0': must be at least 1"),
        (["curve", "FILE", "--demonstrations", "random:k=3"], "k and seed are drawn by the curve"),
        (["curve", "FILE", "--pool", "none.jsonl"], "none.jsonl"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_asked(model, file, capsys, words, message):
    code = run(["prompt", *[str(file) if word == "FILE" else word for word in words], "--with", "model"])
    told = capsys.readouterr().err
    assert (code, message in told) == (2, True), told
    assert model.asked == []


def test_a_model_that_was_not_tuned_is_refused(model, file, capsys):
    model.instruction_tuned = False
    assert run(["prompt", "search", str(file), "--with", "model"]) == 2
    assert "was not tuned to answer" in capsys.readouterr().err
