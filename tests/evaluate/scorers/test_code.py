"""Code is judged by its tests in a process that is held: what it does too long, too large or outside ends there."""

import sys
import time
from pathlib import Path

import pytest

from dunwu.core.errors import DataError
from dunwu.core.recipe import PromptFileSource
from dunwu.core.records import Completion
from dunwu.core.rewards import CodeReward
from dunwu.corpus.prompts import load_prompts
from dunwu.evaluate.sandbox import READ_ONLY, Limits, run_python, walls
from dunwu.evaluate.scorers.base import Case
from dunwu.evaluate.scorers.code import CodeScorer, code_in
from tests.evaluate.scorers.helpers import case

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
SQUARE = "Here it is:\n```python\ndef square(x):\n    return x * x\n```\nDone."
TESTS = ["assert square(3) == 9", "assert square(-2) == 4", "assert square(0.5) == 0.25"]
quick = CodeReward(timeout_s=5)


def score(text, tests, spec=quick, **columns):
    return CodeScorer(spec)([case(text, tests=tests, **columns)])[0]


def test_all_tests_or_a_share_of_them():
    wrong = SQUARE.replace("x * x", "abs(x) * 3")
    cases = [case(SQUARE, tests=TESTS), case(wrong, tests=TESTS), case("no code", tests=TESTS)]
    assert CodeScorer(quick)(cases) == [1, 0, 0]
    assert CodeScorer(CodeReward(count="share"))(cases) == [1, pytest.approx(1 / 3), 0]
    assert score(SQUARE, "\n".join(TESTS)) == 1


def test_one_test_that_hangs_takes_nothing_from_those_before():
    text = "def f(x):\n    while x == 2: pass\n    return x"
    tests = ["assert f(1) == 1", "assert f(2) == 2", "assert f(3) == 3"]
    assert score(text, tests, CodeReward(count="share", timeout_s=1)) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "text",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "print('0\\n1\\n2')",
        "raise KeyboardInterrupt",
        "def square(x): import sys; sys.exit(0)",
        "x = 'a' * (1 << 40)",
        "def square(:",
        "def square(x): return square(x)",
    ],
)
def test_what_gives_no_right_answer_passes_no_test(text):
    assert score(text, TESTS) == 0


def test_human_eval_rows():
    prompt = "def add(a, b):\n    '''Sum.'''\n"
    check = "def check(candidate):\n    assert candidate(1, 2) == 3\n"
    scorer = CodeScorer(CodeReward(tests="test"))
    cases = [
        case(body, asked=prompt, test=check, entry_point="add") for body in ("    return a + b", "    return a - b")
    ]
    cases.append(case("```python\ndef add(a, b): return a + b\n```", asked=prompt, test=check, entry_point="add"))
    assert scorer(cases) == [1, 0, 1]


def test_programs_that_read_and_print():
    text = "```python\nprint(sum(map(int, input().split())))\n```"
    assert score(text, [{"input": "1 2\n", "output": "3"}, {"input": "5 5", "output": "10\n"}]) == 1
    assert score(text, [{"input": "1 2\n", "output": "4"}]) == 0


def test_tests_that_are_none_are_named():
    for tests in ([], 5, [{"in": 1}], {"a": 1}):
        with pytest.raises(DataError, match="holds no tests"):
            score("x", tests)


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not beside the checkout")
def test_the_solutions_of_human_eval_pass_and_others_do_not():
    file = DATA / "eval_humaneval" / "HumanEval_even.jsonl.gz"
    prompts = load_prompts([PromptFileSource(path=str(file), cap=12)])
    scorer = CodeScorer(CodeReward(tests="test"))
    solved, whole, empty = (
        [
            Case(
                prompt=prompt.messages,
                completion=Completion(text=text(prompt.columns), ids=(), finish_reason="stop"),
                columns=prompt.columns,
            )
            for prompt in prompts
        ]
        for text in (
            lambda row: row["canonical_solution"],
            lambda row: f"So:\n```python\n{row['prompt']}{row['canonical_solution']}\n```",
            lambda row: "    return None\n",
        )
    )
    assert scorer([*solved, *whole, *empty]) == [1] * 24 + [0] * 12


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```\na\n```\n```python\nb\n```\n```text\nc\n```", "b\n"),
        ("```\na\n```", "a\n"),
        ("```py\ncut short", "cut short"),
        ("plain", "plain"),
    ],
)
def test_code_in_an_answer(text, code):
    assert code_in(text) == code


def test_limits_hold():
    begun = time.monotonic()
    assert run_python("while True: pass", Limits(timeout_s=1)).status is None
    assert run_python("import time; time.sleep(60)", Limits(timeout_s=1)).status is None
    assert time.monotonic() - begun < 20
    assert "MemoryError" in run_python("x = bytearray(1 << 30)", Limits()).errors
    assert run_python("open('x', 'wb').write(bytes(1 << 25))", Limits()).status != 0
    assert "Too many open files" in run_python("a = [open('x', 'w') for _ in range(99)]", Limits()).errors
    printed = run_python("import sys\nwhile True: sys.stdout.write('x' * 65536)", Limits(timeout_s=2))
    assert printed.status != 0
    assert len(printed.output) <= 1 << 20


def test_it_sees_an_empty_folder_and_nothing_of_our_environment(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "s")
    seen = run_python("import os; print(os.listdir('.'), 'SECRET_KEY' in os.environ, input())", Limits(), given="in")
    assert seen.output == "['input.txt', 'program.py'] False in\n"


def test_what_it_started_does_not_outlive_it_and_there_is_no_network(tmp_path):
    if "no network" not in walls():
        pytest.skip("this machine lets us make no namespaces")
    mark = tmp_path / "alive"
    run_python(
        f"import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(1)\n    open({str(mark)!r}, 'w')",
        Limits(),
    )
    net = run_python("import socket\nsocket.create_connection(('127.0.0.1', 1), 2)\n", Limits()).errors
    assert "unreachable" in net or "refused" in net or "not permitted" in net
    names = run_python("import socket; print([name for _, name in socket.if_nameindex()])", Limits()).output
    assert names == "['lo']\n"
    if sys.platform == "linux":
        others = run_python("import os; print([p for p in os.listdir('/proc') if p.isdigit()])", Limits()).output
        assert others in ("['1']\n", "['1', '2']\n")  # its own, and bubblewrap's
    time.sleep(1.5)
    assert not mark.exists()


def test_with_bubblewrap_nothing_outside_its_folder_can_be_written(tmp_path):
    if READ_ONLY not in walls():
        pytest.skip("there is no bubblewrap that works here")
    code = f"open('own', 'w').write('x')\ntry:\n    open({str(tmp_path / 'x')!r}, 'w')\nexcept OSError:\n    print('refused')"
    assert run_python(code, Limits()).output == "refused\n"
    assert not list(tmp_path.iterdir())
