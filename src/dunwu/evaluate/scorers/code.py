"""The tests of a row, run against the code of an answer in a process of its own (`evaluate/sandbox.py` says what holds it).

Tests are Python: text, or a list of texts, each a test; HumanEval's `check` is called with the column `entry_point`. Objects
with `input` and `output` are programs' standard input and what they must print. Code and tests share a process: an answer that
sets out to deceive its tests can, so look at what a model that learns from this writes.
"""

import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from dunwu.core.errors import DataError
from dunwu.core.rewards import CodeReward
from dunwu.core.units import parse_bytes
from dunwu.evaluate.sandbox import Limits, run_python
from dunwu.evaluate.scorers.base import Case, asked, column

_FENCED = re.compile(r"```[ \t]*(\w*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
AT_ONCE = 8
# Each passed test is told at once, so that a later one that hangs takes nothing from it.
_HARNESS = """\
import os
MARK, CODE, TESTS = {mark!r}, {code}, {tests}
def told(text, write=os.write, mark=MARK):
    write(1, ("\\n" + mark + text + "\\n").encode())
scope = {{"__name__": "__main__"}}
try:
    exec(compile(CODE, "answer.py", "exec"), scope)
except SystemExit:
    pass
for number, test in enumerate(TESTS):
    try:
        exec(compile(test, "test.py", "exec"), dict(scope))
    except BaseException:
        continue
    told(str(number))
"""


class CodeScorer:
    """Reads the column `spec.tests`: 1 where all pass, 0 otherwise, or the share that passes."""

    def __init__(self, spec: CodeReward, *, name: str = "code") -> None:
        self.spec, self.name = spec, name
        memory = parse_bytes(spec.memory) if spec.memory != "auto" else Limits().memory_bytes
        self.limits = Limits(timeout_s=spec.timeout_s, memory_bytes=memory)

    def __call__(self, cases: Sequence[Case]) -> list[float]:
        work = [(case, self._tests(case)) for case in cases]
        with ThreadPoolExecutor(max_workers=min(AT_ONCE, os.cpu_count() or 1)) as pool:
            passed = list(pool.map(lambda one: self._passed(*one), work))
        shares = [count / len(tests) for count, (_, tests) in zip(passed, work, strict=True)]
        return shares if self.spec.count == "share" else [float(share == 1) for share in shares]

    def _tests(self, case: Case) -> list[Any]:
        value = column(case, self.spec.tests, self.name)
        tests = cast("list[Any]", value if isinstance(value, list) else [value])
        if not tests or not all(isinstance(test, str) or _is_program_test(test) for test in tests):
            raise DataError(
                f"the column {self.spec.tests!r} of {asked(case)} holds no tests: {str(value)[:60]!r}; write Python text, a list "
                'of such, or a list of {"input": …, "output": …}'
            )
        return tests

    def _passed(self, case: Case, tests: Sequence[Any]) -> int:
        code = code_in(case.completion.text)
        entry = case.columns.get("entry_point")
        if isinstance(entry, str) and not re.search(rf"(?m)^\s*(?:async\s+)?def\s+{re.escape(entry)}\b", code):
            before = case.prompt[-1].content.rstrip("\n")
            code = f"{before}\n{code}"  # the answer goes on after the prompt's code
        texts = [_with_check(test, entry) for test in tests if isinstance(test, str)]
        passed = self._run_tests(code, texts) if texts else 0
        return passed + sum(self._prints(code, test) for test in tests if not isinstance(test, str))

    def _run_tests(self, code: str, tests: Sequence[str]) -> int:
        mark = secrets.token_hex(16)
        program = _HARNESS.format(mark=mark, code=json.dumps(code), tests=json.dumps(list(tests)))
        output = run_python(program, self.limits).output
        told = {line.removeprefix(mark) for line in output.splitlines() if line.startswith(mark)}
        return len(told & {str(number) for number in range(len(tests))})

    def _prints(self, code: str, test: Mapping[str, Any]) -> bool:
        outcome = run_python(code, self.limits, given=str(test["input"]))
        return outcome.status == 0 and _lines(outcome.output) == _lines(str(test["output"]))


def code_in(text: str) -> str:
    """The code of an answer: its last block between ``` lines, in Python where one says so; else all of it."""
    blocks = _FENCED.findall(text)
    python = [code for language, code in blocks if language.lower() in ("python", "py", "python3")]
    return (python or [code for _, code in blocks] or [text])[-1]


def _is_program_test(test: Any) -> bool:
    return isinstance(test, Mapping) and {"input", "output"} <= test.keys()


def _with_check(test: str, entry: Any) -> str:
    calls = isinstance(entry, str) and re.search(r"(?m)^def check\(", test) and not re.search(r"(?m)^check\(", test)
    return f"{test}\ncheck({entry})\n" if calls else test


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
