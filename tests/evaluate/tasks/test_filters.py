"""How answers are taken out of texts: by hand."""

import pytest

from dunwu.core.problems import Problem
from dunwu.evaluate.tasks.filters import boxed, letter_in, taken
from dunwu.evaluate.tasks.metric_specs import Step

PLANETS = Problem(id="0", input="Q", choices=("Mars", "Venus", "Big Mars", "Earth"), right=1)
FLEXIBLE = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"


@pytest.mark.parametrize(
    ("step", "text", "left"),
    [
        (Step(kind="regex", pattern=r"#### (\-?[0-9\.\,]+)"), "so 3+4=7\n#### 7\n#### 8", "7"),
        (Step(kind="regex", pattern=r"#### (\-?[0-9\.\,]+)"), "no mark", "[invalid]"),
        (Step(kind="regex", pattern=FLEXIBLE, take="last"), "first 12, then 5", "5"),
        (Step(kind="regex", pattern=FLEXIBLE, take="last"), "it costs $1,200", "$1,200"),
        (Step(kind="regex", pattern=r"\w+", take="last", otherwise=None), "!?", "!?"),
        (Step(kind="hashes", take="last"), "#### 7\n#### 8 \nmore", "8"),
        (Step(kind="number", take="last"), "1,234.5 and -3", "-3"),
        (Step(kind="number"), "1,234.5 and -3", "1234.5"),
        (Step(kind="boxed"), r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (Step(kind="boxed", otherwise="none"), "nothing", "none"),
        (Step(kind="final"), "So 3 and 9. The answer is 12 apples.", "12 apples"),
        (Step(kind="line"), "\n a \nb", "a"),
        (Step(kind="line", take="last"), "\n a \nb\n\n", "b"),
        (Step(kind="strip"), " a ", "a"),
        (Step(kind="code"), "Here:\n```python\nx = 1\n```", "x = 1\n"),
        (Step(kind="join"), ": 1", "Q: 1"),
    ],
)
def test_steps(step, text, left):
    assert taken(text, (step,), PLANETS) == left


def test_steps_follow_each_other():
    steps = (Step(kind="line"), Step(kind="number", take="last"))
    assert taken("between 1 and 2\n3", steps, PLANETS) == "2"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C)", "C"),
        ("C. Big Mars", "C"),
        ("The answer is (B).", "B"),
        ("The correct answer is: **D**", "D"),
        (r"so \boxed{\text{B}}", "B"),
        (r"$\boxed{A}$", "A"),
        ("答案是B。", "B"),
        ("答案：C", "C"),
        ("故选 D", "D"),
        ("因此应选择B项", "B"),
        ("B项正确", "B"),
        ("A planet such as Venus", "B"),
        ("It is Venus.", "B"),
        ("Big Mars, I think", "C"),
        ("Mars or Venus", None),
        ("**A**", "A"),
        ("Answer: A", "A"),
        ("I think it is A.", "A"),
        ("I would say (A), a small one", "A"),
        ("A or B", None),
        ("Either A or C", None),
        ("A cat lives there", None),
        ("I see a planet", None),
        ("venus.", "B"),
        ("The answer is E", None),
        ("", None),
        ("I do not know", None),
        ("Between A and B", None),
        ("First I thought the answer is A, but the answer is C", "C"),
    ],
)
def test_the_letter_that_an_answer_names(text, letter):
    assert letter_in(text, PLANETS) == letter


def test_boxes_may_stand_without_braces_or_stay_open():
    assert boxed(r"$\boxed 7$ is it") == "7"
    assert boxed(r"\boxed{7") is None
