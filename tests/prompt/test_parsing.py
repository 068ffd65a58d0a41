"""What models write, well and badly, and what is read in it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.prompt.making import parsing
from dunwu.prompt.making.documents import read_pairs
from dunwu.prompt.making.english import ENGLISH

KEYS = ["question", "answer"]
PAIR = {"question": "Who?", "answer": "Ann."}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"pairs": [PAIR, PAIR]}),
        json.dumps([PAIR, PAIR]),
        f"Sure! Here you are:\n```json\n{json.dumps({'pairs': [PAIR, PAIR]}, indent=2)}\n```\nEnjoy.",
        f'{{"pairs": [{json.dumps(PAIR)}, {json.dumps(PAIR)}, {{"question": "And wh',  # cut off
        '{"pairs": [{"question": "Who?", "answer": "Ann.",}, {"Question": "Who?", "Answer": "Ann."},]}',  # trailing commas, capitals
        f'{{"data": {{"result": [{json.dumps(PAIR)}]}}}} {json.dumps(PAIR)}',
        '{"question": "Who?", "answer": "Ann."} {oh} {"question": "Who?", "answer": "Ann."}',
    ],
)
def test_objects_in_json_whole_and_half(text):
    assert parsing.objects(text, KEYS) == [PAIR, PAIR]


def test_objects_without_all_keys_are_none():
    assert parsing.objects('{"question": "Who?"} {"question": "Who?", "answer": [1]}', KEYS) == []
    assert parsing.objects('{"question": "How many?", "answer": 7}', KEYS) == [{"question": "How many?", "answer": "7"}]
    assert parsing.objects('{"question": "Line\nbreak", "answer": "x"}', KEYS)[0]["question"] == "Line\nbreak"


def test_a_deep_nest_of_braces_is_read_without_harm():
    assert parsing.objects('{"a":' * 3000, KEYS) == []
    assert parsing.objects("[" * 100_000 + "{" * 100_000, KEYS) == []


@given(st.text(alphabet='{}[]",:\\abq 1\n问：', max_size=200))
@settings(max_examples=300, deadline=None)
def test_nothing_that_a_model_can_write_raises(text):
    parsing.objects(text, KEYS)
    parsing.strings(text, "a")
    parsing.items(text)
    parsing.labelled(text, {"question": ["q", "问"], "answer": ["a"]})
    parsing.yes_or_no(text)
    parsing.unquoted(parsing.cleaned(text))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1. Write a poem.\n2. Add 1.5 and 2.\n3) Say hello", ["Write a poem.", "Add 1.5 and 2.", "Say hello"]),
        ("Here are more tasks:\n\nTask 9: Name a fish.\nTask 10: Name a\nbird.", ["Name a fish.", "Name a\nbird."]),
        ("- Name a fish.\n- Name a bird.", ["Name a fish.", "Name a bird."]),
        ("1. Sort these:\n- pears\n- plums\n2. Count them.", ["Sort these:\n- pears\n- plums", "Count them."]),
        ('**9.** "Name a fish."\n**10.** Name a bird.', ["Name a fish.", "Name a bird."]),
        ("9、写一首诗。\n10、翻译这句话。", ["写一首诗。", "翻译这句话。"]),
        ("任务9：写一首诗。\n任务10：翻译。", ["写一首诗。", "翻译。"]),
        ("No list at all.", []),
        ("", []),
    ],
)
def test_lists(text, wanted):
    assert [item.replace("**", "").strip().strip('"') for item in parsing.items(text)] == wanted


def test_a_list_in_json_that_breaks_off():
    assert parsing.strings('{"tasks": ["one", "two"]}', "tasks") == ["one", "two"]
    assert parsing.strings('{"tasks": ["one", "two", "thr', "tasks") == ["one", "two"]
    assert parsing.strings('{"other": ["one"]}', "tasks") == []


@pytest.mark.parametrize(
    "text",
    [
        "Q: Who?\nA: Ann.\n\nQ: Why?\nA: Because\nshe can.",
        "**Question 1:** Who?\n**Answer:** Ann.\n**Question 2:** Why?\n**Answer:** Because\nshe can.",
        "1. Question: Who?\n   Answer: Ann.\n2. Question: Why?\n   Answer: Because\nshe can.",
        "问题1：Who?\n答案1：Ann.\n问题2：Why?\n答案2：Because\nshe can.",
        "Here they are.\nQ: Who?\nA: Ann.\n---\nQ: Why?\nA: Because\nshe can.",
    ],
)
def test_pairs_with_labels(text):
    pairs, whole = read_pairs(text, ENGLISH.labels)
    assert pairs == [{"question": "Who?", "answer": "Ann."}, {"question": "Why?", "answer": "Because\nshe can."}]
    assert not whole  # the last one may go on


def test_a_pair_without_an_answer_is_none():
    assert read_pairs("Q: Who?\nQ: Why?\nA: Because.", ENGLISH.labels)[0] == [
        {"question": "Why?", "answer": "Because."}
    ]
    assert read_pairs("<html><body>Log in</body></html>", ENGLISH.labels)[0] == []


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Yes.", True),
        ("no", False),
        ("**No**, the passage says otherwise.", False),
        ('{"verdict": "no"}', False),
        ('{"verdict": true}', True),
        ("Answer: yes", True),
        ("Let me look.\nThe passage says so.\nYes", True),
        ("是的。", True),
        ("不是", False),
        ("不能", False),
        ("能", True),
        ("是否如此，很难说", None),
        ("对不起，我不知道", None),
        ("Not at all", False),
        ("Nothing", None),
        ("Yesterday", None),
        ("", None),
        ("<html>", None),
    ],
)
def test_verdicts(text, verdict):
    assert parsing.yes_or_no(text) is verdict


def test_thoughts_and_fences_are_taken_off():
    assert parsing.cleaned("<think>\nQ: no\n</think>\n\nQ: yes") == "Q: yes"
    assert parsing.cleaned("<think>it never ends") == ""
    assert parsing.cleaned('```json\n{"a": 1}\n```') == '{"a": 1}'
    assert parsing.cleaned("```a``` and ```b```") == "```a``` and ```b```"
    assert parsing.unquoted('"“Hello”"') == "Hello"
    assert parsing.unquoted('"a" and "b"') == '"a" and "b"'
    assert parsing.unquoted("**Bold**") == "Bold"
