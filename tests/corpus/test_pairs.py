"""Files of preferences in their usual forms give one record, and what cannot be used is named."""

import json
import math
from pathlib import Path

import pytest

from dunwu.core.errors import DataError
from dunwu.core.recipe import PreferenceSource, PreferenceWorldSource
from dunwu.corpus.pairs import PreferenceReader
from dunwu.corpus.world.preferences import world_preferences

HUMAN, AI = "\n\nHuman: ", "\n\nAssistant: "
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def read(tmp_path, *rows, **settings):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    reader = PreferenceReader(PreferenceSource(path=str(path), **settings))
    return list(reader), reader


def said(messages):
    return None if messages is None else [message.content for message in messages]


GOOD = {"prompt": "Q?", "chosen": "yes", "rejected": "no"}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        (GOOD, ["Q?"]),
        ({"prompt": [user("Q?")], "chosen": [assistant("yes")], "rejected": [assistant("no")]}, ["Q?"]),
        ({"chosen": [user("Q?"), assistant("yes")], "rejected": [user("Q?"), assistant("no")]}, ["Q?"]),
        ({"prompt": "Q?", "chosen": [user("Q?"), assistant("yes")], "rejected": [user("Q?"), assistant("no")]}, ["Q?"]),
        ({"chosen": f"{HUMAN}A{AI}B{HUMAN}Q?{AI}yes", "rejected": f"{HUMAN}A{AI}B{HUMAN}Q?{AI}no"}, ["A", "B", "Q?"]),
        (
            {
                "conversations": [{"from": "human", "value": "Q?"}],
                "chosen": {"from": "gpt", "value": "yes"},
                "rejected": {"from": "gpt", "value": "no"},
            },
            ["Q?"],
        ),
        ({"system": "S", **GOOD}, ["S", "Q?"]),
        ({"instruction": "Q?", "output_1": "no", "output_2": "yes", "preference": 2}, ["Q?"]),
        (
            {
                "instruction": "Q?",
                "completions": [
                    {"response": "hm", "overall_score": 5},
                    {"response": "no", "overall_score": "1.5"},
                    {"response": "yes", "overall_score": 9},
                ],
            },
            ["Q?"],
        ),
        ({"prompt": "Q?", "chosen": "yes</s>", "rejected": "no<|im_end|>"}, ["Q?"]),
    ],
    ids=["trl", "trl messages", "implicit", "both", "hh", "llamafactory", "system", "judged", "scored", "end markers"],
)
def test_all_forms_give_one_record(tmp_path, row, prompt):
    (found,), reader = read(tmp_path, row)
    assert (said(found.prompt), said(found.chosen), said(found.rejected)) == (prompt, ["yes"], ["no"])
    assert (reader.kept, found.source, found.is_pair) == (1, "rows.jsonl#1", True)


def test_labelled_answers_have_one_side(tmp_path):
    rows = [
        {"prompt": "Q?", "completion": "yes", "label": True},
        {"messages": [user("A"), assistant("B"), user("Q?"), assistant("no")], "kto_tag": False},
    ]
    (good, bad), _ = read(tmp_path, *rows)
    assert (said(good.prompt), said(good.chosen), good.rejected) == (["Q?"], ["yes"], None)
    assert (said(bad.prompt), bad.chosen, said(bad.rejected)) == (["A", "B", "Q?"], None, ["no"])
    assert not bad.is_pair


def test_sides_of_several_turns_part_where_they_differ(tmp_path):
    chosen = [user("Q?"), assistant("yes"), user("sure?"), assistant("quite")]
    rejected = [user("Q?"), assistant("no"), user("sure?"), assistant("quite")]
    (found,), _ = read(tmp_path, {"chosen": chosen, "rejected": rejected})
    assert (said(found.prompt), said(found.chosen)) == (["Q?"], ["yes", "sure?", "quite"])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**GOOD, "rejected": "yes"}, "has two equal answers"),
        ({**GOOD, "rejected": " "}, "has an empty answer"),
        ({**GOOD, "chosen": ""}, "has an empty answer"),
        ({**GOOD, "prompt": ""}, "has an empty question"),
        ({"chosen": [user("A"), assistant("x")], "rejected": [user("B"), assistant("y")]}, "has two different prompts"),
        (
            {"chosen": [user("A"), assistant("x")], "rejected": [user("A"), assistant("x"), user("B"), assistant("y")]},
            "has an empty answer",
        ),
        ({"chosen": [user("A")], "rejected": [user("A"), assistant("y")]}, "does not end with an answer"),
        ({**GOOD, "chosen": 7}, "has something that is no text"),
    ],
)
def test_what_cannot_be_used_is_named_and_dropped_or_refused(tmp_path, row, reason):
    found, reader = read(tmp_path, GOOD, row)
    assert len(found) == 1
    assert dict(reader.dropped) == {reason: 1}
    assert "rows.jsonl, line 2" in reader.problems[0]
    with pytest.raises(DataError, match=r"line 2: .*mend the row, or set bad_rows=drop"):
        read(tmp_path, GOOD, row, bad_rows="refuse")


def test_what_prefers_nothing_is_counted(tmp_path):
    judged = {"instruction": "Q?", "output_1": "a", "output_2": "b", "preference": 1}
    found, reader = read(tmp_path, judged, {**judged, "preference": 1.5})
    assert (len(found), dict(reader.not_wanted)) == (1, {"a verdict that prefers neither answer": 1})


@pytest.mark.parametrize("row", [{"prompt": "a", "completion": "b"}, {"text": "a"}, 3])
def test_a_file_without_preferences_is_refused(tmp_path, row):
    with pytest.raises(DataError, match="holds no preferences: its keys are"):
        read(tmp_path, row)


def test_a_file_of_bad_rows_alone_is_refused_with_the_first(tmp_path):
    with pytest.raises(DataError, match=r"none of the rows could be used.*line 1: has two equal answers"):
        read(tmp_path, {**GOOD, "rejected": "yes"})


def test_a_missing_file_names_the_key(tmp_path):
    with pytest.raises(DataError, match=r"prefer\.sources\[\]\.path"):
        list(PreferenceReader(PreferenceSource(path=str(tmp_path / "none.jsonl"))))


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here")
@pytest.mark.parametrize(
    ("file", "kept", "pairs"),
    [
        ("pref_hh_rlhf/harmless_base_test.jsonl.gz", 1838, 1838),
        ("pref_llamafactory_demo/dpo_zh_demo.json.gz", 300, 300),
        ("pref_llamafactory_demo/kto_en_demo.json.gz", 300, 0),
    ],
)
def test_published_files_are_read(file, kept, pairs):
    found = list(PreferenceReader(PreferenceSource(path=str(DATA / file))))
    assert (len(found), sum(one.is_pair for one in found)) == (kept, pairs)


def graded(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    reader = PreferenceReader(PreferenceSource(path=str(path)), key="reward", graded=True)
    return list(reader), reader


def test_by_how_much_an_answer_is_better_is_read_where_it_is_asked_for(tmp_path):
    rows = [{**GOOD, "margin": 1.5}, GOOD, {**GOOD, "margin": None}, {**GOOD, "margin": 0}]
    found, _ = graded(tmp_path, *rows)
    assert [one.margin for one in found] == [1.5, None, None, 0.0]
    assert [one.margin for one in read(tmp_path, *rows)[0]] == [None] * 4


@pytest.mark.parametrize("margin", [math.nan, math.inf, -1, "big", True])
def test_a_margin_that_is_none_is_named(tmp_path, margin):
    found, reader = graded(tmp_path, GOOD, {**GOOD, "margin": margin})
    assert len(found) == 1
    assert reader.dropped == {"has a margin that is no number from 0 on": 1}
    assert "line 2" in reader.problems[0]


@pytest.mark.parametrize(
    "row",
    [
        {**GOOD, "tie": True},
        {"instruction": "Q?", "output_1": "yes", "output_2": "no", "preference": 1.5},
        {"instruction": "Q?", "completions": [{"response": text, "overall_score": 3} for text in ("yes", "no", "hm")]},
    ],
)
def test_ties_are_read_where_they_are_asked_for(tmp_path, row):
    (found,), _ = graded(tmp_path, row)
    assert found.tie
    assert (said(found.chosen), said(found.rejected)) == (["yes"], ["no"])
    with pytest.raises(DataError, match="none of the rows could be used"):
        read(tmp_path, row)


def test_the_small_world_is_a_source():
    source = PreferenceWorldSource(pairs=20)
    reader = PreferenceReader(source)
    assert list(reader) == list(world_preferences(source))
    assert (reader.kept, reader.formats, reader.folder) == (20, {"the small world": "made up"}, Path())
