"""Every definition that comes with dunwu, on rows of the shape that its data set has; prompts are those of lm-evaluation-harness."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dunwu.core.errors import DataError
from dunwu.core.records import Completion
from dunwu.evaluate.solvers.base import Response
from dunwu.evaluate.tasks.demonstrations import usual_shots
from dunwu.evaluate.tasks.finding import find_task, list_tasks
from dunwu.evaluate.tasks.measures import measure

LETTERED = {"A": "one", "B": "two", "C": "three", "D": "four"}
MATH_ROW = {
    "problem": "Half of $1$?",
    "level": "Level 1",
    "type": "Algebra",
    "solution": r"So it is $\boxed{\frac{1}{2}}$.",
}
BBH_ROW = {"input": "Turn around.\nOptions:\n- Yes\n- No", "target": "No"}
SOLVED = "canary\n-----\nWhat it is.\n\nQ: Stand.\nOptions:\n- Yes\n- No\nA: Let's think step by step.\nWe stand.\nSo the answer is Yes.\n\n"
TRUTH = {"choices": ["It passes.", "It stays."], "labels": [1, 0]}
TRUTHS = {"choices": ["It passes.", "Nothing.", "It stays."], "labels": [1, 1, 0]}
MBPP = [
    {
        "task_id": n,
        "text": f"Task {n}.",
        "code": f"def f{n}():\r\n  pass",
        "test_list": [f"assert {n}{m}" for m in "abc"],
    }
    for n in range(1, 12)
]

# name → (rows by split, contexts, continuations, right); one context stands for all.
CHOICES = {
    "mmlu:law": None,
    "mmlu:anatomy": (
        {
            "test": [
                {"question": " Where? ", "subject": "anatomy", "choices": ["one", "two", "three", "four"], "answer": 2}
            ]
        },
        "The following are multiple choice questions (with answers) about anatomy.\n\nWhere?\nA. one\nB. two\nC. three\nD. four\nAnswer:",
        [" A", " B", " C", " D"],
        2,
    ),
    "cmmlu:agronomy": (
        {"test": [{"Question": "哪里", **LETTERED, "Answer": "B"}]},
        "以下是关于农学的单项选择题，请直接给出正确答案的选项。\n\n哪里\nA. one\nB. two\nC. three\nD. four\n答案：",
        [" A", " B", " C", " D"],
        1,
    ),
    "ceval:law": (
        {"val": [{"id": 0, "question": "哪里", **LETTERED, "answer": "D", "explanation": ""}]},
        "以下是中国关于法学的单项选择题，请选出其中的正确答案。\n\n哪里\nA. one\nB. two\nC. three\nD. four\n答案：",
        [" A", " B", " C", " D"],
        3,
    ),
    "arc_easy": (
        {
            "test": [
                {
                    "id": "x",
                    "question": "Why?",
                    "choices": {"text": ["so", "thus"], "label": ["1", "2"]},
                    "answerKey": "2",
                }
            ]
        },
        "Question: Why?\nAnswer:",
        [" so", " thus"],
        1,
    ),
    "arc_challenge": (
        {
            "test": [
                {
                    "id": "x",
                    "question": "Why?",
                    "choices": {"text": ["so", "thus"], "label": ["A", "B"]},
                    "answerKey": "A",
                }
            ]
        },
        "Question: Why?\nAnswer:",
        [" so", " thus"],
        0,
    ),
    "hellaswag": (
        {
            "validation": [
                {
                    "activity_label": "Ice",
                    "ctx_a": "A man stands [title] by a car.",
                    "ctx_b": "he  [step] then",
                    "endings": [" scrapes the [substeps] window.", "sings  low", "eats", "goes"],
                    "label": "1",
                }
            ]
        },
        "Ice: A man stands. by a car. He  then",
        [" scrapes the window.", " sings low", " eats", " goes"],
        1,
    ),
    "piqa": (
        {"validation": [{"goal": "Open a jar", "sol1": "Twist the lid", "sol2": "Twist the label", "label": 0}]},
        "Question: Open a jar\nAnswer:",
        [" Twist the lid", " Twist the label"],
        0,
    ),
    "winogrande": (
        {
            "validation": [
                {"sentence": "Sarah outran Maria so _ won.", "option1": "Sarah", "option2": "Maria", "answer": "1"}
            ]
        },
        ["Sarah outran Maria so Sarah", "Sarah outran Maria so Maria"],
        [" won.", " won."],
        0,
    ),
    "aqua": (
        {"test": [{"question": "1+1?", "options": ["A)1", "B)2 ", "C)3"], "rationale": "…", "correct": "B"}]},
        "Question: 1+1?\nAnswer Choices: (A) 1 (B) 2 (C) 3\nAnswer:",
        [" A", " B", " C"],
        1,
    ),
    "agieval:sat-math": (
        {"test": [{"query": "Q: 1+1?\nA: The answer is", "choices": ["(A)1", "(B)2"], "gold": [1]}]},
        "Q: 1+1?\nA: The answer is",
        [" (A)1", " (B)2"],
        1,
    ),
}
del CHOICES["mmlu:law"]

TEXTS = {
    "gsm8k": ({"test": [{"question": "2+3?", "answer": "2+3=5\n#### 5"}]}, "Question: 2+3?\nAnswer:", "2+3=5\n#### 5"),
    "gsm8k_cot": ({"test": [{"question": "2+3?", "answer": "2+3=5\n#### 5"}]}, "Q: 2+3?\nA:", "5"),
    "math:algebra": ({"test": [MATH_ROW]}, "Problem: Half of $1$?\nAnswer:", r"\frac{1}{2}"),
    "math_cot:algebra": ({"test": [MATH_ROW]}, "Problem:\nHalf of $1$?\n\nSolution:", MATH_ROW["solution"]),
    "agieval_math:math": (
        {"test": [{"query": "Q: 1+1?\nA: The answer is", "answer": "2"}]},
        "Q: 1+1?\nA: The answer is",
        "2",
    ),
    "svamp": (
        {"test": [{"Body": "Ed has 5 pens ", "Question": "How many?", "Equation": "5", "Answer": "5.0"}]},
        "Question: Ed has 5 pens. How many?\nAnswer:",
        "5.0",
    ),
    "multiarith": ({"test": [{"question": " How many? ", "final_ans": "7"}]}, "Question: How many?\nAnswer:", "7"),
    "humaneval": (
        {
            "test": [
                {
                    "task_id": "HumanEval/0",
                    "prompt": "def two():\n",
                    "entry_point": "two",
                    "canonical_solution": "    return 2\n",
                    "test": "def check(f):\n    assert f() == 2\n",
                }
            ]
        },
        "def two():\n",
        "    return 2\n",
    ),
    "mbpp": (
        {"test": MBPP[10:], "prompt": MBPP[:10]},
        "You are an expert Python programmer, and here is your task: Task 11. Your code should pass these tests:\n\n"
        "assert 11a\nassert 11b\nassert 11c\n[BEGIN]\n",
        "def f11():\r\n  pass\n[DONE]",
    ),
    "bbh:navigate": (
        {"navigate": [BBH_ROW]},
        "Given a series of navigation instructions, determine whether one would end up back at the starting point.\n\n"
        "Q: Turn around.\nOptions:\n- Yes\n- No\nA:",
        "No",
    ),
}
OTHERS = ("truthfulqa_mc1", "truthfulqa_mc2", "lambada", "gaokao", "bbh_cot", "bbh_direct")
MADE_HERE = ("small_world", "false_premises", "answerability")


def write(folder: Path, splits: dict[str, list[dict]]) -> Path:
    for split, rows in splits.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, "utf-8")
    return folder


def test_each_definition_is_tried_here() -> None:
    tried = {name.partition(":")[0] for name in (*CHOICES, *TEXTS)} | set(OTHERS) | set(MADE_HERE)
    assert tried == set(list_tasks())
    assert all(find_task(name).spec.about for name in list_tasks())


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name: str, tmp_path: Path) -> None:
    splits, contexts, continuations, right = CHOICES[name]
    task = find_task(name, data=write(tmp_path, splits))
    (problem,) = task.problems()
    contexts = [contexts] * len(continuations) if isinstance(contexts, str) else contexts
    assert task.pairs(problem) == tuple(zip(contexts, continuations, strict=True))
    assert problem.right == right


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name: str, tmp_path: Path) -> None:
    splits, text, target = TEXTS[name]
    task = find_task(name, data=write(tmp_path, splits))
    (problem,) = task.problems()
    assert task.text(problem) == text
    assert problem.target == target


@pytest.mark.parametrize("name", TEXTS)
def test_a_perfect_answer_is_right_by_every_metric(name: str, tmp_path: Path) -> None:
    splits, _, target = TEXTS[name]
    task = find_task(name, data=write(tmp_path, splits))
    (problem,) = task.problems()
    said = {
        "gsm8k_cot": "So it is 5. The answer is 5.",
        "mbpp": "a = 1",
        "math:algebra": "The answer is $\\frac12$.",
    }.get(name, target)
    if name == "mbpp":  # its tests are no names that exist: give some that can pass
        problem.columns["test_list"][:] = ["assert a == 1"]
    response = Response(problem=problem, completion=Completion(text=said, ids=(), finish_reason="stop"))
    found = {one.name: one.figure for one in measure(task, [response])}
    assert found == {one.name: 1 for one in task.spec.metrics}


def test_truthfulqa(tmp_path: Path) -> None:
    write(tmp_path, {"validation": [{"question": "Gum?", "mc1_targets": TRUTH, "mc2_targets": TRUTHS}]})
    one, several = (find_task(f"truthfulqa_{kind}", data=tmp_path) for kind in ("mc1", "mc2"))
    context, continuation = one.pairs(one.problems()[0])[0]
    assert context.startswith("Q: What is human life expectancy in the United States?\nA: Human life expectancy")
    assert context.endswith("held in Barcelona, Spain.\n\nQ: Gum?\nA:")
    assert continuation == " It passes."
    assert one.problems()[0].right == 0
    assert several.problems()[0].columns["labels"] == [1, 1, 0]


def test_lambada(tmp_path: Path) -> None:
    task = find_task("lambada", data=write(tmp_path, {"test": [{"text": "She looked at the  clock"}]}))
    assert task.pairs(task.problems()[0]) == (("She looked at the ", " clock"),)


def test_bbh_with_worked_examples(tmp_path: Path) -> None:
    (tmp_path / "navigate.json").write_text(json.dumps({"canary": "x", "examples": [BBH_ROW]}), "utf-8")
    (tmp_path / "cot-prompts").mkdir()
    (tmp_path / "cot-prompts" / "navigate.txt").write_text(SOLVED * 1, "utf-8")
    asked = "Q: Turn around.\nOptions:\n- Yes\n- No\nA:"
    head = (
        "Given a series of navigation instructions, determine whether one would end up back at the starting point.\n\n"
    )
    for name, shown, ending in (
        (
            "bbh_cot:navigate",
            " Let's think step by step.\nWe stand.\nSo the answer is Yes.",
            " Let's think step by step.\n",
        ),
        ("bbh_direct:navigate", " Yes", ""),
    ):
        task = find_task(name, data=tmp_path)
        (problem,) = task.problems()
        text = task.text(problem, usual_shots(task, 1)(problem))
        assert text == f"{head}Q: Stand.\nOptions:\n- Yes\n- No\nA:{shown}\n\n{asked}{ending}"
    with pytest.raises(DataError, match="has 1 demonstrations about navigate, and 3 are needed"):
        usual_shots(task)(problem)


def test_gaokao_parts_questions_that_share_a_text(tmp_path: Path) -> None:
    rows = [{"question": "读图，完成 1～2 题．", "answer": ["B", "D"]}, {"question": "选一个", "answer": ["A"]}]
    (tmp_path / "geography.json").write_text(json.dumps({"keywords": "x", "example": rows}), "utf-8")
    first, second, third = find_task("gaokao", data=tmp_path).problems()
    assert [first.right, second.right, third.right] == [1, 3, 0]
    assert first.group == second.group != third.group
    assert second.input == "读图，完成 1～2 题．\n第2小题答案："
    assert third.input == "选一个\n答案："


def test_several_right_choices_count(tmp_path: Path) -> None:
    rows = [{"query": "?", "choices": ["(A)x", "(B)y", "(C)z"], "gold": [0, 2]}]
    task = find_task("agieval:jec-qa-kd", data=write(tmp_path, {"test": rows}))
    (problem,) = task.problems()
    said = [Response(problem=problem, chosen=at) for at in range(3)]
    assert measure(task, said)[0].values == (1, 0, 1)


def test_mbpp_shows_the_three_of_its_paper(tmp_path: Path) -> None:
    task = find_task("mbpp", data=write(tmp_path, TEXTS["mbpp"][0]))
    (problem,) = task.problems()
    text = task.text(problem, usual_shots(task)(problem))
    assert [text.index(f"Task {n}.") for n in (2, 3, 4, 11)] == sorted(text.index(f"Task {n}.") for n in (2, 3, 4, 11))
    assert "[BEGIN]\ndef f4():\r\n  pass\n[DONE]\n\nYou are" in text


def test_the_small_world_is_asked_and_graded() -> None:
    task = find_task("small_world")
    problems = task.problems()
    assert {problem.subject for problem in problems} == set(task.spec.subjects)
    perfect = [
        Response(problem=problem, completion=Completion(text=problem.target, ids=(), finish_reason="stop"))
        for problem in problems
    ]
    right, objected, wrongly = measure(task, perfect)
    assert (right.figure, objected.figure, wrongly.figure) == (1, 1, 0)
    assert objected.n == wrongly.n == sum(problem.subject == "premise" for problem in problems) / 2
    none = [replace(one, completion=replace(one.completion, text="There are no legs.")) for one in perfect]
    assert measure(task, none)[2].figure > 0.1
    shared = {p.columns["combination"] for p in task.pool()} & {p.columns["combination"] for p in problems}
    assert not shared
    assert len(usual_shots(task, 3)(problems[0])) == 3


@pytest.mark.parametrize("name", ["false_premises", "answerability"])
def test_own_questions_come_in_pairs_of_both_languages(name: str) -> None:
    task = find_task(name)
    problems = task.problems()
    for language in ("en", "zh"):
        own = [problem for problem in problems if problem.language == language]
        assert len(own) >= 60
        groups = {problem.group for problem in own}
        assert 2 * len(groups) == len(own)
        assert all({p.columns["sound"] for p in own if p.group == group} == {True, False} for group in groups)
    assert len({problem.input for problem in problems}) == len(problems)
    said = {True: lambda p: p.target, False: lambda p: "没有。" if p.language == "zh" else "There is no such thing."}
    perfect = [
        Response(problem=p, completion=Completion(text=said[p.columns["sound"]](p), ids=(), finish_reason="stop"))
        for p in problems
    ]
    figures = {one.name: one.figure for one in measure(task, perfect)}
    assert figures == {"right_objections": 1, "wrong_objections": 0, "answered": 1, "all": 1}
    assert task.messages(problems[0])[-1].content == problems[0].columns["question"]
