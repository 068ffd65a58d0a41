"""Answers, the exam and held-out text → the card: every figure of every model, and what changed since fine-tuning."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dunwu.align.card.asking import ModelAnswers, entropy_of
from dunwu.align.card.record import AlignmentCard, CardRow
from dunwu.align.card.winning import BY_EXAM, BY_REWARD, Judge, by_reward, by_rule, win_rate
from dunwu.align.doctor.finding import Finding
from dunwu.core.records import Score
from dunwu.corpus.world import Question
from dunwu.evaluate.diversity import distinct, mean_edit_distance
from dunwu.evaluate.refusals import BY_RULE, BY_WORDS, is_sound, objects, refused_by_words
from dunwu.evaluate.results import Evaluation, ExamAnswers
from dunwu.evaluate.stats import PairedDifference, holm, mean_interval, paired_difference, paired_proportions, wilson

Measured = tuple[str, Score, PairedDifference | None]
"""A figure, its score, and its change against the earlier model."""


@dataclass(frozen=True, kw_only=True)
class CardParts:
    """What a card is made of, by stage where it is of models. `questions` are those of `exams`; `judge` decides who wins where
    there is no exam, and is called `judge_name`."""

    answers: Mapping[str, ModelAnswers]
    against: str
    questions: Sequence[Question] = ()
    exams: Mapping[str, ExamAnswers]
    evaluation: Evaluation
    judge: Judge | None = None
    judge_name: str = ""
    findings: Sequence[Finding] = ()


def make_card(parts: CardParts) -> AlignmentCard:
    """The card of the models in `parts.answers`."""
    rows = [row for stage in parts.answers for row in _rows(stage, parts)]
    sampled = max((len(own.samples) for own in parts.answers.values()), default=0)
    first = next(iter(parts.answers.values()), None)
    return AlignmentCard(
        against=parts.against,
        judge=_judge_name(parts),
        refusals_by=BY_RULE if parts.questions else BY_WORDS,
        prompts=0 if first is None else len(first.cases),
        sampled=sampled,
        samples=0 if first is None or not first.samples else len(first.samples[0]),
        rows=tuple(rows),
        findings=tuple(parts.findings),
    )


def _rows(stage: str, parts: CardParts) -> list[CardRow]:
    found = [
        *_rewards(stage, parts),
        *_wins(stage, parts),
        *_refusals(stage, parts),
        *_exam(stage, parts),
        *_bits(stage, parts),
        *_diversity(stage, parts),
        *_form(stage, parts),
    ]
    changes = [change for _, _, change in found if change is not None and not math.isnan(change.p_value)]
    adjusted = iter(holm([change.p_value for change in changes]))
    return [
        CardRow(
            figure=figure,
            stage=stage,
            score=score,
            change=change._replace(p_value=next(adjusted))
            if change is not None and not math.isnan(change.p_value)
            else change,
        )
        for figure, score, change in found
    ]


def _earlier(stage: str, parts: CardParts) -> ModelAnswers | None:
    """The answers that this stage's are compared with: none for the model itself and those before it."""
    order = list(parts.answers)
    if parts.against not in order or order.index(stage) <= order.index(parts.against):
        return None
    return parts.answers[parts.against]


def _rewards(stage: str, parts: CardParts) -> list[Measured]:
    own, earlier = parts.answers[stage], _earlier(stage, parts)
    if not own.totals:
        return []
    found = [_mean("reward", own.totals, None if earlier is None else earlier.totals, "points")]
    for name, values in own.parts.items() if len(own.parts) > 1 else ():
        there = [at for at, value in enumerate(values) if not math.isnan(value)]
        if there:
            before = None if earlier is None else [earlier.parts[name][at] for at in there]
            found.append(_mean(f"reward.{name}", [values[at] for at in there], before, "points"))
    return found


def _wins(stage: str, parts: CardParts) -> list[Measured]:
    own, earlier = parts.answers[stage], _earlier(stage, parts)
    if earlier is None:
        return []
    if parts.judge is not None:
        outcomes = parts.judge(earlier.cases, own.cases)
        return [("win_rate", *win_rate(outcomes))] if outcomes else []  # a judge may give no verdict that can be read
    if parts.questions and stage in parts.exams and parts.against in parts.exams:
        before, after = ([row.right for row in parts.exams[name].rows] for name in (parts.against, stage))
        return [("win_rate", *by_rule(before, after))]
    if own.totals:
        return [("win_rate", *win_rate(by_reward(earlier.totals, own.totals)))]
    return []


def _judge_name(parts: CardParts) -> str:
    if parts.judge is not None:
        return parts.judge_name
    if parts.questions and parts.exams:
        return BY_EXAM
    return BY_REWARD if any(own.totals for own in parts.answers.values()) else ""


def _refusals(stage: str, parts: CardParts) -> list[Measured]:
    earlier = _earlier(stage, parts)
    if not parts.questions:
        own = parts.answers[stage].cases
        before = None if earlier is None else refused_by_words([case.completion.text for case in earlier.cases])
        said = refused_by_words([case.completion.text for case in own])
        return [_share("refusal.by_words", said, before)] if own else []
    if stage not in parts.exams:
        return []
    compared = parts.against if earlier is not None and parts.against in parts.exams else None
    return [
        measured
        for figure, sound in (("refusal.sound", True), ("refusal.false_premise", False))
        for measured in _of_premises(figure, sound, stage, compared, parts)
    ]


def _of_premises(figure: str, sound: bool, stage: str, compared: str | None, parts: CardParts) -> list[Measured]:
    """Wrong of a sound question: an objection. Wrong of an unsound one: none."""
    places = [at for at, question in enumerate(parts.questions) if is_sound(question) == sound]
    if not places:
        return []

    def wrong(name: str) -> list[bool]:
        rows = parts.exams[name].rows
        return [objects(parts.questions[at], rows[at].answer) == sound for at in places]

    return [_share(figure, wrong(stage), None if compared is None else wrong(compared))]


def _exam(stage: str, parts: CardParts) -> list[Measured]:
    if stage not in parts.exams:
        return []
    compared = parts.against if _earlier(stage, parts) is not None and parts.against in parts.exams else None
    found: list[Measured] = []
    for kind in parts.exams[stage].kinds:
        own, *before = (
            [row.right for row in parts.exams[name].rows if row.kind == kind]
            for name in (stage, compared)
            if name is not None
        )
        found.append(_share(f"exam.{kind}", own, before[0] if before else None))
    return found


def _bits(stage: str, parts: CardParts) -> list[Measured]:
    """The tax: what held-out text costs, paired by document."""
    own = next((model.bits_per_byte for model in parts.evaluation.models if model.stage == stage), None)
    if own is None:
        return []
    change = next(
        (
            PairedDifference(one.value, one.low, one.high, one.n, one.p_value)
            for one in parts.evaluation.comparisons
            if (one.figure, one.before, one.after) == ("bits_per_byte", parts.against, stage)
        ),
        None,
    )
    return [("bits_per_byte", own, change)]


def _diversity(stage: str, parts: CardParts) -> list[Measured]:
    own, earlier = parts.answers[stage], _earlier(stage, parts)
    if not own.samples:
        return []
    measures: dict[str, tuple[Callable[[Sequence], float], str]] = {
        "diversity.distinct_1": (lambda said: distinct([one.ids for one in said], 1), "share"),
        "diversity.distinct_2": (lambda said: distinct([one.ids for one in said], 2), "share"),
        "diversity.edit_distance": (lambda said: mean_edit_distance([one.ids for one in said]), "share"),
        "diversity.entropy": (entropy_of, "nats/token"),
    }
    found: list[Measured] = []
    for figure, (measure, unit) in measures.items():
        after = [measure(said) for said in own.samples]
        before = None if earlier is None else [measure(said) for said in earlier.samples]
        there = [
            at for at in range(len(after)) if not math.isnan(after[at]) and not (before and math.isnan(before[at]))
        ]
        if there:
            found.append(
                _mean(
                    figure, [after[at] for at in there], None if before is None else [before[at] for at in there], unit
                )
            )
    return found


def _form(stage: str, parts: CardParts) -> list[Measured]:
    own, earlier = parts.answers[stage], _earlier(stage, parts)
    if not own.cases:
        return []
    return [
        _mean("length", own.lengths, None if earlier is None else earlier.lengths, "tokens"),
        _share("ended", own.ended, None if earlier is None else earlier.ended),
    ]


def _mean(figure: str, after: Sequence[float], before: Sequence[float] | None, unit: str) -> Measured:
    found = mean_interval(after)
    low = found.low if unit == "points" or math.isnan(found.low) else max(0.0, found.low)
    score = Score(name=figure, value=found.value, low=low, high=found.high, n=found.n, unit=unit)
    return figure, score, None if before is None else paired_difference(before, after)


def _share(figure: str, after: Sequence[bool], before: Sequence[bool] | None) -> Measured:
    low, high = wilson(sum(after), len(after))
    score = Score(name=figure, value=sum(after) / len(after), low=low, high=high, n=len(after), unit="share")
    return figure, score, None if before is None else paired_proportions(before, after)
