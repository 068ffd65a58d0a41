"""What a text gives as its final answer, and which answers are one value: by hand, and beside math-verify."""

import gzip
import json
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwu.core.errors import DataError, MissingExtraError
from dunwu.core.final_answer import final_answer, same_answer, value_of
from dunwu.core.rewards import MathReward
from dunwu.evaluate.scorers import math as scorer_file
from dunwu.evaluate.scorers.math import MathScorer
from tests.evaluate.scorers.helpers import case

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        (r"\boxed{3}, no: \boxed{4}", "4"),
        (r"\boxed{3", "3"),
        (r"5 \boxed{x_{1}} 7", "x_{1}"),
        ("2 + 2 = 4\n#### 1,234\n", "1,234"),
        ("The answer is 72 clips.", "72 clips"),
        ("The answer is $18.50.", "18.50"),
        ("The answer is: **3.5**.", "3.5"),
        ("The answer is 5, because 2 + 3 is.", "5"),
        ("The answer is 4. Wait. The answer is 5.", "5"),
        ("The answer is about 20 people in all.", "20"),
        ("The answer is 3 or 4.", "3 or 4"),
        ("Answer: 1 1/2", "1 1/2"),
        ("所以答案是12。", "12"),
        ("答案：１２个", "12个"),
        ("She has 3 and gets 4, so 7 are there.", "7"),
        ("It was 3-5 days", "5"),
        ("It fell to -5", "-5"),
        ("nothing of that kind", None),
        ("", None),
    ],
)
def test_final_answers(text, answer):
    assert final_answer(text) == answer


def test_the_last_number_is_no_answer_where_it_is_not_wanted():
    assert final_answer("so 7 are there", last_number=False) is None
    cases = [case("so 7 are there", answer=7), case("The answer is 7", answer=7)]
    assert MathScorer(MathReward(last_number=False))(cases) == [0, 1]
    assert MathScorer(MathReward())(cases) == [1, 1]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0.5", r"\frac12", True),
        (r"\dfrac{3}{4}", "0.75", True),
        ("50%", "0.5", True),
        (r"50\%", "50", True),
        ("1,000", "1000", True),
        (r"2\frac{1}{2}", "2.5", True),
        ("-1 1/2", "-1.5", True),
        ("x = 5", "5", True),
        (r"1.5 \times 10^{3}", "1500", True),
        ("1e3", "1000", True),
        ("0.1", "0.10000000000000001", False),
        ("1/3", "0.3333333333333333", False),
        ("12345678901234567890", "12345678901234567891", False),
        ("$5", "5 dollars", True),
        (r"90^\circ", "90", True),
        ("72 km/h", "72", True),
        ("12个", "12", True),
        ("3x", "3", False),
        ("−3", "-3", True),
        ("3", "-3", False),
        (r"\text{blue}", "Blue.", True),
        ("(A)", "A", True),
        ("(0.5, 2)", r"(\frac{1}{2},2)", True),
        ("(0.5, 2)", "(2, 0.5)", False),
        ("(1, 2)", "[1, 2]", False),
        ("{1, (2, 3)}", "{1.0, (2, 3)}", True),
        (r"2\left(x+1\right)", "2(x+1)", True),
        ("1/0", "1", False),
        ("1e999", "1", False),
        ("3 or 4", "4", False),
        ("", "", False),
    ],
)
def test_which_answers_are_one(one, other, same):
    assert same_answer(one, other) is same
    assert same_answer(other, one) is same


@given(st.fractions(max_denominator=10_000), st.sampled_from(["{}/{}", r"\frac{{{}}}{{{}}}", "$ {} / {} $"]))
def test_a_fraction_is_read_exactly_however_it_is_written(value, form):
    assert value_of(form.format(value.numerator, value.denominator)) == {value}


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**12), max_value=10**12))
def test_a_decimal_is_read_exactly_and_grouped_digits_too(value):
    assert value_of(f"{value:f}") == {Fraction(value)} == value_of(f"{value:,f}")


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_is_too_strange_and_equality_is_symmetric(one, other):
    final_answer(one)
    assert same_answer(one, other) == same_answer(other, one)


def test_hostile_answers_cost_nothing():
    for text in (
        r"\boxed{" * 3000,
        "(" * 5000 + "1," * 10,
        "9" * 100_000,
        r"\frac{1}{" * 2000,
        "1 " * 4000,
        "-" * 9000,
    ):
        assert MathScorer(MathReward())([case(text, answer=3)]) == [0]


def test_gold_answers_come_as_numbers_or_with_their_reasoning():
    scorer = MathScorer(MathReward())
    reasoned = "Half of 144 is <<144/2=72>>72.\n#### 72"
    assert scorer([case("The answer is 72.", answer=a) for a in (72, 72.0, "72", reasoned, "73")]) == [1, 1, 1, 1, 0]
    with pytest.raises(DataError, match="is a list"):
        scorer([case("72", answer=[1, 2])])
    with pytest.raises(DataError, match="no such value"):
        scorer([case("72")])


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(scorer_file.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dunwu\[rewards\]'"):
        MathScorer(MathReward(compare="math_verify"))


def test_math_verify_adds_algebra_and_is_left_where_it_hangs(monkeypatch):
    pytest.importorskip("math_verify", reason="math-verify is not installed")
    own, library = MathScorer(MathReward()), MathScorer(MathReward(compare="math_verify"))
    cases = [
        case(r"\boxed{\frac{\sqrt{2}}{2}}", answer=r"\frac{1}{\sqrt{2}}"),
        case(r"\boxed{x^2+2x+1}", answer="$(x+1)^2$"),
        case(r"\boxed{x^2+2x}", answer="$(x+1)^2$"),
        case("The answer is 5", answer="5"),
    ]
    assert own(cases) == [0, 0, 0, 1]
    assert library(cases) == [1, 1, 0, 1]
    monkeypatch.setattr(scorer_file, "COMPARE_S", 0.0)
    assert library(cases[:1]) == [0]


def test_ours_agrees_with_math_verify_on_numbers():
    math_verify = pytest.importorskip("math_verify", reason="math-verify is not installed")
    numbers = [
        "0.5",
        r"\frac{1}{2}",
        "1/2",
        "50",
        "1,000",
        "1000",
        "-3",
        "3",
        "0.333",
        r"\frac{1}{3}",
        "2.50",
        r"\frac{5}{2}",
        "1e3",
    ]
    for one in numbers:
        for other in numbers:
            theirs = math_verify.verify(
                math_verify.parse(f"${one}$"), math_verify.parse(f"${other}$"), float_rounding=12
            )
            if "e" not in one + other:  # which it reads as a product
                assert same_answer(one, other) == theirs, (one, other)


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not beside the checkout")
def test_every_reasoned_answer_of_gsm8k_is_right_and_no_neighbour_s():
    with gzip.open(DATA / "eval_gsm8k/train_5000.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in islice(lines, 1500)]
    scorer = MathScorer(MathReward())
    assert set(scorer([case(row["answer"], answer=row["answer"]) for row in rows])) == {1}
    worded = [f"So it is {row['answer'].rsplit('#### ', 1)[1]} in all." for row in rows]
    assert set(scorer([case(text, answer=row["answer"]) for text, row in zip(worded, rows, strict=True)])) == {1}
    golds = [row["answer"].rsplit("#### ", 1)[1] for row in rows]
    others = [float(a.replace(",", "") == b.replace(",", "")) for a, b in pairwise(golds)]
    assert scorer([case(text, answer=row["answer"]) for text, row in zip(worded, rows[1:], strict=False)]) == others
