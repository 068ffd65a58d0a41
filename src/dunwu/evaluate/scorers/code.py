"""The tests of a row, run against the code of an answer behind walls (`evaluate/sandbox.py` says what holds it).

Tests are Python: text, or a list of texts, each a test; HumanEval's `check` is called with the column `entry_point`. Objects
with `input` and `output` are programs' standard input and what they must print. Tests run apart from the answer, which therefore
cannot deceive them (`evaluate/apart.py`).
"""

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from dunwu.core.errors import DataError
from dunwu.core.rewards import CodeReward
from dunwu.core.units import parse_bytes
from dunwu.evaluate.apart import passed_tests
from dunwu.evaluate.sandbox import Limits, require_walls, run_python
from dunwu.evaluate.scorers.base import Case, asked, column

_FENCED = re.compile(r"```[ \t]*(\w*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
AT_ONCE = 8


class CodeScorer:
    """Reads the column `spec.tests`: 1 where all pass, 0 otherwise, or the share that passes."""

    def __init__(self, spec: CodeReward, *, name: str = "code") -> None:
        self.spec, self.name = spec, name
        memory = parse_bytes(spec.memory) if spec.memory != "auto" else Limits().memory_bytes
        require_walls(allow_weak=spec.allow_weak)
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
        return len(passed_tests(code, tests, self.limits, allow_weak=self.spec.allow_weak))

    def _prints(self, code: str, test: Mapping[str, Any]) -> bool:
        outcome = run_python(code, self.limits, given=str(test["input"]), allow_weak=self.spec.allow_weak)
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
