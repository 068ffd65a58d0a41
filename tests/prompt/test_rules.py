"""Each rule drops what it is for, and leaves what looks alike."""

import gzip
import json
from collections import Counter
from dataclasses import replace

import pytest

from dunwu.corpus.decontaminate import build_index
from dunwu.prompt.making.rules import RULES, Candidate, broken_rule, grounded
from dunwu.prompt.making.sieve import Sieve
from tests.corpus.document_files import SHARED

CMRC = SHARED / "zh_cmrc2018" / "cmrc2018_trial.json.gz"
GOOD = "Explain in two sentences why the sky is blue at noon."
ANSWER = "Air scatters short waves more than long ones. So blue light reaches us from all sides."
LOOP = "and then it went on " * 12

QUESTIONS = [
    ("empty_question", "self-instruct", "?!", "Why?  Say it in a few words."),
    ("page_of_html", "qa", "<!DOCTYPE html><html><h1>Log in</h1></html>", "What does the tag <html> begin?"),
    ("garbled", "qa", "What is \ufffd\ufffd about here?", "What is naïve about it?"),
    ("garbled", "qa", "What is \ud83d about here?", "What is 😀 about here?"),
    ("short_question", "self-instruct", "Write a poem", "Write a short poem about rain"),
    ("short_question", "self-instruct", "翻译句子", "水有什么特性？"),
    ("short_question", "qa", "Who?", "Who won?"),
    ("long_question", "self-instruct", "word " * 151, "word " * 150),
    ("long_question", "evolve", "word " * 601, "word " * 600),
    (
        "beyond_text",
        "self-instruct",
        "Describe what you see in the picture.",
        "Describe a picturesque village in words.",
    ),
    ("beyond_text", "self-instruct", "请描述这张图片里的内容和颜色。", "请描述一下秋天的景色和颜色。"),
    ("write_a_program", "self-instruct", "Write a program that sorts numbers.", "Write a function that sorts numbers."),
    (
        "odd_beginning",
        "self-instruct",
        ", and then explain the reason for it",
        '"Carpe diem": explain what this phrase means',
    ),
    (
        "copies_prompt",
        "evolve",
        "#Rewritten Prompt#: explain why grass is green",
        "Explain why a prompt reply matters in business",
    ),
    ("copies_prompt", "evolve", "这是改写后的指令：解释为什么草是绿色的", "请把下面这段话改写得更通顺一些"),
    (
        "copies_prompt",
        "self-instruct",
        "Explain rain <|im_end|> to a child of five",
        "Explain what a <b> tag does in a page",
    ),
    ("names_passage", "qa", "What does the passage say about rain?", "Which mountain passage did Hannibal take?"),
    ("names_passage", "qa", "根据上文，谁拥有台灯？", "谁拥有这盏台灯？"),
    ("other_language", "qa", "谁拥有这盏台灯呢？", "Who wrote the poem 静夜思 in the year 726?"),
    (
        "other_language",
        "qa",
        "Wie heißt die Hauptstadt von Frankreich, und warum liegt sie ausgerechnet dort an der Seine?",
        GOOD,
    ),
]
ANSWERS = [
    ("empty_answer", "qa", GOOD, "N/A", "No."),
    ("other_language_answer", "evolve", GOOD, "因为空气把短波的光散射得比长波的光多，所以天空看起来是蓝色的。", ANSWER),
    ("refusal", "evolve", GOOD, "I'm sorry, but I can't do that.", "Sorrel is a plant with sour leaves."),
    ("refusal", "evolve", "Say something.", "Sorry.", "Gladly."),
    ("refusal", "qa", GOOD, "The passage does not say.", "The passage of light through air does not."),
    ("refusal", "evolve", "请解释为什么天空是蓝色的。", "抱歉，我无法回答这个问题。", "因为空气散射蓝光。"),
    ("only_stop_words", "evolve", GOOD, "It is the... and so on.", "Rayleigh."),
    ("only_stop_words", "evolve", GOOD, "?!", "A"),
    ("repeats_question", "evolve", GOOD, "Explain in two sentences why the sky is blue at noon?", ANSWER),
    (
        "repeats_question",
        "evolve",
        "What is 7% of $1,000 in two years?",
        "What is 7% of $1,000 in two years",
        "7% of $1,000 in two years is $140.",
    ),
    ("goes_round", "evolve", GOOD, LOOP, ANSWER),
]


@pytest.mark.parametrize(("name", "method", "bad", "good"), QUESTIONS)
def test_rules_of_questions(name, method, bad, good):
    language = "zh" if "\u4e00" <= (good if name == "other_language" else bad)[0] <= "\u9fff" else "en"
    answer = "An answer of no importance." if language == "en" else "没有什么要紧的回答。"
    assert broken_rule(Candidate(question=bad, answer=answer, language=language), method, "question") == name
    assert broken_rule(Candidate(question=good, answer=answer, language=language), method, "question") is None


@pytest.mark.parametrize(("name", "method", "question", "bad", "good"), ANSWERS)
def test_rules_of_answers(name, method, question, bad, good):
    language = "zh" if question[0] == "请" else "en"
    assert broken_rule(Candidate(question=question, answer=bad, language=language), method, "answer") == name
    assert broken_rule(Candidate(question=question, answer=good, language=language), method, "answer") is None


def test_an_answer_that_was_cut_goes():
    assert broken_rule(Candidate(question=GOOD, answer=ANSWER, finished=False), "qa", "answer") == "cut_off"


def test_an_apology_may_be_what_was_asked_for():
    asked = "Write one line in which you apologise to a friend."
    assert broken_rule(Candidate(question=asked, answer="I owe you one: sorry, Ann!"), "evolve", "answer") is None
    assert broken_rule(Candidate(question=GOOD, answer="It is blue, sorry!"), "evolve", "answer") == "refusal"


def test_sums_code_and_lists_have_no_language():
    chinese = Candidate(
        question="将三个乘法事实添加到列表中。", language="zh", answer="10 x 6 = 60\n11 x 8 = 88\n12 x 5 = 60\nx y z"
    )
    assert broken_rule(chinese, "self-instruct", "answer") is None
    query = replace(
        chinese, answer="SELECT name, surname FROM customers WHERE customers.age > 30 ORDER BY name, surname;"
    )
    assert broken_rule(query, "self-instruct", "answer") is None
    prose = replace(
        chinese, answer="The product of ten and six is sixty, and that of eleven and eight is eighty-eight."
    )
    assert broken_rule(prose, "self-instruct", "answer") == "other_language_answer"


def test_what_people_wrote_of_real_passages_passes_and_what_belongs_elsewhere_does_not():
    """CMRC 2018: Chinese passages, with questions and answers by people."""
    if not CMRC.exists():
        pytest.skip("the data of CMRC 2018 are not beside this repository")
    with gzip.open(CMRC, "rt", encoding="utf-8") as file:
        articles = json.load(file)["data"]
    rows = [
        (paragraph["context"], pair["question"], pair["answers"][0]["text"])
        for article in articles
        for paragraph in article["paragraphs"]
        for pair in paragraph["qas"]
        if pair["answers"] and pair["answers"][0]["text"]
    ]
    assert len(rows) > 900
    faults = Counter[str | None]()
    for passage, question, answer in rows:
        one = Candidate(question=question, answer=answer, passage=passage, language="zh")
        faults[broken_rule(one, "qa", "question") or broken_rule(one, "qa", "answer")] += 1
    assert faults[None] > 0.99 * len(rows), faults
    others = [(row, rows[(place + 101) % len(rows)][2]) for place, row in enumerate(rows)]
    strange = [(row, answer) for row, answer in others if answer not in row[0]]
    held = sum(grounded(answer, question, passage) for (passage, question, _), answer in strange)
    assert held < 0.03 * len(strange)


def test_a_translation_may_be_in_another_language():
    asked = Candidate(
        question="Translate this into Chinese: the sky is blue because air scatters short waves.",
        answer="天空是蓝色的，因为空气散射短波的光，散射得比长波多得多。",
    )
    assert broken_rule(asked, "self-instruct", "question") is None
    assert broken_rule(asked, "self-instruct", "answer") is None


def test_where_the_row_shows_the_passage_its_question_may_name_it():
    question = "What does the passage say about rain?"
    assert broken_rule(Candidate(question=question, shown=f"It rains.\n\n{question}"), "qa", "question") is None


@pytest.mark.parametrize(
    ("answer", "question", "passage", "held"),
    [
        ("It cost 1,250 coins.", "What did the lamp cost?", "The lamp was sold for 1250 coins.", True),
        ("It cost 1,300 coins.", "What did the lamp cost?", "The lamp was sold for 1250 coins.", False),
        ("Ben owns the lamp.", "Who owns the lamp?", "The lamp belongs to Ben.", True),
        ("Anna owns the lamp.", "Who owns the lamp?", "The lamp belongs to Ben.", False),
        ("No.", "Is the lamp red?", "The lamp is blue.", True),
        ("台灯是用丝绸做的。", "台灯是用什么做的？", "台灯的材料：丝绸。", True),
        ("台灯是用玻璃做的。", "台灯是用什么做的？", "台灯的材料：丝绸。", False),
        ("台灯重350克。", "台灯有多重？", "台灯的重量是850克。", False),
    ],
)
def test_an_answer_has_its_words_from_its_passage(answer, question, passage, held):
    assert grounded(answer, question, passage) is held


def test_every_rule_says_where_it_comes_from():
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.source
        assert rule.threshold
        assert rule.breaks.__doc__


def test_evaluation_questions_are_not_made_again():
    asked = "Anna has twelve red apples in a basket and gives away five of them to Ben. How many are left?"
    sieve = Sieve("qa", exam=build_index([asked]))
    assert not sieve.takes(Candidate(question=f"Say: {asked}", answer="Seven apples are left."))
    assert sieve.takes(Candidate(question="How many apples has Anna?", answer="Anna has twelve."))
    assert not sieve.takes(Candidate(question="What is Anna's story about?", answer=asked))
    assert sieve.dropped == {"decontaminated": 2}
    assert sieve.samples["decontaminated"][0].question == f"Say: {asked}"


def test_questions_on_other_articles_are_other_questions():
    sieve = Sieve("qa")
    asked = "合同第三条所说的申请人应当在多少天以内向主管部门提交全部材料？"
    assert sieve.takes(Candidate(question=asked, answer="三十天以内。", language="zh"))
    assert sieve.takes(Candidate(question=asked.replace("三", "四"), answer="六十天以内，节假日不算。", language="zh"))
    assert not sieve.takes(
        Candidate(question=asked.replace("全部", "所有"), answer="一个月以内都可以。", language="zh")
    )
    assert sieve.dropped == {"near_duplicate_question": 1}


def test_duplicates_are_dropped_whatever_their_answers():
    sieve = Sieve("self-instruct")
    assert sieve.takes(Candidate(question=GOOD, answer=ANSWER))
    assert not sieve.takes(Candidate(question=GOOD + " Thanks.", answer="Something else entirely."))
    assert not sieve.takes(Candidate(question=GOOD, answer=ANSWER, family="x"), question_is_known=True)
    assert sieve.dropped == {"near_duplicate_question": 1, "near_duplicate_row": 1}
    assert sieve.kept == 1
