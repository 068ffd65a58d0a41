"""A task's rows become problems, and problems prompts."""

import json
from pathlib import Path

import pytest

from dunwu.core.errors import DataError, RecipeError
from dunwu.evaluate.tasks.finding import find_task

CAPITALS = """\
name: capitals
output: choice
source: {files: {test: test.jsonl, dev: dev.jsonl}}
description: "Questions about {{subject_name}}.\\n\\n"
subject: "{{subject}}"
subjects: {europe: the west, asia: the east}
input: "Q: {{question}}\\nA:"
choices: "{{options}}"
right: "{{key}}"
shots: {count: 1, split: dev}
metrics: [acc]
"""
ROWS = [
    {"subject": "asia", "question": "The capital of Japan?", "options": ["Kyoto", "Tokyo"], "key": "B"},
    {"subject": "europe", "question": "The capital of France?", "options": ["Paris", "Lyon"], "key": 0},
]
DEV = [
    {"subject": "europe", "question": "The capital of Spain?", "options": ["Madrid", "Bilbao"], "key": "Madrid"},
    {"subject": "asia", "question": "The capital of China?", "options": ["Shanghai", "Beijing"], "key": "1"},
]


def write(folder: Path, name: str, rows: list[dict]) -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture
def capitals(tmp_path: Path) -> Path:
    (tmp_path / "capitals.yaml").write_text(CAPITALS, "utf-8")
    write(tmp_path, "test.jsonl", ROWS)
    write(tmp_path, "dev.jsonl", DEV)
    return tmp_path / "capitals.yaml"


def test_prompt_is_description_demonstrations_of_the_subject_and_question(capitals: Path) -> None:
    task = find_task(capitals)
    japan, france = task.problems()
    assert (japan.id, france.id) == ("asia/0", "europe/0")
    assert (japan.right, france.right) == (1, 0)
    shots = task.pool_of(japan)
    assert [shot.target for shot in shots] == ["Beijing"]
    assert task.text(japan, shots) == (
        "Questions about the east.\n\nQ: The capital of China?\nA: Beijing\n\nQ: The capital of Japan?\nA:"
    )
    assert [continuation for _, continuation in task.pairs(japan)] == [" Kyoto", " Tokyo"]
    assert {context for context, _ in task.pairs(japan, shots)} == {task.text(japan, shots)}
    assert task.alone(japan) == (("", " Kyoto"), ("", " Tokyo"))


def test_a_chat_is_asked_in_turns_with_lettered_choices(capitals: Path) -> None:
    task = find_task(capitals)
    japan = task.problems()[0]
    messages = task.messages(japan, task.pool_of(japan))
    assert [message.role for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[0].content == "Questions about the east."
    assert messages[2].content == "B"
    assert messages[3].content.startswith("Q: The capital of Japan?\nA:\nA. Kyoto\nB. Tokyo\n")


def test_more_choices_than_letters_are_asked_by_likelihood_alone(capitals: Path) -> None:
    write(capitals.parent, "test.jsonl", [{**ROWS[0], "options": [f"town {n}" for n in range(30)], "key": 29}])
    task = find_task(capitals)
    (problem,) = task.problems()
    assert len(task.pairs(problem)) == 30
    with pytest.raises(DataError, match="asia/0 has 30 choices, more than there are letters; ask by likelihood"):
        task.messages(problem)


def test_subjects_can_be_chosen(capitals: Path) -> None:
    assert [problem.subject for problem in find_task(f"{capitals}:europe").problems()] == ["europe"]
    with pytest.raises(DataError, match=r"unknown subject 'europa' is asked for; did you mean europe\?"):
        find_task(f"{capitals}:europa").problems()


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (
            {"question": "?", "options": ["a", "b"], "key": 0},
            r"test\.jsonl, line 2: no field 'subject', which `subject` reads",
        ),
        (
            {"subject": "asia", "Question": "?", "options": ["a"], "key": 0},
            r"line 2: no field 'question'.*did you mean 'Question'",
        ),
        (
            {"subject": "asia", "question": "?", "options": ["a", "b"], "key": "C"},
            r"answer key 'C'.*none of the 2 choices.*0 to 1",
        ),
        (
            {"subject": "asia", "question": "?", "options": ["a", "b"], "key": 2},
            r"answer key 2 .*none of the 2 choices",
        ),
        ({"subject": "asia", "question": "?", "options": "ab", "key": 0}, r"`choices` gave 'ab', which is no list"),
        (
            {"subject": "africa", "question": "?", "options": ["a", "b"], "key": 0},
            r"unknown subject 'africa' stands in .*line 2",
        ),
    ],
)
def test_a_row_that_does_not_fit_is_named_with_file_line_and_field(capitals: Path, row: dict, complaint: str) -> None:
    write(capitals.parent, "test.jsonl", [ROWS[0], row])
    with pytest.raises(DataError, match=complaint):
        find_task(capitals).problems()


def test_an_empty_file_and_ids_that_occur_twice_are_refused(capitals: Path) -> None:
    write(capitals.parent, "test.jsonl", [])
    with pytest.raises(DataError, match=r"test\.jsonl has no rows"):
        find_task(capitals).problems()
    write(capitals.parent, "test.jsonl", [{**ROWS[0], "number": 7}, {**ROWS[1], "number": 7}])
    capitals.write_text(CAPITALS + 'id: "{{number}}"\n', "utf-8")
    with pytest.raises(DataError, match=r"line 2 and .*line 1 have the same id '7'"):
        find_task(capitals).problems()


def test_what_the_data_say_is_never_read_as_a_template(capitals: Path) -> None:
    write(capitals.parent, "test.jsonl", [{**ROWS[0], "question": "{{ 7 * 7 }} {% raw %}"}])
    assert find_task(capitals).problems()[0].input == "Q: {{ 7 * 7 }} {% raw %}\nA:"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("inptu: x", r"capitals\.yaml: unknown key inptu: did you mean input\?"),
        ("shots: {cout: 3}", r"unknown key shots\.cout: did you mean shots\.count\?"),
        ("metrics: [bleu_99]", r"metrics\.0.*'bleu_99'"),
        ("output: perplexity", r"capitals\.yaml: output=perplexity needs `target`"),
        ("right: ''", r"capitals\.yaml: output=choice needs `choices`, and `right`"),
        ("metrics: [greedy]", r"the metric 'greedy' is for output=perplexity, not choice"),
        ("metrics: [acc, acc]", r"two metrics are called 'acc'"),
        ("metrics: [{name: x, filters: [{regex: '('}]}]", r"metrics\.0\.filters\.0.*is no regular expression"),
        ("metrics: [{name: x, filters: [hashs]}]", r"filters\.0.*'hashs'.*must be 'regex', 'hashes'"),
        ("metrics: [{name: x, score: {kind: match, anser: b}}]", r"unknown key metrics\.0\.score\.anser: did you mean"),
        ("metrics: [{name: x, score: '0.5*match'}]", r"metrics\.0.*score\.weight is for rewards"),
        ("metrics: [{name: x, score: {kind: model, path: x}}]", r"a reward model is no metric of a task"),
        ("zzzzzz: 1", r"unknown key zzzzzz: remove it, or see docs/tasks\.md"),
        ("output: chioce", r"output='chioce': must be 'choice', 'text' or 'perplexity'"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_would_be_right(capitals: Path, line: str, complaint: str) -> None:
    key = line.partition(":")[0]
    kept = [old for old in CAPITALS.splitlines() if not old.startswith(f"{key}:")]
    capitals.write_text("\n".join([*kept, line]), "utf-8")
    with pytest.raises(RecipeError, match=complaint):
        find_task(capitals)


def test_a_task_without_an_input_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("target: x", "utf-8")
    with pytest.raises(RecipeError, match=r"a\.yaml: input is missing; write it there$"):
        find_task(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{ question", r"test\.jsonl, line 1: `input`: .*unexpected end of template.*mend it"),
        ("{{ key.strip().strip().nothing() }}", r"`input`: the template .* cannot be used on this row"),
        ("{{ question.__class__.__mro__ }}", r"access to attribute '__class__' of 'str' object is unsafe"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}", r"does not come to an end"),
        ("{{ question|uper }}", r"No filter named 'uper'"),
        ("{{ topic }}", r"no field 'topic', which `input` reads; the row has subject, question, options, key"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(capitals: Path, template: str, complaint: str) -> None:
    lines = [line for line in CAPITALS.splitlines() if not line.startswith("input:")]
    capitals.write_text("\n".join([*lines, f"input: '{template}'"]), "utf-8")
    with pytest.raises(DataError, match=complaint):
        find_task(capitals).problems()


def test_a_name_that_nobody_knows_gets_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"there is no task 'gsm8'; did you mean gsm8k\?"):
        find_task("gsm8")


def test_a_function_gives_rows(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from dunwu.evaluate.tasks.functions import task\n"
        "@task(input='{{a}}+{{b}}=', target='{{a+b}}', shots={'split': 'train', 'count': 1})\n"
        "def sums(split):\n"
        "    start = 0 if split == 'test' else 10\n"
        "    return [{'a': n, 'b': n + 1} for n in range(start, start + 3)]\n",
        "utf-8",
    )
    task = find_task(f"{tmp_path / 'own.py'}:sums")
    assert [problem.target for problem in task.problems()] == ["1", "3", "5"]
    assert task.text(task.problems()[1], task.pool_of(task.problems()[1])[:1]) == "10+11= 21\n\n1+2="
    with pytest.raises(RecipeError, match="has no task 'products'; it has sums"):
        find_task(f"{tmp_path / 'own.py'}:products")
