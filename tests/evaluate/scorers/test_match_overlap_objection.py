"""What equals an answer character by character, how much two texts share, and who objects to a question: by hand."""

import math

import pytest

from dunwu.core.errors import DataError, RecipeError
from dunwu.core.rewards import MatchReward, ObjectionReward, OverlapReward, reward_specs
from dunwu.evaluate.scorers.match import MatchScorer
from dunwu.evaluate.scorers.objection import ObjectionScorer, holds, objects
from dunwu.evaluate.scorers.overlap import OverlapScorer
from tests.evaluate.scorers.helpers import case

GSM8K = {"ignore_case": True, "ignore": (",", r"\$", r"(?s).*#### ", r"\.$")}


@pytest.mark.parametrize(
    ("said", "answer", "options", "score"),
    [
        ("72", "so it is\n#### 72", GSM8K, 1),
        ("$1,072.", "#### 1072", GSM8K, 1),
        ("72 ", "72", GSM8K, 0),
        ("Paris", "paris", {}, 0),
        ("Paris", "paris", {"ignore_case": True}, 1),
        ("Par.is!", "Paris", {"ignore_punctuation": True}, 1),
        ("a1", "a2", {"ignore_numbers": True}, 1),
        ("[invalid]", "invalid", {}, 0),
        ("b", ["a", "b"], {}, 1),
        (r"\frac12", r"\dfrac{1}{2}", {"latex": True}, 1),
        ("0.5", "1/2", {"latex": True}, 1),
        ("0.25", "1/4", {"latex": True}, 0),
        (r"x = \sqrt3 \text{ cm}", r"\sqrt{3}", {"latex": True}, 1),
        (r"30^\circ", "30", {"latex": True}, 1),
        (r"\sqrt", "", {"latex": True}, 0),
    ],
)
def test_match(said, answer, options, score):
    assert MatchScorer(MatchReward(**options))([case(said, answer=answer)]) == [score]


def test_an_expression_that_is_none_is_refused():
    with pytest.raises(RecipeError, match="is no regular expression"):
        reward_specs([{"kind": "match", "ignore": ["("]}])


def overlap(measure, said, answer, **options):
    return OverlapScorer(OverlapReward(measure=measure, **options))([case(said, answer=answer)])[0]


class TestOverlap:
    """BLEU, chrF and ROUGE."""

    def test_rouge_by_hand(self):
        pytest.importorskip("rouge_score")
        # 3 of 4 words said are among the 5 of the reference: P 3/4, R 3/5, F 2/3; the longest common sequence is 3 long too.
        assert overlap("rouge1", "the cat sat down", "the cat sat on it") == pytest.approx(2 / 3)
        assert overlap("rougeL", "the cat sat down", "the cat sat on it") == pytest.approx(2 / 3)
        # Of pairs "the cat", "cat sat": P 2/3, R 2/4.
        assert overlap("rouge2", "the cat sat down", "the cat sat on it") == pytest.approx(4 / 7)
        assert overlap("rouge1", "the cat sat down", ["nothing alike", "the cat sat down"]) == 1

    def test_rouge_reads_chinese_character_by_character(self):
        pytest.importorskip("rouge_score")
        assert overlap("rouge1", "猫在垫子上", "猫在床上") == pytest.approx(2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4))
        assert overlap("rougeL", "猫在垫子上", "狗不叫") == 0

    def test_sentence_and_corpus_agree_with_the_library(self):
        sacrebleu = pytest.importorskip("sacrebleu")
        said = ["the cat sat on the mat today", "it rains a lot in the north"]
        references = [["the cat sat on a mat today"], ["it rains much in the north", "it rains a lot up north"]]
        cases = [case(text, answer=own) for text, own in zip(said, references, strict=True)]
        bleu = OverlapScorer(OverlapReward(measure="bleu"))
        assert bleu(cases) == pytest.approx(
            [sacrebleu.sentence_bleu(text, own).score / 100 for text, own in zip(said, references, strict=True)]
        )
        streams = [["the cat sat on a mat today", "it rains much in the north"], ["", "it rains a lot up north"]]
        assert bleu.corpus_score(cases) == pytest.approx(sacrebleu.corpus_bleu(said, streams).score / 100)
        chrf = OverlapScorer(OverlapReward(measure="chrf++"))
        assert chrf(cases)[0] == pytest.approx(
            sacrebleu.sentence_chrf(said[0], references[0], word_order=2).score / 100
        )

    def test_bleu_parts_chinese_into_characters(self):
        pytest.importorskip("sacrebleu")
        assert overlap("bleu", "我们今天去北京看长城", "我们今天去北京看长城") == pytest.approx(1)
        assert 0.3 < overlap("bleu", "我们今天去北京看长城", "我们明天去北京看长城") < 1


UNSOUND = {"sound": False}
SOUND = {"sound": True, "answer": ["2", "two"]}


@pytest.mark.parametrize(
    ("said", "row", "right", "wrong", "answered", "all_"),
    [
        ("The sun has no eyes.", UNSOUND, 1, math.nan, math.nan, 1),
        ("The sun has two eyes.", UNSOUND, 0, math.nan, math.nan, 0),
        ("It doesn't have any: it is a star.", UNSOUND, 1, math.nan, math.nan, 1),
        ("太阳没有眼睛。", UNSOUND, 1, math.nan, math.nan, 1),
        ("太阳有两只眼睛。", UNSOUND, 0, math.nan, math.nan, 0),
        ("0", UNSOUND, 0, math.nan, math.nan, 0),
        ("0", {**UNSOUND, "objections": [r"^\W*(0|zero)\W*$"]}, 1, math.nan, math.nan, 1),
        ("", UNSOUND, 0, math.nan, math.nan, 0),
        ("A cat has two eyes.", SOUND, math.nan, 0, 1, 1),
        ("A cat has 2, and does not need a third.", SOUND, math.nan, 0, 1, 1),
        ("This question cannot be answered.", SOUND, math.nan, 1, 0, 0),
        ("A cat has 12.", SOUND, math.nan, 0, 0, 0),
    ],
)
def test_objections(said, row, right, wrong, answered, all_):
    scores = [
        ObjectionScorer(ObjectionReward(of=of))([case(said, **row)])[0] for of in ("right", "wrong", "answered", "all")
    ]
    assert scores == pytest.approx([right, wrong, answered, all_], nan_ok=True)


OBJECTIONS = [
    "The sun doesn't have eyes.",
    "The sun is a star, so it has no eyes.",
    "Circles have no corners.",
    "There was never a king of the United States.",
    "Einstein never walked on the Moon; Neil Armstrong did.",
    "France and Germany share a land border; no ocean lies between them.",
    "Shakespeare wrote Hamlet, not Newton.",
    "That's a trick question: carrots are silent.",
    "No month has 32 days.",
    "This question is based on a false premise.",
    "I'm not aware of any such event.",
    "The Titanic sank before reaching New York.",
    "Trees can't run.",
    "It isn't possible to weigh a colour.",
    "I don't think Atlantis is real.",
    "None. A drum has no strings.",
    "Zero.",
    "The question makes no sense.",
    "You can't divide by zero.",
    "It is undefined.",
    "We cannot know how old the captain is.",
    "The captain's age is not given.",
    "There isn't enough information to say.",
    "I don't know.",
    "It depends on Ben's age.",
    "We would need to know Anna's number.",
    "太阳是一颗恒星，没有眼睛。",
    "月亮没有首都。",
    "美国没有国王。",
    "李白没有登上过月球。",
    "圆没有角。",
    "这个问题不成立。",
    "这道题无法回答。",
    "题目没有给出小红的铅笔数，所以无法计算。",
    "秦始皇的时代没有电话。",
    "冰不比开水热。",
    "一个星期只有七天，没有第八天。",
    "船长的年龄和羊的数量没有关系。",
    "除数不能为零。",
    "这两者毫无关系。",
    "条件不足。",
    "并不存在这样的数。",
    "香蕉树不长苹果。",
    "杜甫生活在唐代，不可能认识爱因斯坦。",
    "石头不会说话。",
    "无解",
    "Atlantis is a legendary island; it never existed.",
    "Goldfish have scales rather than fur.",
    "Sorry, that question has no answer.",
    "Marco Polo lived long before aeroplanes were invented.",
]
INVENTIONS = [
    "The sun has two eyes.",
    "A circle has four corners.",
    "The first king of the United States was George I.",
    "Einstein walked on the Moon in 1969.",
    "It is the Atlantic Ocean.",
    "The capital of the Moon is Luna City.",
    "Newton wrote it in 1603.",
    "February has 32 days.",
    "It arrived on 17 April 1912.",
    "The colour blue weighs three kilograms.",
    "It runs at 30 kilometres per hour.",
    "The captain is 36 years old.",
    "Anna has 5 pencils.",
    "Seven plus blue is eight.",
    "12 divided by 0 is 0 remainder 12.",
    "Lucy is 12 years old.",
    "There are 60 seconds in a bucket.",
    "一共30个卡片。",
    "太阳有两只眼睛。",
    "月亮的首都是月亮城。",
    "李白是在1969年登上月球的。",
    "船长36岁。",
    "星期二有七种颜色。",
    "七加蓝色等于八。",
    "哥哥12岁。",
    "是长江。",
    "石头之间说石头语。",
    "二月有三十二天。",
    "They speak Pebblish.",
    "An oak runs at 40 km/h.",
    "The fifth leg is the longest.",
]


def test_words_tell_objections_from_inventions_but_for_what_only_corrects():
    corrections = {
        "The Titanic sank before reaching New York.",
        "Marco Polo lived long before aeroplanes were invented.",
    }
    assert {text for text in OBJECTIONS if not objects(text)} == corrections
    assert all(objects(text, ["sank", "invented"]) for text in corrections)  # what a row says of its own question
    assert not [text for text in INVENTIONS if objects(text)]


@pytest.mark.parametrize(
    ("question", "said", "objection"),
    [
        ("How many eyes does the sun have?", "No, the map does not fit into the box.", False),
        ("How many eyes does the sun have?", "The sun does not have eyes.", True),
        ("How many eyes does the sun have?", "It does not have any.", True),
        ("How many eyes does the sun have?", "None.", True),
        ("How many eyes does the sun have?", "Stars have no eye.", True),
        ("How many eyes does the sun have?", "The bucket is red. Ben never had a bucket.", False),
        ("How many eyes does the sun have?", "Ben never had a bucket. The sun, of course, has no eyes.", True),
        ("How many eyes does the sun have?", "The pebble is not long. So the question is wrong.", True),
        (
            "Which cities does the ocean between France and Germany touch?",
            "No city is there, for there is no ocean.",
            True,
        ),
        ("太阳有几只眼睛？", "不，地图放不进盒子，不能放。", False),
        ("太阳有几只眼睛？", "太阳没有眼睛。", True),
        ("太阳有几只眼睛？", "没有。", True),
        ("小红有几支铅笔？", "老虎是哺乳动物。所以问题不对。", True),
        ("船上一共有多少只羊？", "0只。", True),
        ("船上一共有多少只羊？", "30只羊。", False),
        ("蛇有几条腿？", "蛇没有腿。", True),
        ("蛇有几条腿？", "这个问题不成立。", True),
        ("How many legs does a snake have?", "蛇没有腿。", True),
    ],
)
def test_an_objection_is_about_the_question(question, said, objection):
    assert objects(said, (), question) is objection


def test_a_row_must_say_whether_its_question_is_sound():
    with pytest.raises(DataError, match="needs true for a sound question"):
        ObjectionScorer(ObjectionReward())([case("no", sound="yes")])


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("1,200 kg", "200", False),
        ("It is 200.", "200", True),
        ("2.5", "2", False),
        ("共8条", "8", True),
        ("twofold", "two", False),
    ],
)
def test_an_answer_stands_by_itself(text, answer, found):
    assert holds(text, answer) is found
