"""Measurements gathered, compared, written and read again; samples chosen fairly and recorded as they were."""

import json
import math

import pytest

from dunwu.chat.scripted import ScriptedChat
from dunwu.core.errors import DataError
from dunwu.core.records import Completion, Document
from dunwu.evaluate import results, stats
from dunwu.evaluate.baselines import run_baselines
from dunwu.evaluate.exam import ExamRow
from dunwu.evaluate.heldout import choose_text
from dunwu.evaluate.likelihood import BitsResult, _document_rows, _score
from dunwu.evaluate.samples import answer_prompts, choose_openings, continue_openings


def _text(*texts: str, language: str = "en"):
    return choose_text(
        [Document(text=t, source=f"{i}", language=language) for i, t in enumerate(texts)], max_bytes=10**6
    )


def _bits(text, rate: float) -> BitsResult:
    rows = _document_rows(text, [rate * piece.size * (1 + i / 100) for i, piece in enumerate(text.pieces)], [1] * 3)
    return BitsResult(score=_score("bits_per_byte", rows), by_language=(), documents=tuple(rows), text=text)


def _exam(right: str, question: str = "question") -> results.ExamAnswers:
    n = len(right) // 2
    rows = [
        ExamRow(
            kind="recall" if i < n else "fits",
            language="zh" if i % 2 else "en",
            question=f"{question} {i}",
            expected="e",
            answer=f"answer {i}",
            right=letter == "r",
            ended=letter == "r",
        )
        for i, letter in enumerate(right)
    ]
    return results.ExamAnswers(rows=tuple(rows), chances=(0.0,) * n + (0.5,) * n)


@pytest.fixture
def evaluation() -> results.Evaluation:
    text = _text("one text of words " * 30, "another one " * 50, "and a third one " * 20)
    return results.gather(
        text=text,
        bits={"pretrain": _bits(text, 2.0), "sft": _bits(text, 2.1)},
        exams={"pretrain": _exam("....r...r.r......r.r"), "sft": _exam("rrrrrrrrrrrrrrrrrrr.")},
        baselines=run_baselines([Document(text="some words", source="t")], text),
        samples=[],
    )


def test_survives_the_file_with_unknown_bounds_as_null(evaluation, tmp_path):
    path = tmp_path / "evaluation.json"
    results.write_evaluation(path, evaluation)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = results.read_evaluation(path)
    assert again.models == evaluation.models
    assert again.comparisons == evaluation.comparisons
    xz = again.baselines[0].score
    assert math.isnan(xz.low)
    assert xz.value == evaluation.baselines[0].score.value


def test_compares_each_stage_with_baselines_and_with_the_stage_before(evaluation):
    pairs = [(c.figure, c.before, c.after) for c in evaluation.comparisons]
    assert ("bits_per_byte", "ngram_bytes", "pretrain") in pairs
    assert ("bits_per_byte", "ngram_characters", "sft") in pairs
    assert ("bits_per_byte", "pretrain", "sft") in pairs
    assert ("exam.fits", "pretrain", "sft") in pairs
    change = next(c for c in evaluation.comparisons if c.before == "pretrain" and c.figure == "bits_per_byte")
    assert change.value == pytest.approx(0.1 * evaluation.models[0].bits_per_byte.value / 2.0)
    assert not any("xz" in before for _, before, _ in pairs)  # one stream has no documents to pair


def test_exam_kinds_carry_chance_interval_and_adjusted_p_value(evaluation):
    recall, fits = evaluation.models[1].exam
    assert (recall.kind, recall.score.value, recall.score.chance) == ("recall", 1.0, 0.0)
    assert recall.p_above_chance == 0.0
    assert (fits.score.value, fits.score.n) == (0.9, 10)
    assert (fits.score.low, fits.score.high) == stats.wilson(9, 10)
    assert fits.p_above_chance == pytest.approx(11 / 1024)
    assert evaluation.models[1].ended_turns.value == 0.95
    languages = {score.name: (score.value, score.n) for score in evaluation.models[1].exam_by_language}
    assert languages["exam.fits.zh"] == (0.8, 5)
    examples = [(row.kind, row.right, row.answer) for row in evaluation.models[0].examples]
    assert examples == [
        ("recall", True, "answer 4"),
        ("recall", False, "answer 0"),
        ("fits", True, "answer 10"),
        ("fits", False, "answer 11"),
    ]
    changed = [c for c in evaluation.comparisons if c.figure.startswith("exam.")]
    # recall: 8 gained, 0 lost; fits: 7 gained, 1 lost; the smaller p is doubled, the larger stays
    assert [c.p_value for c in changed] == pytest.approx([2 * 2 / 2**8, stats.mcnemar_exact(7, 1)])


def test_refuses_to_compare_different_exams():
    with pytest.raises(DataError, match="different questions"):
        results.gather(text=None, bits={}, exams={"pretrain": _exam("r."), "sft": _exam("r.", "another")})


def test_any_part_may_be_absent(tmp_path):
    empty = results.gather(text=None, bits={}, exams={})
    results.write_evaluation(tmp_path / "e.json", empty)
    assert results.read_evaluation(tmp_path / "e.json") == results.Evaluation()


@pytest.mark.parametrize("content", ['{"format": 99}', "[]", '{"format": 1}', "{"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "evaluation.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"evaluation\.json"):
        results.read_evaluation(path)


class Echo:
    """Writes its prompt's ids back; an id is a character's code point."""

    eos_id = 0
    start_ids = (0,)

    def encode(self, text):
        return [ord(letter) for letter in text]

    def complete_batch(self, prompts, *, max_new_tokens, temperature, seed, stop_ids):
        assert stop_ids == [self.eos_id]
        assert all(prompt[0] == self.eos_id for prompt in prompts)
        return [
            Completion(text="".join(map(chr, prompt[1:]))[::-1], ids=tuple(prompt), finish_reason="length")
            for prompt in prompts
        ]

    def reply(self, messages, *, max_tokens, temperature, seed):
        return Completion(text=messages[0].content.upper(), ids=(1, 2), finish_reason="stop")


def test_openings_come_from_all_languages_and_end_at_a_word():
    pieces = [
        Document(text=f"number {i} of words that go on and on " * 9, source=f"{i}", language="en") for i in range(20)
    ]
    pieces += [Document(text="床前明月光疑是地上霜" * 30, source="诗", language="zh")]
    openings = choose_openings(choose_text(pieces, max_bytes=10**6), 4)
    assert len(openings) == 3  # two English ones, and the one there is in Chinese
    assert openings[-1] == "床前明月光疑是地上霜" * 4
    assert all(
        len(opening) <= 120 and opening.split()[-1] in "words that go on and number of" for opening in openings[:2]
    )
    assert openings[0] != openings[1]
    assert choose_openings(choose_text(pieces, max_bytes=10**6), 0) == []


def test_samples_record_what_was_asked_and_written():
    [sample] = continue_openings(Echo(), Echo(), ["abc"], stage="pretrain", temperature=0.5, seed=7)
    assert (sample.prompt, sample.text, sample.finish_reason, sample.tokens) == ("abc", "cba", "length", 4)
    assert (sample.temperature, sample.seed, sample.kind) == (0.5, 7, "continuation")
    [answer] = answer_prompts(Echo(), ["hello"], stage="sft")
    assert (answer.text, answer.finish_reason, answer.stage) == ("HELLO", "stop", "sft")
    chat = ScriptedChat(["yes"])
    answer_prompts(chat, ["hello"], stage="sft", system="Be brief.")
    assert [(m.role, m.content) for m in chat.asked[0]] == [("system", "Be brief."), ("user", "hello")]
    assert continue_openings(Echo(), Echo(), [], stage="pretrain") == []
