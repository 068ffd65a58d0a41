"""Questions with columns: from files in their usual forms, and from the small world, with a part kept out of learning."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwu.core.errors import DataError
from dunwu.core.recipe import PromptFileSource, PromptWorldSource
from dunwu.core.records import Message
from dunwu.corpus.prompts import Prompt, PromptReader, held_out, load_prompt_sets, load_prompts, said_in
from dunwu.corpus.world import world_exam
from dunwu.corpus.world.prompts import practice_questions, watched_questions
from dunwu.evaluate.exam import grade_answer

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def read(tmp_path, *rows, name="rows.jsonl", **settings):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    reader = PromptReader(PromptFileSource(path=str(path), **settings))
    return list(reader), reader


@pytest.mark.parametrize(
    ("row", "asked", "answer"),
    [
        ({"question": "2+2?", "answer": "It is 4.\n#### 4"}, ["2+2?"], "It is 4.\n#### 4"),
        ({"prompt": "2+2?", "tests": "x", "solution": 4}, ["2+2?"], 4),
        ({"prompt": [{"role": "user", "content": "2+2?"}], "answer": "4"}, ["2+2?"], "4"),
        (
            {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]},
            ["2+2?"],
            "4",
        ),
        ({"instruction": "Add.", "input": "2, 2", "output": "4"}, ["Add.\n\n2, 2"], "4"),
        ({"system": "Be brief.", "question": "2+2?", "answer": "4"}, ["Be brief.", "2+2?"], "4"),
        ({"sQuestion": " 2+2? ", "lSolutions": [4.0]}, ["2+2?"], 4.0),
        ({"prompt": "Q?", "chosen": "yes", "rejected": "no", "answer": None}, ["Q?"], None),
        ({"chosen": "\n\nHuman: Q?\n\nAssistant: a", "rejected": "\n\nHuman: Q?\n\nAssistant: b"}, ["Q?"], None),
    ],
)
def test_usual_rows_are_found_by_looking(tmp_path, row, asked, answer):
    (prompt,), _ = read(tmp_path, row)
    assert [message.content for message in prompt.messages] == asked
    assert prompt.columns.get("answer") == answer
    assert {key: prompt.columns[key] for key in row if key != "answer"} == {
        k: v for k, v in row.items() if k != "answer"
    }
    assert prompt.source == "rows.jsonl#1"


def test_a_table_is_rows_too(tmp_path):
    path = tmp_path / "sums.csv.gz"
    path.write_bytes(gzip.compress(b'question;answer;level\n"2+2; quick?";4;1\nbroken;row\n\n3+3?;6;2\n'))
    reader = PromptReader(PromptFileSource(path=str(path)))
    prompts = list(reader)
    assert [(p.messages[-1].content, p.columns["answer"], p.columns["level"]) for p in prompts] == [
        ("2+2; quick?", "4", "1"),
        ("3+3?", "6", "2"),
    ]
    assert reader.dropped.total() == 1
    assert "line 3" in reader.problems[0]


def test_bad_rows_are_counted_and_named(tmp_path):
    prompts, reader = read(
        tmp_path,
        {"question": "ok?"},
        {"question": ""},
        {"query": "other"},
        7,
        {"question": {"a": 1}},
        {"question": "b?"},
    )
    assert [p.messages[-1].content for p in prompts] == ["ok?", "b?"]
    assert reader.kept == 2
    assert reader.dropped.total() == 4
    assert "rows.jsonl, line 2: asks nothing" in reader.problems[0]
    with pytest.raises(DataError, match=r"line 2: .*bad_rows=drop"):
        read(tmp_path, {"question": "ok?"}, {"question": " "}, bad_rows="refuse")


def test_what_asks_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"asks nothing: its keys are \['a'\]; rows need prompt.*prompt=KEY"):
        read(tmp_path, {"a": 1})
    with pytest.raises(DataError, match="does not exist"):
        load_prompts([PromptFileSource(path=str(tmp_path / "none.jsonl"))])
    (tmp_path / "x.pdf").write_text("x")
    with pytest.raises(DataError, match=r"is not \.json"):
        load_prompts([PromptFileSource(path=str(tmp_path / "x.pdf"))])
    with pytest.raises(DataError, match="none of the rows"):
        read(tmp_path, {"a": "1"}, prompt="b")


def test_keys_can_be_named_and_rows_capped(tmp_path):
    rows = [{"Task": f"q{n}?", "gold": n, "answer": "other"} for n in range(10)]
    prompts, _ = read(tmp_path, *rows, prompt="Task", answer="gold", cap=4, system_prompt="Short.")
    assert [p.messages[-1].content for p in prompts] == ["q0?", "q2?", "q5?", "q7?"]
    assert prompts[1].columns["answer"] == 2
    assert prompts[0].messages[0] == Message(role="system", content="Short.")


words = st.text("ab ", min_size=1, max_size=3)


@given(st.lists(words, max_size=40), st.floats(0, 1))
def test_a_prompt_is_on_one_side_alone_whatever_the_order(texts, share):
    prompts = [Prompt((Message(role="user", content=text),), {"n": n}, str(n)) for n, text in enumerate(texts)]
    learned, out = held_out(prompts, share=share)
    out_said = [said_in(prompt.messages) for prompt in out]
    assert not {said_in(prompt.messages) for prompt in learned} & set(out_said)
    assert len(set(out_said)) == len(out_said) == int(len({said_in(p.messages) for p in prompts}) * share)
    again, out_again = held_out(list(reversed(prompts)), share=share)
    assert {said_in(p.messages) for p in out_again} == set(out_said)
    assert [p.source for p in reversed(again)] == [p.source for p in learned]


def test_what_practice_of_the_world_asks_neither_exam_nor_watch_asks():
    source = PromptWorldSource(seed=3, size=0.5, questions=400)
    practice = list(practice_questions(source))
    watched = watched_questions(source, 12, exam_questions=20)
    exam = world_exam(3, ("en", "zh"), 20, size=0.5)
    asked = [{(q.kind, q.combination) for q in questions} for questions in (practice, watched, exam)]
    assert len(practice) > 390
    assert len({q.messages[0].content for q in practice}) == len(practice)
    assert not asked[0] & asked[1]
    assert not asked[0] & asked[2]
    assert not asked[1] & asked[2]
    assert {q.kind for q in watched} == {q.kind for q in practice}
    assert all(grade_answer(q.grade, q.answer) for q in (*practice, *watched))
    assert practice == list(practice_questions(source))


def test_sets_keep_a_part_of_every_source_out(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"question": f"q{n % 50}?"}) + "\n" for n in range(100)) + "broken\n")
    sets = load_prompt_sets(
        [PromptFileSource(path=str(path)), PromptWorldSource(size=0.3, questions=60)], exam_questions=20
    )
    learned, out = ({said_in(p.messages) for p in side} for side in (sets.learned, sets.held_out))
    assert not learned & out
    assert sum(p.source.startswith("q.jsonl") for p in sets.held_out) == 5
    assert any(p.source.startswith("world/0/watched") for p in sets.held_out)
    assert sets.facts["bad_rows"] == {"is not valid JSON": 1}
    assert sets.facts["prompts"] == len(sets.learned)


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not beside the checkout")
@pytest.mark.parametrize(
    ("file", "rows", "first"),
    [
        ("eval_gsm8k/train_5000.jsonl.gz", 5000, "#### 72"),
        ("eval_cot_suite/AddSub.json.gz", 395, "43"),
        ("eval_cot_suite/MultiArith.json.gz", 600, "39.0"),
    ],
)
def test_real_files_work_at_once(file, rows, first):
    prompts = load_prompts([PromptFileSource(path=str(DATA / file))])
    assert len(prompts) == rows
    assert str(prompts[0].columns["answer"]).endswith(first)
