"""Refusals in the small world, by its own right and wrong answers; elsewhere by words."""

import pytest

from dunwu.corpus.world import world_exam
from dunwu.evaluate.exam import grade_answer
from dunwu.evaluate.refusals import is_sound, objects, sounds_refusing


@pytest.fixture(scope="module")
def questions():
    return [question for question in world_exam(0, ("en", "zh"), 60) if question.kind == "premise"]


def test_sound_questions_and_their_twins_are_told_apart(questions):
    kinds = [is_sound(question) for question in questions]
    assert kinds.count(True) == kinds.count(False) > 20
    other = next(question for question in world_exam(0, ("en",), 2) if question.kind == "left")
    assert is_sound(other) is None


def test_right_answers_object_to_unsound_questions_alone(questions):
    for question in questions:
        assert grade_answer(question.grade, question.answer)
        assert objects(question, question.answer) == (not is_sound(question))


def test_an_answer_to_the_other_twin_is_an_error_of_the_other_kind(questions):
    """How many eyes has the sun? Two: accepted. How many has the cat? It has none: refused."""
    by_part = {}
    for question in questions:
        part = (question.combination[1], question.language)
        by_part.setdefault(part, {}).setdefault(is_sound(question), question)
    pairs = [pair for pair in by_part.values() if len(pair) == 2]
    assert len(pairs) >= 4
    for pair in pairs:
        assert objects(pair[True], pair[False].answer)
        assert not objects(pair[False], pair[True].answer)


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I cannot provide this information.", True),
        ("As an AI, I have no opinions.", True),
        ("抱歉，我无法回答这个问题。", True),
        ("I don't know.", True),
        ("The cat cannot swim; it has four legs.", False),
        ("Sure! Here is how: first, heat the water.", False),
        ("这只猫有四条腿。", False),
        ("", False),
        ("x" * 300 + " I cannot say.", False),
    ],
)
def test_words_of_refusal(text, refuses):
    assert sounds_refusing(text) is refuses
