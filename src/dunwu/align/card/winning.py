"""Which of two models answers the same prompts better: by a rule that knows the right answer, by the reward, or by a judge.

A win counts 1, a tie 1/2. What is reported is the later model's share; 0.5 is no better and no worse.
"""

import math
from collections.abc import Callable, Sequence

from dunwu.core.records import Score
from dunwu.evaluate.scorers.base import Case, Scorer
from dunwu.evaluate.stats import PairedDifference, mcnemar_exact, mean_interval, paired_proportions

BY_EXAM, BY_REWARD = "the exam's rules", "the reward"
RIVAL, NO_ANSWER = "rival", "(no answer)"
"""The column in which a judge that compares finds the other answer."""

Judge = Callable[[Sequence[Case], Sequence[Case]], list[float]]
"""(earlier, later) → of each prompt what the later answer gets: 1, 1/2 or 0."""


def win_rate(outcomes: Sequence[float], *, unit: str = "share") -> tuple[Score, PairedDifference]:
    """The mean outcome with its interval, and its difference from 0.5 with a p-value."""
    found = mean_interval(outcomes)
    score = Score(
        name="win_rate",
        value=found.value,
        low=max(0.0, found.low),
        high=min(1.0, found.high),
        n=found.n,
        unit=unit,
        chance=0.5,
    )
    return score, _against_half(outcomes)


def by_rule(earlier: Sequence[bool], later: Sequence[bool]) -> tuple[Score, PairedDifference]:
    """By which answers are right. The interval holds where few differ, and p is McNemar's, exact."""
    change = paired_proportions(earlier, later)
    low, high = (0.5 + bound / 2 for bound in (change.low, change.high))
    score = Score(
        name="win_rate", value=0.5 + change.value / 2, low=low, high=high, n=change.n, unit="share", chance=0.5
    )
    half = PairedDifference(change.value / 2, low - 0.5, high - 0.5, change.n, change.p_value)
    return score, half


def by_reward(earlier: Sequence[float], later: Sequence[float]) -> list[float]:
    """The higher reward wins."""
    return [0.5 if a == b else float(b > a) for a, b in zip(earlier, later, strict=True)]


def by_judge(scorer: Scorer) -> Judge:
    """By a scorer that compares an answer with the one in the column `RIVAL`, in both orders, and gives 1, 1/2 or 0."""

    def judged(earlier: Sequence[Case], later: Sequence[Case]) -> list[float]:
        cases = [
            Case(
                prompt=own.prompt,
                completion=own.completion,
                columns={**own.columns, RIVAL: other.completion.text.strip() or NO_ANSWER},
            )
            for other, own in zip(earlier, later, strict=True)
        ]
        return [score for score in scorer(cases) if not math.isnan(score)]

    return judged


def _against_half(outcomes: Sequence[float]) -> PairedDifference:
    """A sign test: of the prompts that one of the two wins, as many are won as lost."""
    won, lost = sum(1 for one in outcomes if one > 0.5), sum(1 for one in outcomes if one < 0.5)
    found = mean_interval(outcomes)
    return PairedDifference(found.value - 0.5, found.low - 0.5, found.high - 0.5, found.n, mcnemar_exact(won, lost))
