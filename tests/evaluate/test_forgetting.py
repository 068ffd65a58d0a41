"""The scorecard: paired by document and question, honest about direction, whole after a trip to disk."""

import math

import pytest

from dunwu.core.errors import DataError
from dunwu.core.records import Score
from dunwu.evaluate.exam import ExamRow
from dunwu.evaluate.forgetting import (
    make_scorecard,
    read_scorecard,
    scorecard_facts,
    scorecard_lines,
    write_scorecard,
)
from dunwu.evaluate.heldout import ChosenText
from dunwu.evaluate.likelihood import BitsResult, DocumentBits
from dunwu.evaluate.results import ExamAnswers

SIZES = [1000, 3000, 2000, 4000]
NOTHING = ChosenText(pieces=(), documents_total=0, bytes_total=0)


def bits(*rates, sources="abcd"):
    """A model's bits on four documents, at these bits per byte."""
    rows = [
        DocumentBits(source=source, language="en", bytes=size, tokens=9, bits=rate * size)
        for source, size, rate in zip(sources, SIZES, rates, strict=False)
    ]
    value = sum(row.bits for row in rows) / sum(row.bytes for row in rows)
    score = Score(name="bits_per_byte", value=value, low=value - 1, high=value + 1, n=len(rows), unit="bits/byte")
    return BitsResult(score=score, by_language=(), documents=tuple(rows), text=NOTHING)


def exam(right, kind="recall"):
    rows = [
        ExamRow(kind=kind, language="en", question=f"q{i}", expected="a", answer="a", right=value, ended=True)
        for i, value in enumerate(right)
    ]
    return ExamAnswers(rows=tuple(rows), chances=(0.25,) * len(rows))


def test_differences_are_taken_document_by_document():
    """Documents differ by far more than the models do: only pairs can tell."""
    card = make_scorecard("b", {"base": bits(1, 5, 2, 7), "pretrain": bits(0.9, 4.88, 1.9, 6.91)}, {}, {})
    (row,) = card.rows
    assert row.change.value == pytest.approx((-0.1 * 1000 - 0.12 * 3000 - 0.1 * 2000 - 0.09 * 4000) / 10_000)
    assert row.change.high < 0
    assert row.direction == "better"
    assert row.before.high - row.before.low > 10 * (row.change.high - row.change.low)


def test_fewer_bits_are_better_and_fewer_right_answers_worse():
    domain = {"base": bits(2, 2.1, 2, 2), "pretrain": bits(1, 1.2, 1, 1)}
    general = {"base": bits(1, 1.2, 1, 1), "pretrain": bits(2, 2.1, 2, 2)}
    exams = {"base": exam([True] * 40), "pretrain": exam([True] * 10 + [False] * 30)}
    directions = {row.figure: row.direction for row in make_scorecard("b", domain, general, exams).rows}
    assert directions == {"domain": "better", "general": "worse", "exam.recall": "worse"}


def test_what_is_not_clear_is_not_called_a_change():
    noisy = {"base": bits(2, 2, 2, 2), "pretrain": bits(1, 3, 1, 3)}
    single = {"base": bits(2), "pretrain": bits(1)}
    few = {"base": exam([True, False, True]), "pretrain": exam([True, True, True])}
    for card in (make_scorecard("b", noisy, {}, few), make_scorecard("b", {}, single, {})):
        assert {row.direction for row in card.rows} == {"same"}


def test_every_later_stage_is_compared_with_the_base():
    card = make_scorecard(
        "b", {"base": bits(2, 2, 2, 3), "pretrain": bits(1, 1, 1, 1), "sft": bits(3, 3, 3, 3)}, {}, {}
    )
    assert [(row.stage, round(row.change.value, 2)) for row in card.rows] == [("pretrain", -1.4), ("sft", 0.6)]


def test_a_base_that_sat_no_exam_has_no_row_for_it():
    assert make_scorecard("b", {}, {}, {"pretrain": exam([True])}).rows == ()


def test_other_documents_or_questions_are_refused():
    with pytest.raises(DataError, match="different documents"):
        make_scorecard("b", {"base": bits(1, 1), "pretrain": bits(1, 1, sources="xy")}, {}, {})
    with pytest.raises(DataError, match="different questions"):
        make_scorecard("b", {}, {}, {"base": exam([True]), "pretrain": exam([True, False])})


def test_it_comes_back_from_disk_as_it_went_and_says_what_it_does_not_know(tmp_path):
    card = make_scorecard("b/c", {"base": bits(2, 2, 2, 3), "pretrain": bits(1, 1, 1, 1)}, {}, {})
    write_scorecard(tmp_path / "scorecard.json", card)
    assert read_scorecard(tmp_path / "scorecard.json") == card
    alone = make_scorecard("b", {"base": bits(2), "pretrain": bits(1)}, {}, {})
    write_scorecard(tmp_path / "alone.json", alone)
    assert math.isnan(read_scorecard(tmp_path / "alone.json").rows[0].change.low)
    assert scorecard_facts(alone)[0]["low"] is None
    assert "nan" not in " ".join(scorecard_lines(alone))
    (tmp_path / "alone.json").write_text('{"base": "b", "rows": [{}]}')
    with pytest.raises(DataError, match=r"alone\.json does not hold a scorecard"):
        read_scorecard(tmp_path / "alone.json")
