"""Word problems: their steps are right, each follows from the one before, and none is measured whose calculation was learned."""

import re

import pytest

from dunwu.core.errors import RecipeError
from dunwu.core.nearest import validated
from dunwu.core.recipe import PromptSumsSource, RlSection, SftSection, SftSumsSource
from dunwu.core.records import Completion
from dunwu.core.rewards import MathReward
from dunwu.corpus.prompts import load_prompt_sets
from dunwu.corpus.sums import problems, sums_examples
from dunwu.corpus.sums.wording import WORDING
from dunwu.evaluate.scorers.base import Case
from dunwu.evaluate.scorers.math import MathScorer

BOTH = ("en", "zh")
STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
OPERATIONS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}


def test_every_step_is_right_and_goes_on_from_the_one_before():
    for problem in problems(0, 1500, BOTH, held_out=False):
        *steps, said = problem.solution.splitlines()
        assert len(steps) == problem.steps
        before = None
        for step in steps:
            left, sign, right, result = STEP.fullmatch(step).groups()
            assert OPERATIONS[sign](int(left), int(right)) == int(result)
            assert sign != "/" or int(left) % int(right) == 0
            assert before in (None, left)
            before = result
        assert said == WORDING[problem.language].answer.format(v=problem.answer)
        assert int(before) == problem.answer > 0
        assert problem.calculation.split()[0] == STEP.match(steps[0])[1]


def test_all_numbers_of_the_calculation_stand_in_the_question():
    for problem in problems(1, 800, BOTH, held_out=False):
        given = re.findall(r"\d+", problem.question)
        assert sorted(re.findall(r"\d+", problem.calculation)) == sorted(given), problem
        assert "{" not in problem.question


def test_no_calculation_is_on_both_sides_whatever_the_seed():
    learned = {p.calculation for seed in (0, 1) for p in problems(seed, 2000, BOTH, held_out=False)}
    measured = [p.calculation for p in problems(5, 600, ("en",), held_out=True)]
    assert len(measured) == 600
    assert not learned & set(measured)


def test_a_pure_function_of_the_seed_with_the_steps_and_languages_asked_for():
    some = list(problems(3, 200, ("zh",), held_out=False, steps=(2,)))
    assert some == list(problems(3, 200, ("zh",), held_out=False, steps=(2,)))
    assert {(p.language, p.steps) for p in some} == {("zh", 2)}
    assert len({p.question for p in some}) == 200
    assert some != list(problems(4, 200, ("zh",), held_out=False, steps=(2,)))


def test_what_is_learned_earns_the_reward_and_practice_asks_other_problems():
    examples = list(sums_examples(SftSumsSource(problems=300)))
    sets = load_prompt_sets([PromptSumsSource(problems=300)], exam_questions=1)
    cases = [
        Case(
            prompt=prompt.messages,
            completion=Completion(text=prompt.columns["solution"], ids=(), finish_reason="stop"),
            columns=prompt.columns,
        )
        for prompt in (*sets.learned, *sets.held_out)
    ]
    assert set(MathScorer(MathReward())(cases)) == {1}
    learned = {example.messages[0].content for example in examples}
    assert not learned & {prompt.messages[0].content for prompt in sets.learned}
    assert not {p.columns["calculation"] for p in sets.learned} & {p.columns["calculation"] for p in sets.held_out}
    assert len(sets.held_out) == 64


def test_recipes_name_them():
    (source,) = validated(SftSection, {"sources": [{"kind": "sums", "steps": [1, 2]}]}).sources
    assert source.steps == (1, 2)
    (prompts,) = validated(RlSection, {"sources": [{"kind": "sums", "problems": 9}]}).sources
    assert len(load_prompt_sets([prompts], exam_questions=1).learned) == 9
    with pytest.raises(RecipeError, match="is no choice of steps"):
        validated(SftSection, {"sources": [{"kind": "sums", "steps": [1, 4]}]})


@pytest.mark.parametrize("largest", [10, 20, 500])
def test_numbers_are_no_larger_than_asked_for(largest):
    found = list(problems(0, 400, BOTH, held_out=False, largest=largest))
    given = [int(number) for problem in found for number in re.findall(r"\d+", problem.question)]
    assert max(given) == largest
    assert largest < max(problem.answer for problem in found) <= 4 * largest
