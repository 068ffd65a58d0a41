"""Answers by likelihood: what is asked, and which choice each normalisation makes the chosen one."""

import pytest

from dunwu.chat.scripted_text import ScriptedText
from dunwu.chat.text_model import Likelihood
from dunwu.core.errors import RecipeError
from dunwu.core.problems import Problem
from dunwu.evaluate.solvers.choice import ByLikelihood, likeliest
from dunwu.evaluate.tasks.spec import TaskSpec
from dunwu.evaluate.tasks.task import Task

ROWS = [
    {"q": "Capital of France?", "options": ["Rome", "Paris"], "key": 1},
    {"q": "Capital of Italy?", "options": ["Rome", "Paris"], "key": "A"},
]
SPEC = TaskSpec(
    name="capitals",
    output="choice",
    input="{{q}}",
    choices="{{options}}",
    right="{{key}}",
    split="test",
    shots={"split": "train"},
    metrics=("acc",),
)


def task(**changes) -> Task:
    return Task(spec=SPEC.model_copy(update=changes), rows=lambda split: ROWS)


def nats(**values):
    table = {key.replace("_", " "): value for key, value in values.items()}
    return lambda context, continuation: table[continuation.strip() + ("" if context else " alone")]


def test_each_choice_is_judged_after_the_same_context_and_the_likeliest_is_chosen():
    model = ScriptedText(likely=lambda context, continuation: -1.0 if continuation == " Paris" else -2.0)
    first, second = ByLikelihood(model)(task(), task().problems())
    assert model.judged[:2] == [("Capital of France?", " Rome"), ("Capital of France?", " Paris")]
    assert (first.chosen, second.chosen) == (1, 1)
    assert [one.logprob for one in first.likelihoods] == [-2.0, -1.0]


def test_demonstrations_stand_before_the_question():
    model = ScriptedText()
    problems = task().problems()
    (response,) = ByLikelihood(model, lambda problem: [problems[1]])(task(), problems[:1])
    assert model.judged[0] == ("Capital of Italy? Rome\n\nCapital of France?", " Rome")
    assert response.shots == 1


@pytest.mark.parametrize(
    ("by", "chosen"),
    # raw -4 against -5; a character -4/3, -5/4; a byte -4/9 (three characters of three bytes), -5/4; a token -4/1, -5/4
    [("raw", 0), ("characters", 1), ("bytes", 0), ("tokens", 1)],
)
def test_normalisations_by_hand(by, chosen):
    problem = Problem(id="x", input="", choices=("猫狗鸟", "bird"), right=0)
    judged = [Likelihood(logprob=-4, tokens=1, greedy=False), Likelihood(logprob=-5, tokens=4, greedy=False)]
    assert likeliest(problem, judged, by) == chosen


def test_what_is_likely_anyhow_counts_for_nothing():
    model = ScriptedText(likely=nats(Rome=-3.0, Paris=-4.0, Rome_alone=-1.0, Paris_alone=-6.0))
    response, _ = ByLikelihood(model, by="alone")(task(), task().problems())
    assert model.judged[2:4] == [("", " Rome"), ("", " Paris")]
    assert response.chosen == 1  # -3 - -1 against -4 - -6
    assert likeliest(response.problem, response.likelihoods) == 0


def test_a_metric_that_needs_the_choices_alone_gets_them():
    spec = TaskSpec(**{**SPEC.model_dump(), "metrics": ("acc", "acc_mutual")})
    response, _ = ByLikelihood(ScriptedText())(Task(spec=spec, rows=lambda split: ROWS), task().problems())
    assert len(response.likelihoods) == 4
    assert response.chosen == 0  # the shorter one; chosen as it is


def test_of_equals_the_first_is_chosen():
    response, _ = ByLikelihood(ScriptedText(likely=lambda *_: -1.0))(task(), task().problems())
    assert response.chosen == 0


def test_what_the_model_did_not_see_is_told():
    response, _ = ByLikelihood(ScriptedText(context_length=20))(task(), task().problems())
    assert response.cut == len("Capital of France?") + len(" Paris") - 20


def test_a_target_is_judged_and_nothing_is_chosen():
    spec = TaskSpec(name="words", output="perplexity", input="{{q}}", target="{{options[key]}}", metrics=("greedy",))
    words = Task(spec=spec, rows=lambda split: ROWS[:1])
    model = ScriptedText()
    (response,) = ByLikelihood(model)(words, words.problems())
    assert model.judged == [("Capital of France?", " Paris")]
    assert response.chosen is None


def test_a_normalisation_that_there_is_not_is_an_error():
    with pytest.raises(RecipeError, match="by='words' is not known"):
        ByLikelihood(ScriptedText(), by="words")
