"""Preference files give their chosen side, and only the answer that was judged is learned."""

import json

import pytest

from dunwu.core.recipe import SftFileSource
from dunwu.corpus.instructions import InstructionReader

HUMAN, AI = "\n\nHuman: ", "\n\nAssistant: "


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def read(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    reader = InstructionReader(SftFileSource(path=str(path)))
    return list(reader), reader


def said(example):
    return [message.content for message in example.messages]


ONE = ["Q", "good"]
TWO = ["Q", "A", "Q2", "good"]


@pytest.mark.parametrize(
    ("row", "texts", "only_read"),
    [
        ({"prompt": "Q", "chosen": "good", "rejected": "bad"}, ONE, []),
        ({"question": "Q", "chosen": "good", "rejected": "bad"}, ONE, []),
        ({"instruction": "Q", "input": "", "chosen": "good", "rejected": "bad"}, ONE, []),
        ({"instruction": "Q", "input": "I", "chosen": "good", "rejected": "bad"}, ["Q\n\nI", "good"], []),
        ({"system": "S", "prompt": "Q", "chosen": "good", "rejected": "bad"}, ["S", *ONE], []),
        ({"prompt": [user("Q")], "chosen": [assistant("good")], "rejected": [assistant("bad")]}, ONE, []),
        (
            {"prompt": [user("Q"), assistant("A"), user("Q2")], "chosen": [assistant("good")], "rejected": [assistant("bad")]},
            TWO,
            [1],
        ),
        ({"chosen": [user("Q"), assistant("good")], "rejected": [user("Q"), assistant("bad")]}, ONE, []),
        (
            {"prompt": "Q", "chosen": [user("Q"), assistant("good")], "rejected": [user("Q"), assistant("bad")], "score_chosen": 9.0},
            ONE,
            [],
        ),
        ({"chosen": f"{HUMAN}Q{AI}good", "rejected": f"{HUMAN}Q{AI}bad"}, ONE, []),
        ({"chosen": f"{HUMAN}Q{AI}A{HUMAN}Q2{AI}good", "rejected": f"{HUMAN}Q{AI}A{HUMAN}Q2{AI}bad"}, TWO, [1]),
        ({"chosen": f"{HUMAN}Q{AI}good{HUMAN}Q2{AI}better", "rejected": f"{HUMAN}Q{AI}bad"}, ["Q", "good", "Q2", "better"], []),
        ({"prompt": f"{HUMAN}Q{AI}A{HUMAN}Q2{AI}", "chosen": " good", "rejected": " bad"}, ["Q", "A", "Q2", " good"], [1]),
        (
            {"conversations": [{"from": "human", "value": "Q"}], "chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"}},
            ONE,
            [],
        ),
        ({"instruction": "Q", "output_1": "good", "output_2": "bad", "preference": 1.02}, ONE, []),
        ({"instruction": "Q", "output_1": "bad", "output_2": "good", "preference": 1.9}, ONE, []),
        (
            {"instruction": "Q", "completions": [{"response": "bad", "overall_score": 6.5}, {"response": "good", "overall_score": 8}, {"response": "x"}]},
            ONE,
            [],
        ),
        ({"prompt": "Q", "completion": "good", "label": True}, ONE, []),
        ({"messages": [user("Q"), assistant("A"), user("Q2"), assistant("good")], "label": True}, TWO, [1]),
        ({"messages": [user("Q"), assistant("good")], "kto_tag": True}, ONE, []),
    ],
)  # fmt: skip
def test_the_chosen_side_is_read(tmp_path, row, texts, only_read):
    (example, again), _ = read(tmp_path, row, row)
    assert said(example) == said(again) == texts
    assert sorted(example.only_read) == only_read
    assert example.messages[-1].role == "assistant"


def test_rows_whose_answer_nobody_wants_are_counted_apart_from_bad_ones(tmp_path):
    bad = {"prompt": "Q", "completion": "bad", "label": False}
    examples, reader = read(tmp_path, {"prompt": "Q", "completion": "good", "label": True}, bad, bad)
    assert [said(example) for example in examples] == [ONE]
    assert (dict(reader.not_wanted), dict(reader.dropped)) == ({"an answer labelled as not wanted": 2}, {})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": "good", "rejected": "bad"}, "has no question"),
        ({"prompt": "Q", "chosen": "", "rejected": "bad"}, "has an empty answer"),
        ({"prompt": "Q", "chosen": None, "rejected": "bad"}, "has something that is no text"),
        ({"chosen": f"{HUMAN}Q", "rejected": f"{HUMAN}Q{AI}bad"}, "does not end with an answer"),
    ],
)
def test_bad_rows_of_preferences(tmp_path, row, reason):
    examples, reader = read(tmp_path, {"prompt": "Q", "chosen": "good", "rejected": "bad"}, row)
    assert len(examples) == 1
    assert dict(reader.dropped) == {reason: 1}


@pytest.mark.parametrize("verdict", [None, "first", 3, True])
def test_a_judged_pair_without_a_verdict_is_a_bad_row(tmp_path, verdict):
    good = {"instruction": "Q", "output_1": "good", "output_2": "bad", "preference": 1}
    examples, reader = read(tmp_path, good, {**good, "preference": verdict}, {**good, "preference": 1.5})
    assert len(examples) == 1
    assert dict(reader.dropped) == {"has no verdict": 1}
    assert dict(reader.not_wanted) == {"a verdict that prefers neither answer": 1}
