"""The alignment card: its figures worked by hand, paired on the same prompts, and the same again from disk."""

import dataclasses
import json
import math

import pytest

from dunwu.align.card.asking import ModelAnswers, ask_model, entropy_of, spread
from dunwu.align.card.making import CardParts, make_card
from dunwu.align.card.markdown import card_markdown
from dunwu.align.card.record import CardRow, card_facts, meaning, read_card, write_card
from dunwu.align.card.winning import RIVAL, by_judge, by_reward, by_rule, win_rate
from dunwu.align.doctor.finding import Finding
from dunwu.core.errors import DataError
from dunwu.core.progress import SilentProgress
from dunwu.core.records import Completion, Message, Score, TokenLogprob
from dunwu.corpus.prompts import Prompt
from dunwu.corpus.world import world_exam
from dunwu.evaluate.exam import run_exam
from dunwu.evaluate.results import Comparison, Evaluation, ExamAnswers, ModelScores
from dunwu.evaluate.scorers.base import Case, WeightedSum
from dunwu.evaluate.stats import PairedDifference, mcnemar_exact


def said(text, *, ids=(), ended=True, logprobs=()):
    told = tuple(TokenLogprob(text="", logprob=value) for value in logprobs)
    return Completion(text=text, ids=tuple(ids), finish_reason="stop" if ended else "length", logprobs=told)


def case(text, *, length=3, ended=True, **columns):
    prompt = (Message(role="user", content="?"),)
    return Case(prompt=prompt, completion=said(text, ids=range(length), ended=ended), columns=columns)


def answers(texts, totals=(), **more):
    return ModelAnswers(cases=[case(text) for text in texts], totals=totals, **{"parts": {}, **more})


class Scripted:
    """Answers each question as told, and remembers how it was asked."""

    def __init__(self, reply):
        self.reply, self.asked = reply, []

    def reply_batch(self, conversations, **how):
        self.asked += [(tuple(messages), how) for messages in conversations]
        return [self.reply(messages, how) for messages in conversations]


# --------------------------------------------------------------------------------------------------------- who wins


def test_by_rule_ties_count_half_and_p_is_exact():
    earlier = [True, False, False, False, True, True]
    later = [True, True, True, True, False, True]
    score, change = by_rule(earlier, later)
    assert score.value == pytest.approx((1 + 1 + 1 + 0 + 0.5 + 0.5) / 6)
    assert change.value == pytest.approx(score.value - 0.5)
    assert change.p_value == mcnemar_exact(3, 1)
    assert score.low < score.value < score.high
    assert score.chance == 0.5


def test_by_reward_and_its_sign_test():
    outcomes = by_reward([0.1, 0.5, 0.9, 0.2], [0.2, 0.5, 0.1, 0.3])
    assert outcomes == [1, 0.5, 0, 1]
    score, change = win_rate(outcomes)
    assert (score.value, score.n) == (0.625, 4)
    assert change.p_value == mcnemar_exact(2, 1)


def test_a_judge_is_shown_the_rival():
    seen = []

    class Longer:
        name = "longer"

        def __call__(self, cases):
            seen.extend(cases)
            return [float(len(one.completion.text) > len(one.columns[RIVAL])) for one in cases]

    judged = by_judge(Longer())
    assert judged([case("aa"), case("b")], [case("a"), case("bb", grade=1)]) == [0, 1]
    assert [one.columns[RIVAL] for one in seen] == ["aa", "b"]
    assert seen[1].columns["grade"] == 1


# ------------------------------------------------------------------------------------------------------------ asking


def test_all_prompts_are_answered_once_and_some_several_times():
    class Vowels:
        name = "vowels"

        def __call__(self, cases):
            return [float(one.completion.text.count("e")) for one in cases]

    chat = Scripted(lambda messages, how: said(messages[-1].content, ids=(1, 2), logprobs=(-1.0, -3.0)))
    texts = [f"one {n}" for n in range(70)]
    prompts = [Prompt((Message(role="user", content=text),), {"n": text}, "x") for text in texts]
    found = ask_model(
        chat, prompts, progress=SilentProgress(), reward=WeightedSum([(2.0, Vowels())]), system="Be brief.", sampled=5, samples=3
    )  # fmt: skip
    assert len(found.cases) == 70
    assert found.cases[3].columns == {"n": "one 3"}
    assert found.totals == [2.0] * 70
    assert found.parts == {"vowels": [1.0] * 70}
    assert [len(own) for own in found.samples] == [3] * 5
    assert {messages[0].content for messages, _ in chat.asked} == {"Be brief."}
    temperatures = [how["temperature"] for _, how in chat.asked]
    assert temperatures == [0.0] * 70 + [1.0] * 15
    assert entropy_of(found.samples[0]) == 2.0


def test_a_spread_is_even():
    assert spread(list(range(10)), 5) == [1, 3, 5, 7, 9]
    assert spread([1, 2], 5) == [1, 2]


# ---------------------------------------------------------------------------------------------------------- the card


def world_card(**changes):
    """SFT answers every question about premises with an objection; what learned by reward is always right."""
    questions = world_exam(0, ("en",), 20)
    objections = {q.messages[-1].content: q.grade.rivals[0] if q.grade.rule == "number" else q.grade.expected[0]
                  for q in questions if q.kind == "premise"}  # fmt: skip
    right = {q.messages[-1].content: q.answer for q in questions}

    def refuses(messages, how):
        asked = messages[-1].content
        return said(f"It has {objections[asked]}." if asked in objections else right[asked])

    exams = {
        stage: ExamAnswers.of(questions, run_exam(Scripted(reply), questions, progress=SilentProgress()))
        for stage, reply in {"sft": refuses, "rl": lambda messages, how: said(right[messages[-1].content])}.items()
    }
    own = {
        "sft": answers(["a"] * 8, [0.2] * 4 + [0.4] * 4, samples=[[said("", ids=ids) for ids in ([1, 2], [2, 3])]] * 3),
        "rl": answers(["b"] * 8, [0.6] * 8, samples=[[said("", ids=[1, 2])] * 2] * 3),
    }
    bits = Score(name="bits_per_byte", value=2.0, low=1.9, high=2.1, n=9, unit="bits/byte")
    evaluation = Evaluation(
        models=tuple(ModelScores(stage=stage, bits_per_byte=bits) for stage in own),
        comparisons=(
            Comparison(figure="bits_per_byte", before="sft", after="rl", value=0.1, low=0.05, high=0.15, n=9, p_value=1e-9, unit="bits/byte"),
        ),
    )  # fmt: skip
    return make_card(
        CardParts(answers=own, against="sft", questions=questions, exams=exams, evaluation=evaluation, **changes)
    )


def test_the_card_tells_gains_costs_and_who_refuses_what():
    card = world_card()
    assert card.stages == ["sft", "rl"]
    assert card.row("refusal.sound", "sft").score.value == 1
    assert card.row("refusal.sound", "rl").score.value == 0
    assert card.row("refusal.sound", "rl").direction == "better"
    assert (
        card.row("refusal.false_premise", "sft").score.value == card.row("refusal.false_premise", "rl").score.value == 0
    )
    premise = card.row("exam.premise", "rl")
    assert premise.change.value == pytest.approx(0.5)
    assert premise.direction == "better"
    assert card.row("exam.recall", "rl").direction == "same"
    win = card.row("win_rate", "rl")
    right = sum(row.change.value * row.score.n for row in card.rows if row.figure.startswith("exam.") and row.change)
    asked = sum(row.score.n for row in card.rows if row.figure.startswith("exam.") and row.change)
    assert win.score.value == pytest.approx(0.5 + right / asked / 2)
    assert card.judge == "the exam's rules"
    reward = card.row("reward", "rl")
    assert reward.score.value == pytest.approx(0.6)
    assert reward.change.value == pytest.approx(0.3)
    assert card.row("bits_per_byte", "rl").direction == "worse"
    assert card.row("diversity.edit_distance", "sft").score.value == 1  # both ids differ, place by place
    assert card.row("diversity.edit_distance", "rl").score.value == 0
    assert card.row("diversity.distinct_1", "rl").score.value == 0.5
    assert card.row("win_rate", "sft") is None
    assert card.row("reward", "sft").change is None


def test_p_values_are_adjusted_for_all_figures_of_a_model():
    card = world_card()
    bits = card.row("bits_per_byte", "rl")
    tests = [row for row in card.rows if row.change is not None and not math.isnan(row.change.p_value)]
    smaller = [row for row in tests if row.change.p_value < bits.change.p_value]
    assert bits.change.p_value == pytest.approx(1e-9 * (len(tests) - len(smaller)))


def test_without_a_world_words_and_reward_decide():
    own = {
        "sft": answers(["I cannot help with that.", "Yes.", "No."], [0.0, 0.5, 0.5]),
        "prefer": answers(["It is three.", "Yes.", "No."], [1.0, 0.5, 0.4]),
    }
    parts = CardParts(answers=own, against="sft", exams={}, evaluation=Evaluation())
    card = make_card(parts)
    assert card.row("win_rate", "prefer").score.value == pytest.approx((1 + 0.5 + 0) / 3)
    assert card.judge == "the reward"
    assert card.row("refusal.by_words", "sft").score.value == pytest.approx(1 / 3)
    assert card.refusals_by == "words of refusal"
    judged = make_card(dataclasses.replace(parts, judge=lambda earlier, later: [1.0] * 3, judge_name="m"))
    assert judged.row("win_rate", "prefer").score.value == 1
    assert judged.judge == "m"
    silent = make_card(dataclasses.replace(parts, judge=lambda earlier, later: [], judge_name="m"))
    assert silent.row("win_rate", "prefer") is None


def test_parts_that_do_not_apply_to_a_prompt_are_left_out():
    nan = math.nan
    own = {
        "sft": answers(["a"] * 4, [1, 2, 3, 4], parts={"right": [1, 2, nan, 4], "form": [0, 0, 0, 0]}),
        "rl": answers(["a"] * 4, [2, 3, 4, 5], parts={"right": [2, 4, nan, 6], "form": [0, 1, 0, 1]}),
    }
    card = make_card(CardParts(answers=own, against="sft", exams={}, evaluation=Evaluation()))
    right = card.row("reward.right", "rl")
    assert (right.score.value, right.score.n) == (4.0, 3)
    assert right.change.value == pytest.approx((1 + 2 + 2) / 3)


def test_a_card_is_the_same_from_disk_and_damage_is_named(tmp_path):
    finding = Finding("rising length", 12, "warning", "Answers grew.", "Read some.", 20)
    card = world_card(findings=(finding,))
    path = tmp_path / "alignment.json"
    write_card(path, card)
    again = read_card(path)
    assert repr(again) == repr(card)  # nan is not equal to itself, and reads the same
    assert json.loads(path.read_text())["rows"][0]["direction"] == "same"
    assert len(card_facts(card)["rows"]) == len(card.rows)
    path.write_text('{"format": 1, "rows": 3}')
    with pytest.raises(DataError, match=r"does not hold an alignment card.*run the build again"):
        read_card(path)
    path.write_text('{"format": 9}')
    with pytest.raises(DataError, match="format 1"):
        read_card(path)


def test_the_card_as_text():
    text = card_markdown(world_card(findings=(Finding("x", 3, "note", "Seen.", "Try.", 4),)))
    [win] = [line for line in text.splitlines() if line.startswith("| win rate")]
    assert "▲" in win
    [bits] = [line for line in text.splitlines() if line.startswith("| bits per byte")]
    assert "▼" in bits
    assert "2 [1.9, 2.1]" in bits
    assert "- **x** (note, since step 3): Seen. Try." in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_directions_follow_what_is_better():
    def row(figure, value, p):
        score = Score(name=figure, value=1.0, low=0.0, high=2.0, n=5, unit="share")
        return CardRow(figure=figure, stage="rl", score=score, change=PairedDifference(value, -1, 1, 5, p))

    assert row("refusal.sound", 0.1, 0.01).direction == "worse"
    assert row("refusal.sound", -0.1, 0.01).direction == "better"
    assert row("length", 9, 0.01).direction == "other"
    assert row("reward", 0.1, 0.06).direction == "same"
    assert row("reward", 0.1, math.nan).direction == "same"
    assert meaning("reward.math") == ("its part math", "more")
