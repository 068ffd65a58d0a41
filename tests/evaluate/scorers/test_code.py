"""Code is judged by its tests in a process that is held: what it does too long, too large or outside ends there."""

from pathlib import Path

import pytest

from dunwu.core.errors import DataError
from dunwu.core.recipe import PromptFileSource
from dunwu.core.records import Completion
from dunwu.core.rewards import CodeReward
from dunwu.corpus.prompts import load_prompts
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


FORGERIES = {
    "equal to everything": "class All:\n    def __eq__(self, other): return True\n    def __hash__(self): return 9\ndef square(x): return All()",
    "another equality of numbers": "class All(float):\n    def __eq__(self, other): return True\n    def __abs__(self): return All(9)\ndef square(x): return All(1)",
    "says that all passed": "import os\nfor f in range(10):\n    try: os.write(f, b'\\n0\\n1\\n2\\n')\n    except OSError: pass",
    "says so when asked": "import os, sys\ndef square(x):\n    for f in range(10):\n        try: os.write(f, b'\\n0\\n1\\n2\\n')\n        except OSError: pass",
    "ends well": "import os\ndef square(x): os._exit(0)",
    "ends at exit": "import atexit, os\natexit.register(os._exit, 0)\ndef square(x): raise SystemExit(0)",
    "another assert": "import builtins\nbuiltins.AssertionError = KeyError\ndef square(x): return 0",
    "other built-in functions": "import builtins\nabs = all = len = isinstance = lambda *a: 0\nbuiltins.exec = builtins.compile = lambda *a: None\ndef square(x): return 0",
    "other modules": "import json, sys\njson.dumps = json.loads = lambda *a: {'value': 9}\nsys.modules.clear()\ndef square(x): return 0",
    "changes its caller": "import sys\ndef square(x):\n    f = sys._getframe()\n    while f:\n        f.f_globals.update(TESTS=[], number=2)\n        f = f.f_back\n    return 0",
    "looks for the tests": "import gc, re\ndef square(x):\n    for o in gc.get_objects():\n        if isinstance(o, dict) and 'TESTS' in o: return eval(o['TESTS'][0].split('==')[1])\n    return 0",
    "reads the tests from a file": "import os\ndef square(x):\n    for name in os.listdir('.'):\n        found = open(name).read()\n        if '== 9' in found.split('CODE = ')[0]: return 9\n    return 0",
    "traces": "import sys\nsys.settrace(lambda f, e, a: f.f_globals.update(square=lambda x: 9) if e == 'call' else None)\ndef square(x): return 0",
    "breaks the line": "import os\ndef square(x):\n    os.closerange(0, 10)",
    "writes a reply without end": "import os\ndef square(x):\n    while True: os.write(3, b'x' * 65536)",
    "a deep reply": "def square(x):\n    x = []\n    for _ in range(900): x = [x]\n    return x",
    "sends builtins": "def square(x): return 0\n__builtins__ = {'abs': lambda x: 0}",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_no_answer_can_forge_the_verdict(name):
    assert (
        score(FORGERIES[name], [*TESTS, "assert abs(square(3) - 9) < 0.1"], CodeReward(timeout_s=2, count="share")) == 0
    )


SOLVED = """
import math, collections
LIMIT = 7
Pair = collections.namedtuple("Pair", "a b")
class Stack:
    def __init__(self, *items): self.items = list(items)
    def push(self, item): self.items.append(item); return self
    def __len__(self): return len(self.items)
    def __add__(self, other): return Stack(*self.items, *other.items)
    def __eq__(self, other): return self.items == other.items
    def __getitem__(self, n): return self.items[n]
    def __str__(self): return f"Stack of {len(self)}"
def types(): return (1, 2.5, "é\\ud800", b"x", None, {1: (2,)}, {3}, frozenset([4]), 1j, range(3), float("inf"), 10 ** 5000)
def sort(items): items.sort(); return None
def count(n):
    for i in range(n): yield i
def fail(kind): raise kind_of[kind]("said")
kind_of = {"value": ValueError, "own": type("Own", (Exception,), {})}
def pair(): return Pair(1, 2)
def apply(stack): return stack.push(9)
"""


@pytest.mark.parametrize(
    "test",
    [
        "assert types() == (1, 2.5, 'é\\ud800', b'x', None, {1: (2,)}, {3}, frozenset([4]), 1j, range(3), float('inf'), 10 ** 5000)",
        "assert [type(one) for one in types()[:4]] == [int, float, str, bytes]",
        "x = [3, 1, 2]\nassert sort(x) is None\nassert x == [1, 2, 3]",
        "assert list(count(3)) == [0, 1, 2]\nassert next(count(1)) == 0",
        "assert LIMIT == 7 and math.pi > 3 and collections.Counter('aab')['a'] == 2",
        "s = Stack(1, 2)\ns.push(3).push(4)\nassert len(s) == 4 and s.items == [1, 2, 3, 4] and s[0] == 1 and str(s) == 'Stack of 4'",
        "assert Stack(1) + Stack(2) == Stack(1, 2)\nassert Stack(1) != Stack(2)\nassert Stack(1) != [1]",
        "try: fail('value')\nexcept ValueError as e: assert str(e) == 'said'\nelse: assert False",
        "try: fail('own')\nexcept Exception as e: assert str(e) == 'said'\nelse: assert False",
        "assert pair() == (1, 2)",
        "assert apply(Stack()).items == [9]\nassert list(Stack(5, 6)) == [5, 6] and 5 in Stack(5)",
        "def check(candidate):\n    assert candidate(2) is not None\ncheck(count)",
    ],
)
def test_tests_that_run_apart_see_what_they_would_see_beside_it(test):
    assert score(SOLVED, [test]) == 1
    assert score(SOLVED, [test + "\nassert False"]) == 0
