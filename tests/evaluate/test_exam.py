"""The grading of the exam, on answers written by hand and by scripted pupils."""

import random
from collections.abc import Sequence

import pytest

from dunwu.core.progress import SilentProgress
from dunwu.core.records import Completion, Message
from dunwu.corpus.world import Grade, world_exam
from dunwu.evaluate.exam import final_sentence, grade_answer, run_exam

EXAM = world_exam(0, ("en", "zh"), 40)


class Pupil:
    """Answers from a table, or always the same."""

    def __init__(self, answers: dict[str, str] | str, reason: str = "stop") -> None:
        self.answers, self.reason = answers, reason

    def reply_batch(
        self, conversations: Sequence[Sequence[Message]], *, max_tokens: int, temperature: float, seed: int
    ) -> list[Completion]:
        texts = [
            self.answers if isinstance(self.answers, str) else self.answers[conversation[-1].content]
            for conversation in conversations
        ]
        return [Completion(text=text, ids=(), finish_reason=self.reason) for text in texts]


def sit(answers: dict[str, str] | str, reason: str = "stop"):
    return run_exam(Pupil(answers, reason), EXAM, progress=SilentProgress())


def test_the_model_answers_are_all_right():
    result = sit({question.messages[0].content: question.answer for question in EXAM})
    assert not [row for row in result.rows if not row.right]
    assert {score.value for score in result.by_kind.values()} == {1.0}
    assert result.ended.value == 1.0
    assert result.by_kind["recall"].low > 0.9


def test_the_answer_to_another_question_of_the_kind_is_no_better_than_chance():
    shares: dict[str, list[float]] = {}
    for seed in range(20):
        rng = random.Random(seed)
        answers = {}
        for question in EXAM:
            others = [q.answer for q in EXAM if q.kind == question.kind and q.language == question.language]
            answers[question.messages[0].content] = rng.choice(others)
        for kind, score in sit(answers).by_kind.items():
            assert score.chance is not None
            shares.setdefault(kind, []).append(score.value - score.chance)
    assert max(sum(excess) / len(excess) for excess in shares.values()) < 0.06


@pytest.mark.parametrize(
    "answer", ["", "Yes.", "No.", "可以，放得进。", "The question is wrong.", "1 2 3 4 5 6 7 8 9 yes no"]
)
def test_one_answer_for_everything_earns_no_more_than_chance(answer: str):
    for kind, score in sit(answer).by_kind.items():
        assert score.chance is not None
        assert score.value <= score.chance + 0.02, kind


def test_always_objecting_earns_half_of_the_premise_questions():
    answers = {question.messages[0].content: "" for question in EXAM}
    for question in EXAM:
        if question.kind == "premise":
            parts = ("eyes", "legs", "wings", "tails", "ears", "wheels")
            parts_zh = ("眼睛", "腿", "翅膀", "尾巴", "耳朵", "轮子")
            asked = next(p for p in (*parts, *parts_zh) if p in question.messages[0].content)
            answers[question.messages[0].content] = f"It has no {asked}." if asked in parts else f"它没有{asked}。"
    assert sit(answers).by_kind["premise"].value == 0.5


def test_turns_that_do_not_end_are_counted():
    assert sit("", "length").ended.value == 0.0


PARIS = Grade(rule="names", expected=("Paris",), rivals=("Rome", "Oslo"))


@pytest.mark.parametrize(
    ("grade", "answer", "right"),
    [
        (PARIS, "The lamp belongs to Anna. Anna lives in Paris.", True),
        (PARIS, "Anna lives in Rome. No: she lives in Paris.", True),
        (PARIS, "Anna lives in Paris. No: she lives in Rome.", False),
        (PARIS, "Paris or Rome.", False),
        (PARIS, "Anna lives in Parisian style.", False),
        (Grade(rule="names", expected=("Yes",), rivals=("No",)), "30 is less than 40. Yes, it fits. ", True),
        (Grade(rule="names", expected=("Yes",), rivals=("No",)), "Nobody knows. Yes", True),
        (Grade(rule="names", expected=("放得进",), rivals=("放不进",)), "不行，台灯放不进箱子。", False),
        (Grade(rule="names", expected=("Ben",), rivals=("Benno",)), "It is ben.", True),
        (Grade(rule="number", expected=("4",)), "7. 1: 6, 2: 5, 3: 4. So 4 apples are left.", True),
        (Grade(rule="number", expected=("4",)), "So 14 apples are left.", False),
        (Grade(rule="number", expected=("4",)), "4 or 5", False),
        (Grade(rule="number", expected=("2",), rivals=("no eyes",)), "2? The cat has no eyes.", False),
        (Grade(rule="number", expected=("2",), rivals=("legs", "leg")), "So the answer is 2 eyes.", True),
        (Grade(rule="number", expected=("2",), rivals=("legs", "leg")), "So the answer is 2 legs.", False),
        (Grade(rule="exact", expected=("PARIS",)), " PARIS.\n", True),
        (Grade(rule="exact", expected=("PARIS",)), "Paris", False),
        (Grade(rule="exact", expected=("PARIS",)), "It is PARIS", False),
        (Grade(rule="exact", expected=("red red red",)), "red red", False),
        (Grade(rule="exact", expected=("1. red\n2. wood",)), "1. red \n2.  wood", True),
        (Grade(rule="exact", expected=("1. red\n2. wood",)), "1. red 2. wood", False),
        (Grade(rule="json", expected=('{"home": "Paris"}',)), '{ "home":"Paris" }', True),
        (Grade(rule="json", expected=('{"home": "Paris"}',)), '{"home": "Paris"', False),
        (Grade(rule="json", expected=('{"home": "Paris"}',)), "[" * 100_000, False),
        (Grade(rule="ending", expected=("done", "red"), rivals=("blue",)), "The lamp is red. Done.", True),
        (Grade(rule="ending", expected=("done", "red"), rivals=("blue",)), "Done. The lamp is red.", False),
        (Grade(rule="ending", expected=("done", "red"), rivals=("blue",)), "The lamp is red or blue. Done.", False),
        (Grade(rule="ending", expected=("完毕", "红色"), rivals=("蓝色",)), "台灯的颜色是红色。完毕。", True),
    ],
)
def test_rules(grade: Grade, answer: str, right: bool):
    assert grade_answer(grade, answer) is right


def test_the_final_sentence_of_nothing_is_nothing():
    assert final_sentence("") == final_sentence("。。。\n") == ""
