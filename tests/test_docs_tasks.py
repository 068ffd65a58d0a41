"""The examples of docs/tasks.md, run; its table, held against the definitions that there are."""

import json
import re
from pathlib import Path

import pytest

from dunwu.core.records import Completion
from dunwu.evaluate.solvers.base import Response
from dunwu.evaluate.tasks.finding import find_task, list_tasks
from dunwu.evaluate.tasks.measures import measure
from dunwu.evaluate.tasks.metric_specs import Step

PAGE = (Path(__file__).parent.parent / "docs" / "tasks.md").read_text("utf-8")
SUM = {"question": "Ann has 2 pens and buys 3. How many has she?", "answer": "2 + 3 = 5\n#### 5"}
STORY = {
    "title": "The cat",
    "text": "A cat sat.",
    "questions": [
        {"asked": "Who?", "options": ["a dog", "a cat"], "right": "a cat"},
        {"asked": "Why?", "options": ["none"], "right": 0},
        {"asked": "What did it?", "options": ["sit", "sing"], "right": "A"},
    ],
}


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    capitals, reading, _, sums = blocks("yaml")
    (rows,) = blocks("jsonl")
    *_, own = blocks("python")
    files = {
        "capitals.yaml": capitals,
        "capitals.jsonl": rows,
        "reading.yaml": reading,
        "sums.yaml": sums,
        "own.py": own,
    }
    files |= {"stories.json": json.dumps({"stories": [STORY]}), "sums.jsonl": json.dumps(SUM)}
    for name, text in files.items():
        Path(name).write_text(text, "utf-8")
    return tmp_path


def said(problem, text):
    return Response(problem=problem, completion=Completion(text=text, ids=(), finish_reason="stop"))


def test_the_python_runs_as_it_stands(place):
    *programs, _ = blocks("python")
    scope = {}
    for program in programs:
        exec(program, scope)
    assert scope["problem"].target == "5"


def test_one_text_has_several_questions(place):
    first, second = find_task("reading.yaml").problems()
    assert first.input == "A cat sat.\n\nWho?"
    assert (first.right, second.right, second.input) == (1, 0, "A cat sat.\n\nWhat did it?")
    assert first.group == second.group == "The cat"


def test_the_source_of_several_subjects_is_read_from_a_folder_too(place):
    (place / "quiz.yaml").write_text(blocks("yaml")[2], "utf-8")
    (place / "data" / "test").mkdir(parents=True)
    (place / "data" / "test" / "art.csv").write_text("question,answer\nWho painted it?,Vermeer\n", "utf-8")
    task = find_task("quiz.yaml", data="data")
    (problem,) = task.problems()
    assert task.text(problem) == "Questions about fine arts.\n\nWho painted it?"


def test_texts_are_scored_as_it_says(place):
    pytest.importorskip("rouge_score")
    task = find_task("sums.yaml")
    (problem,) = task.problems()
    found = measure(task, [said(problem, "#### 5"), said(problem, "It is 5."), said(problem, "2 + 3 = 5\n#### 5")])
    assert [one.name for one in found] == ["strict", "value", "rougeL"]
    assert found[0].values == (1, 0, 1)
    assert found[1].values == (1, 1, 1)
    assert found[2].values[2] == 1


def test_the_function_gives_its_rows(place):
    task = find_task("own.py:sums")
    problem = task.problems()[3]
    assert task.text(problem, task.pool_of(problem)[:2]) == "20 + 0 = 20\n\n21 + 1 = 22\n\n13 + 3 ="
    assert measure(task, [said(problem, " 16\n")])[0].values == (1,)


def test_the_tables_name_all_that_there_is():
    named = set(re.findall(r"`([a-z0-9_]+)`", PAGE))
    assert set(list_tasks()) <= named
    assert set(Step.model_fields["kind"].annotation.__args__) <= named
    rows = [
        line
        for line in PAGE.splitlines()
        if line.startswith("| `") and line.rstrip("| ").endswith(("hub", "here", "spot"))
    ]
    assert {name for row in rows for name in re.findall(r"`([a-z0-9_]+)`", row.split("|")[1])} <= set(list_tasks())
