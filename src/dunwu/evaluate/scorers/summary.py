"""Scores of many answers in one figure a part, with an interval over prompts: answers to one prompt are not independent."""

import math
from collections.abc import Mapping, Sequence

from dunwu.core.records import Score
from dunwu.evaluate.scorers.base import Scored
from dunwu.evaluate.stats import mean_interval, wilson

TOTAL = "reward"


def summary(scored: Scored, prompt_of: Sequence[int]) -> list[Score]:
    """The total and each part, as means over prompts of the means over their answers. `prompt_of`: whose each answer is."""
    named = {TOTAL: scored.totals, **{f"{TOTAL}.{name}": values for name, values in scored.parts.items()}}
    return [score for name, values in named.items() if (score := _score(name, values, prompt_of)) is not None]


def _score(name: str, values: Sequence[float], prompt_of: Sequence[int]) -> Score | None:
    groups: dict[int, list[float]] = {}
    for prompt, value in zip(prompt_of, values, strict=True):
        if not math.isnan(value):
            groups.setdefault(prompt, []).append(value)
    if not groups:
        return None
    means = [math.fsum(group) / len(group) for group in groups.values()]
    if _is_share(groups):
        low, high = wilson(math.fsum(means), len(means))
        return Score(name=name, value=math.fsum(means) / len(means), low=low, high=high, n=len(means), unit="share")
    estimate = mean_interval(means)
    return Score(name=name, value=estimate.value, low=estimate.low, high=estimate.high, n=estimate.n, unit="score")


def _is_share(groups: Mapping[int, Sequence[float]]) -> bool:
    return {value for group in groups.values() for value in group} <= {0.0, 1.0}
