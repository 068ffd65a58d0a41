"""A user's function is a scorer, and each way in which it can fail becomes one error that names it, the row and the remedy."""

import math
import os
import signal
import textwrap
import time
from pathlib import Path

import pytest

from dunwu.core.errors import DataError
from dunwu.core.rewards import FunctionReward
from dunwu.evaluate.scorers.base import WeightedSum
from dunwu.evaluate.scorers.function import FunctionScorer
from tests.evaluate.scorers.helpers import case


@pytest.fixture
def scorer(tmp_path):
    made = []

    def make(code, **options):
        file = tmp_path / "mine.py"
        file.write_text(textwrap.dedent(code), "utf-8")
        made.append(FunctionScorer(FunctionReward(path=f"{file}:score", **options)))
        return made[-1]

    yield make
    for one in made:
        one.close()


CASES = [case("ab", asked="first?", gold=1, ids=(5, 6)), case("abc", asked="second?", gold=2), case("", asked="third?")]


def test_texts_and_columns_come_by_name(scorer):
    made = scorer(
        """
        import helper_beside
        print("what it prints does no harm")
        def score(prompts, completions, gold, completion_ids, **columns):
            assert prompts == ["first?", "second?", "third?"], prompts
            assert completion_ids == [[5, 6], [], []]
            assert set(columns) == {"finish_reason"}
            return [None if g is None else len(c) + g * helper_beside.TEN for c, g in zip(completions, gold)]
        """.replace("import helper_beside", "class helper_beside: TEN = 10")
    )
    assert made(CASES)[:2] == [12, 23]
    assert math.isnan(made(CASES)[2])
    assert made([]) == []


def test_messages_where_they_are_wanted_as_trl_gives_them(scorer):
    made = scorer(
        """
        def score(prompts, completions, **kwargs):
            assert prompts[0] == [{"role": "user", "content": "first?"}]
            return [float(len(completion[0]["content"])) for completion in completions]
        """,
        messages=True,
    )
    assert made(CASES) == [2, 3, 0]


def test_a_function_that_takes_few_is_given_few_and_may_import_its_neighbours(scorer, tmp_path):
    (tmp_path / "neighbour.py").write_text("def length(text): return len(text)")
    made = scorer(
        "import neighbour, math\ndef score(completions, prompts): return list(map(neighbour.length, completions))"
    )
    assert made(CASES) == [2, 3, 0]


def test_an_asynchronous_function_and_arrays(scorer):
    made = scorer(
        """
        import numpy
        async def score(prompts, completions, **_): return numpy.array([len(c) > 2 for c in completions])
        """
    )
    assert made(CASES) == [0, 1, 0]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            "[1 / len(c) for c in completions]",
            r"failed on row 3 of 3, 'third\?', answered '': ZeroDivisionError.*line 2 of mine.py.*mend it",
        ),
        ("[1.0]", r"gave 1 scores for 3 answers; return a list with one for each"),
        ("[0, float('nan'), 1]", r"gave nan \(float\) for row 2 of 3, 'second\?'; return a finite number"),
        ("[0, 1, float('-inf')]", r"gave -inf \(float\) for row 3"),
        ("['0.5', 0, 1]", r"gave '0.5' \(str\) for row 1"),
        ("0.5", r"failed.*it returned 0.5 \(float\), not a list"),
        ("'abc'", r"it returned 'abc' \(str\)"),
        ("{1: 2}", r"it returned \{1: 2\}"),
        ("[{}[c] for c in completions]", r"failed on row 1 of 3.*KeyError: 'ab'"),
        ("columns['nope']", r"KeyError: 'nope'"),
        ("__import__('sys').exit(3)", r"SystemExit: 3"),
    ],
)
def test_what_goes_wrong_is_one_error_that_names_it(scorer, body, says):
    made = scorer(f"def score(prompts, completions, **columns):\n    return {body}")
    with pytest.raises(DataError, match=rf"the reward function 'score' of mine.py.*{says}") as failed:
        WeightedSum([(1.0, made)])(CASES)
    assert "\n" not in str(failed.value)


def test_a_failure_of_the_whole_batch_alone_names_no_row(scorer):
    made = scorer(
        "def score(prompts, completions, **_):\n    if len(prompts) > 1: raise ValueError('too many')\n    return [1.0]"
    )
    with pytest.raises(DataError, match=r"mine.py failed: ValueError: too many \(line 2 of mine.py\); mend it in /"):
        made(CASES)
    assert made(CASES[:1]) == [1]


def test_one_that_hangs_is_left_with_all_that_it_started_and_can_be_asked_again(scorer, tmp_path):
    made = scorer(
        f"""
        import subprocess, time
        def score(prompts, completions, **_):
            if "slow?" in prompts:
                child = subprocess.Popen(["sleep", "1000"])
                open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
                time.sleep(1000)
            return [1.0 for _ in prompts]
        """,
        timeout_s=1.5,
    )
    before = time.monotonic()
    with pytest.raises(
        DataError, match=r"took longer than 1.5 s on the rows 1 to 1, the first of which asks 'slow\?'.*timeout_s"
    ):
        made([case("x", asked="slow?")])
    assert time.monotonic() - before < 20
    assert _gone(int((tmp_path / "pid").read_text()))
    assert made(CASES) == [1, 1, 1]


def _gone(pid):
    for _ in range(50):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
            os.kill(pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.1)
    return False


def test_one_that_kills_its_process_is_an_error_too(scorer):
    made = scorer("import os\ndef score(prompts, completions, **_): os.kill(os.getpid(), 9)")
    with pytest.raises(DataError, match=rf"ended its process with status -{signal.SIGKILL.value} on the rows 1 to 3"):
        made(CASES)
    made = scorer("import os\ndef score(prompts, completions, **_): os._exit(7)")
    with pytest.raises(DataError, match="ended its process with status 7"):
        made(CASES)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def other(): pass", r"cannot be loaded: the file has no function 'score'; it has other"),
        ("def score(:", r"cannot be loaded: SyntaxError"),
        ("import no_such_module", r"cannot be loaded: ModuleNotFoundError.*no_such_module.*line 1 of mine.py"),
        ("1 / 0", r"ZeroDivisionError"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_an_error_before_anything_begins(scorer, code, says):
    with pytest.raises(DataError, match=says):
        scorer(code)


def test_a_column_that_no_row_has_is_named(scorer):
    made = scorer("def score(prompts, completions, golden): return [1.0 for _ in prompts]")
    with pytest.raises(
        DataError, match=r"it takes the column 'golden', and the rows have completion_ids, finish_reason, gold"
    ):
        made(CASES)


def test_a_missing_file_and_a_column_without_json(scorer, tmp_path):
    with pytest.raises(DataError, match=r"none.py does not exist; give FILE.py:NAME"):
        FunctionScorer(FunctionReward(path=str(tmp_path / "none.py") + ":f"))
    made = scorer("def score(prompts, completions, **_): return [1.0 for _ in prompts]")
    with pytest.raises(DataError, match="a column cannot be given"):
        made([case("x", thing=object())])


def test_a_reward_function_of_trls_serves_as_it_is(scorer):
    pytest.importorskip("trl.rewards", reason="trl is not installed")
    made = scorer("from trl.rewards import think_format_reward as score", messages=True)
    assert made([case("<think>\nx\n</think>\n4"), case("4")]) == [1, 0]
