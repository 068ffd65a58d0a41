"""Answers in steps, each judged: the forms of labels, and what cannot be used."""

import json

import pytest

from dunwu.core.errors import DataError
from dunwu.core.recipe import PreferenceSource, PreferenceWorldSource
from dunwu.corpus.stepwise import StepReader

GOOD = {"prompt": "1 + 1?", "completions": ["1 and 1", "make 3."], "labels": [True, False]}


def read(tmp_path, *rows, **settings):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    reader = StepReader(PreferenceSource(path=str(path), **settings), key="reward")
    return list(reader), reader


def test_steps_and_labels(tmp_path):
    (one,), reader = read(tmp_path, GOOD)
    assert [message.content for message in one.prompt] == ["1 + 1?"]
    assert (one.steps, one.labels) == (("1 and 1", "make 3."), (True, False))
    assert one.source == "rows.jsonl#1"
    assert reader.formats == {"rows.jsonl": "judged steps"}


@pytest.mark.parametrize(
    ("labels", "read_as"),
    [([1, -1], (True, False)), (["+", "-"], (True, False)), ([None, True], (None, True)), ([1.0, None], (True, None))],
)
def test_forms_of_labels(tmp_path, labels, read_as):
    (one,), _ = read(tmp_path, {**GOOD, "labels": labels})
    assert one.labels == read_as


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({**GOOD, "labels": [True]}, "has labels of another number than steps: 2 steps and 1 labels"),
        ({**GOOD, "labels": [0, 1]}, "has a label that is none: 0; write true, false, or null"),
        ({**GOOD, "labels": [True, "bad"]}, "has a label that is none: 'bad'"),
        ({**GOOD, "completions": ["", "x"]}, "has an empty answer: a step of 2 says nothing"),
        ({"completions": [], "labels": [], "prompt": "?"}, "has an empty answer: there are no steps"),
        ({"completions": ["x"], "labels": [True]}, "has no question"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, row, why):
    found, reader = read(tmp_path, GOOD, GOOD, row)
    assert len(found) == 2
    assert why in reader.problems[0]
    with pytest.raises(DataError, match="line 3"):
        read(tmp_path, GOOD, GOOD, row, bad_rows="refuse")


def test_other_files_are_no_steps(tmp_path):
    with pytest.raises(DataError, match=r"holds no judged steps: its keys are \['chosen', 'prompt', 'rejected'\]"):
        read(tmp_path, {"prompt": "Q?", "chosen": "a", "rejected": "b"})
    with pytest.raises(DataError, match="the small world has pairs of answers and no judged steps"):
        list(StepReader(PreferenceWorldSource()))
