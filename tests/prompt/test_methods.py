"""The four methods with partners that are known: what they ask, what they make of it, and where rows say that they come from."""

import json

import pytest

from dunwu.chat.scripted import Answer, ScriptedChat
from dunwu.core.errors import DataError, RecipeError
from dunwu.core.recipe import SftFileSource
from dunwu.corpus.instructions import InstructionReader
from dunwu.prompt.making.documents import FromDocuments
from dunwu.prompt.making.evolve import Evolve
from dunwu.prompt.making.how import How, holds_schema
from dunwu.prompt.making.passages import read_passages
from dunwu.prompt.making.run import MOST_EMPTY_ROUNDS, Wanted, make_data
from dunwu.prompt.making.seeds import read_seeds
from dunwu.prompt.making.self_instruct import SelfInstruct
from dunwu.prompt.making.unnatural import Unnatural

from .oracle import Oracle, as_json, labelled, write_world
from .partners import SEEDS, TASKS, partner


def seeds_file(folder, rows=SEEDS):
    file = folder / "seeds.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return file


def made(maker, how, chat, out, rows=20):
    summary = make_data(maker, how, chat, Wanted(out=out, rows=rows, model=chat.name))
    lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()] if out.exists() else []
    assert len(lines) == summary.rows
    if lines:  # whatever is written can be learned from
        assert len(list(InstructionReader(SftFileSource(path=str(out), bad_rows="refuse")))) == len(lines)
    return summary, lines


def turns(row):
    return row["messages"][0]["content"], row["messages"][1]["content"]


@pytest.mark.parametrize(("language", "form"), [("en", labelled), ("en", as_json), ("zh", labelled)])
def test_pairs_of_documents_are_true_though_the_model_lies(tmp_path, language, form):
    docs = write_world(tmp_path / "docs", language)
    passages = read_passages(docs)
    assert passages.language == language
    oracle, how = Oracle(language, lies=0.3, form=form), How(language=language)
    summary, rows = made(
        FromDocuments(passages=passages, how=how), how, oracle.chat(), tmp_path / "made.jsonl", rows=500
    )
    assert oracle.lied > 8
    assert len(rows) > 20
    assert all(oracle.is_right(*turns(row)) for row in rows)
    assert sum(summary.dropped.get(reason, 0) for reason in ("not_in_passage", "not_supported")) >= oracle.lied - 3
    assert summary.ended == "every document was asked about"
    for row in rows[:5]:
        told = row["provenance"]
        text = (docs / told["document"]).read_text("utf-8")
        passage = next(one for one in passages.passages if one.hash == told["passage"])
        assert text[told["place"]["start"] : told["place"]["end"]] == passage.text
        assert told["method"] == "qa"
        assert told["model"] == "oracle"
        assert told["prompt"].startswith(f"pairs/{language}/")
        assert len(told["request"]) == 12


def test_without_a_second_look_words_alone_let_some_lies_pass(tmp_path):
    """The look is worth its tokens: what words cannot tell, it does."""
    passages = read_passages(write_world(tmp_path / "docs", "en", pages=60))
    counts = {}
    for check in ("none", "words", "both"):
        oracle, how = Oracle("en", lies=0.5), How(language="en")
        maker = FromDocuments(passages=passages, how=how, check=check)
        _, rows = made(maker, how, oracle.chat(), tmp_path / f"{check}.jsonl", rows=500)
        counts[check] = sum(not oracle.is_right(*turns(row)) for row in rows)
    assert counts["none"] > counts["words"] > counts["both"] == 0


def test_rows_can_show_their_passage(tmp_path):
    passages = read_passages(write_world(tmp_path / "docs", "en", pages=4))
    how = How(language="en")
    maker = FromDocuments(passages=passages, how=how, with_passage=True)
    _, rows = made(maker, how, Oracle("en").chat(), tmp_path / "made.jsonl")
    shown = {one.hash: one.text for one in passages.passages}
    assert rows
    assert all(turns(row)[0].startswith(shown[row["provenance"]["passage"]] + "\n\n") for row in rows)


def test_the_schema_goes_with_each_question_that_has_one(tmp_path):
    passages = read_passages(write_world(tmp_path / "docs", "en", pages=4))
    how, chat = How(language="en", structured=True), Oracle("en", form=as_json).chat()
    _, rows = made(FromDocuments(passages=passages, how=how), how, chat, tmp_path / "made.jsonl")
    assert rows
    kinds = {next(iter(options.schema["properties"])) for options in chat.options}
    assert kinds == {"pairs", "verdict"}


@pytest.mark.parametrize("structured", [False, True])
def test_self_instruct_makes_tasks_of_seeds(tmp_path, structured):
    seeds = read_seeds(seeds_file(tmp_path), at_least=1)
    how, chat = How(language="en", structured=structured), partner("self-instruct")
    summary, rows = made(SelfInstruct(seeds=seeds, how=how), how, chat, tmp_path / "made.jsonl", rows=40)
    assert len(rows) == 40
    assert summary.ended == "all that were wanted"
    assert {"beyond_text", "write_a_program", "same_input_again"} <= set(summary.dropped)
    first = [messages[-1].content for messages in chat.asked[:2]]
    assert all(text.count("\n") >= 5 for text in first)  # six seeds; nothing was made yet
    labels = [row for row in rows if "Decide" in turns(row)[0]]
    assert labels
    assert {turns(row)[1] for row in labels} == {"keep", "drop"}
    own = {seed["instruction"] for seed in SEEDS}
    assert not own & {turns(row)[0] for row in rows}
    later = [row["provenance"]["parents"] for row in rows[-5:]]
    assert any(
        not parent.startswith("seeds.jsonl") for parents in later for parent in parents
    )  # made ones are shown too


@pytest.mark.parametrize("structured", [False, True])
def test_unnatural_instructions_have_inputs_constraints_and_paraphrases(tmp_path, structured):
    seeds = read_seeds(seeds_file(tmp_path), at_least=3)
    assert seeds.seeds[4].constraints == "No more than five words."
    how, chat = How(language="en", structured=structured), partner("unnatural")
    maker = Unnatural(seeds=seeds, how=how, paraphrases=2)
    summary, rows = made(maker, how, chat, tmp_path / "made.jsonl", rows=30)
    assert len(rows) == 30
    assert summary.dropped["unreadable_reply"] > 0
    assert all(turns(row)[0].endswith("\n\nIn one line.") for row in rows)
    said = [row for row in rows if "paraphrase" in row["provenance"]]
    assert len(said) >= 15
    whole = {row["provenance"]["request"]: turns(row)[1] for row in rows if "paraphrase" not in row["provenance"]}
    assert all(
        turns(row)[1] == whole[row["provenance"]["request"]] for row in said if row["provenance"]["request"] in whole
    )
    greedy = [
        options.temperature
        for messages, options in zip(chat.asked, chat.options, strict=True)
        if "Here are" not in messages[-1].content and "Say the" not in messages[-1].content
    ]
    assert set(greedy) == {0.0}


def test_evolved_instructions_keep_to_the_elimination_rules(tmp_path):
    seeds = read_seeds(seeds_file(tmp_path, TASKS), at_least=1)
    how, chat = How(language="en"), partner("evolve")
    summary, made_rows = made(Evolve(seeds=seeds, how=how, generations=4), how, chat, tmp_path / "made.jsonl", rows=500)
    assert summary.ended == "every generation is done"
    assert {"no_information_gain", "refusal", "copies_prompt"} <= set(summary.dropped)
    assert not any("Sorry" in turns(row)[1] or "#Rewritten" in turns(row)[0] for row in made_rows)
    assert not any(turns(row)[0].endswith("Mention the year 1848.") for row in made_rows)
    told = [row["provenance"] for row in made_rows]
    assert {one["generation"] for one in told} == {1, 2, 3, 4}
    assert {"breadth"} < {one["operation"] for one in told}
    by_answer = {one["instruction"]: row for one, row in zip(told, made_rows, strict=True)}
    deeper = [
        one
        for one in told
        if one["generation"] > 1 and one["parents"][0] in by_answer and one["operation"] != "breadth"
    ]
    assert deeper  # the evolved one is the next one's parent
    for one in deeper:
        assert turns(by_answer[one["instruction"]])[0].startswith(turns(by_answer[one["parents"][0]])[0])


def test_chinese_seeds_are_asked_in_chinese(tmp_path):
    rows = [{"instruction": f"请写一首关于{thing}的短诗，四行。", "output": "好"} for thing in "山水风雪"]
    seeds = read_seeds(seeds_file(tmp_path, rows), at_least=1)
    assert seeds.language == "zh"
    how = How(language=seeds.language)
    chat = ScriptedChat(
        lambda messages: (
            "9、请比较春天和秋天的天气，各说两点。"
            if "一些任务" in messages[-1].content
            else "输入：无\n输出：春天暖，秋天凉。"
        )
    )
    _, made_rows = made(SelfInstruct(seeds=seeds, how=how), how, chat, tmp_path / "made.jsonl", rows=1)
    assert turns(made_rows[0]) == ("请比较春天和秋天的天气，各说两点。", "春天暖，秋天凉。")


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ("", "unreadable_reply"),
        ("<!DOCTYPE html><html><body>Log in</body></html>", "unreadable_reply"),
        ("blah " * 20, "unreadable_reply"),
        (Answer(text="Q: Who owns the lamp?\nA: " + "Anna " * 400), "cut_off"),
        ("Q: Who owns the lamp?\nA: I'm sorry, but I cannot say.", "refusal"),
        ("Q: What does the passage say?\nA: Something about it.", "names_passage"),
        ("Q: 谁拥有这盏台灯呢？\nA: 安娜拥有这盏台灯。", "other_language"),
    ],
)
def test_a_model_that_answers_badly_makes_no_row_and_the_reason_is_counted(tmp_path, says, reason):
    passages = read_passages(write_world(tmp_path / "docs", "en", pages=6))
    how, chat = How(language="en"), ScriptedChat(lambda messages: says)
    summary, rows = made(FromDocuments(passages=passages, how=how), how, chat, tmp_path / "made.jsonl")
    assert rows == []
    assert set(summary.dropped) == {reason}
    assert summary.samples[reason]
    assert not (tmp_path / "made.jsonl").exists()


def test_a_model_that_repeats_itself_is_left_after_some_rounds(tmp_path):
    seeds = read_seeds(seeds_file(tmp_path), at_least=1)
    how = How(language="en")
    chat = ScriptedChat(
        lambda messages: (
            "7. Name a fish that lives in cold rivers."
            if "Here are" in messages[-1].content
            else "Input: none\nOutput: trout"
        )
    )
    summary, rows = made(SelfInstruct(seeds=seeds, how=how), how, chat, tmp_path / "made.jsonl", rows=50)
    assert len(rows) == 1
    assert summary.ended == f"nothing new in the last {MOST_EMPTY_ROUNDS} rounds"
    assert summary.dropped["near_duplicate_question"] == 2 * MOST_EMPTY_ROUNDS + 1


def test_whether_a_partner_holds_a_schema_is_tried():
    assert holds_schema(ScriptedChat(['{"n": 7}']))
    assert not holds_schema(ScriptedChat(["Seven, I think."]))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"text": "a book"}\n', "in no known instruction format"),
        ("not json\n", "is no instruction file"),
        ("", "it is empty"),
        (
            '{"instruction": "One task alone, for a test.", "output": "x"}\n',
            "holds 1 tasks that differ; give at least 3",
        ),
    ],
)
def test_seeds_that_are_none_are_refused(tmp_path, content, says):
    (tmp_path / "seeds.jsonl").write_text(content)
    with pytest.raises(DataError, match=says):
        read_seeds(tmp_path / "seeds.jsonl", at_least=3)


def test_seeds_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist; give a"):
        read_seeds(tmp_path / "no.jsonl", at_least=1)


def test_settings_out_of_range_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="rows=0"):
        Wanted(out=tmp_path / "x", rows=0, model="m")
    with pytest.raises(RecipeError, match="similar=2"):
        Wanted(out=tmp_path / "x", rows=1, model="m", similar=2)
    with pytest.raises(RecipeError, match="max_tokens=2"):
        How(language="en", answer_tokens=2)
