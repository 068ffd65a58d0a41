"""Which demonstrations a problem gets; random ones as lm-evaluation-harness draws them, whose rule is written out here again."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwu.core.errors import DataError
from dunwu.core.nearest import validated
from dunwu.evaluate.tasks.demonstrations import first_shots, random_shots, usual_shots
from dunwu.evaluate.tasks.finding import find_task
from dunwu.evaluate.tasks.spec import TaskSpec
from dunwu.evaluate.tasks.task import Task


def task(test: list[dict], train: list[dict] | None = None, **shots) -> Task:
    spec = {"name": "t", "subject": "{{s}}", "input": "{{q}}", "target": "{{q}}!", "shots": {"split": "train", **shots}}
    return Task(spec=validated(TaskSpec, spec), rows=lambda split: test if split == "test" else train or [])


def rows(subject: str, *names: int) -> list[dict]:
    return [{"s": subject, "q": f"{subject}{name}"} for name in names]


def names(shots) -> list[str]:
    return [shot.input for shot in shots]


def test_the_first_of_the_subject() -> None:
    quiz = task(rows("a", 1) + rows("b", 1), rows("b", 7, 8, 9) + rows("a", 5, 6))
    a, b = quiz.problems()
    assert names(first_shots(quiz, 2)(a)) == ["a5", "a6"]
    assert names(first_shots(quiz, 2)(b)) == ["b7", "b8"]
    assert names(first_shots(quiz, 0)(b)) == []
    with pytest.raises(DataError, match="t has 2 demonstrations about a, and 3 are needed"):
        first_shots(quiz, 3)(a)


def test_a_problem_is_never_shown_before_itself() -> None:
    quiz = task(rows("a", 1, 2, 3), split="test")
    assert [names(first_shots(quiz, 2)(problem)) for problem in quiz.problems()] == [
        ["a2", "a3"],
        ["a1", "a3"],
        ["a1", "a2"],
    ]


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(5, 9))
def test_random_ones_are_drawn_as_the_harness_draws_them(seed: int, count: int, pool: int) -> None:
    quiz = task(rows("a", *range(3)) + rows("b", *range(2)), rows("a", *range(pool)) + rows("b", *range(pool)))
    shots = random_shots(quiz, count, seed=seed)
    expected = {}
    for subject, asked in (("a", 3), ("b", 2)):  # each subject is a task of its own there, with a generator of its own
        rng = random.Random(seed)
        for at in range(asked):
            expected[f"{subject}/{at}"] = [f"{subject}{n}" for n in rng.sample(range(pool), count)]
    assert {problem.id: names(shots(problem)) for problem in reversed(quiz.problems())} == expected


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_from_the_split_that_is_asked_one_more_is_drawn_and_the_problem_left_out(seed: int, count: int) -> None:
    quiz = task(rows("a", *range(6)), split="test")
    shots = random_shots(quiz, count, seed=seed)
    rng = random.Random(seed)
    for at, problem in enumerate(quiz.problems()):
        expected = [f"a{n}" for n in rng.sample(range(6), count + 1) if n != at][:count]
        assert names(shots(problem)) == expected


def test_usual_ones_follow_the_task() -> None:
    quiz = task(rows("a", 1), rows("a", *range(2, 9)), count=3, choose="random")
    (problem,) = quiz.problems()
    assert names(usual_shots(quiz)(problem)) == names(random_shots(quiz, 3)(problem))
    assert len(usual_shots(quiz, 5)(problem)) == 5


def test_examples_written_in_the_yaml_have_templates_of_their_own() -> None:
    quiz = task(rows("", 1), examples=[{"s": "", "q": "x"}], target="={{q}}")
    (problem,) = quiz.problems()
    assert quiz.text(problem, usual_shots(quiz, 1)(problem)) == "x =x\n\n1"


DATA = Path(__file__).parents[3].parent / "shared" / "data"
REAL = {
    "mmlu": ("eval_mmlu", 4603, 5),
    "cmmlu": ("eval_cmmlu", 5664, 5),
    "arc_easy": ("eval_arc", 2365, 0),
    "gsm8k": ("eval_gsm8k", 5000, 5),
    "gsm8k_cot": ("eval_gsm8k", 5000, 8),
    "multiarith": ("eval_cot_suite", 600, 0),
    "aqua": ("eval_cot_suite", 254, 0),
    "humaneval": ("eval_humaneval", 82, 0),
    "bbh": ("eval_bbh", 3324, 0),
    "bbh_cot": ("eval_bbh", 3324, 3),
    "bbh_direct": ("eval_bbh", 3324, 3),
    "gaokao": ("eval_gaokao", 175, 0),
}


@pytest.mark.parametrize("name", REAL)
def test_real_data(name: str) -> None:
    folder, count, shots = REAL[name]
    if not (DATA / folder).is_dir():
        pytest.skip(f"needs {folder} in ../shared/data beside the repository")
    quiz = find_task(name, data=DATA / folder)
    problems = quiz.problems()
    assert len(problems) == count
    chosen = usual_shots(quiz, shots)
    for problem in (problems[0], problems[-1]):
        text = quiz.text(problem, chosen(problem))
        assert text.endswith(quiz.text(problem).removeprefix(quiz.description(problem)))
        assert len(chosen(problem)) == shots
        assert json.dumps([dict(problem.columns), quiz.pairs(problem) if problem.choices else ""], ensure_ascii=False)
