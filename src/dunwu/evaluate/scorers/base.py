"""What every scorer is given and gives, and the weighted sum of several with each part kept.

A part that does not apply to a case is `NOT_APPLICABLE`, which is nan: it adds nothing to the total, and means leave it out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dunwu.core.errors import DataError
from dunwu.core.records import Completion, Message

NOT_APPLICABLE = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One answer to be judged. `columns`: what the row of data says beside the prompt: answer, grade, tests, schema …"""

    prompt: tuple[Message, ...]
    completion: Completion
    columns: Mapping[str, Any]


class Scorer(Protocol):
    """Judges answers: a number each, in their order; more is better."""

    @property
    def name(self) -> str: ...

    def __call__(self, cases: Sequence[Case]) -> list[float]: ...


@dataclass(frozen=True, slots=True)
class Scored:
    """Totals, and each part by name, unweighted; all in the order of the cases."""

    totals: list[float]
    parts: Mapping[str, list[float]]

    def means(self) -> dict[str, float]:
        """The mean of each part over the cases that it applies to; a part that applies to none is left out."""
        return {name: mean for name, values in self.parts.items() if (mean := mean_of(values)) is not None}


class Shaped:
    """A part with its score multiplied by `scale`, then kept within `clip`."""

    def __init__(self, scorer: Scorer, *, scale: float = 1.0, clip: tuple[float, float] | None = None) -> None:
        self.scorer, self.scale, self.clip = scorer, scale, clip

    @property
    def name(self) -> str:
        return self.scorer.name

    def __call__(self, cases: Sequence[Case]) -> list[float]:
        low, high = self.clip or (-math.inf, math.inf)
        return [score if math.isnan(score) else min(max(score * self.scale, low), high) for score in self.scorer(cases)]


class WeightedSum:
    """The sum of scorers, each by its weight. Raises DataError where two have one name, so that each part can be told."""

    def __init__(self, parts: Sequence[tuple[float, Scorer]]) -> None:
        if not parts:
            raise DataError("a reward has no parts; name at least one, such as exact or math")
        names = [scorer.name for _, scorer in parts]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise DataError(f"two parts of a reward are called {twice!r}; give one of them another name")
        self.parts = tuple(parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The parts, in their order."""
        return tuple(scorer.name for _, scorer in self.parts)

    def __call__(self, cases: Sequence[Case]) -> Scored:
        """Raises DataError for a case that no part applies to: nothing would be said of it."""
        parts = {scorer.name: _checked(scorer, cases) for _, scorer in self.parts}
        weights = [weight for weight, _ in self.parts]
        totals = [
            _total(case, weights, scores) for case, scores in zip(cases, zip(*parts.values(), strict=True), strict=True)
        ]
        return Scored(totals, parts)


def mean_of(values: Sequence[float]) -> float | None:
    """The mean of the values that are there; None where none is."""
    there = [value for value in values if not math.isnan(value)]
    return math.fsum(there) / len(there) if there else None


def asked(case: Case) -> str:
    """What a case was asked, short enough for a message."""
    text = case.prompt[-1].content if case.prompt else ""
    return repr(text if len(text) <= 60 else text[:59] + "…")


def column(case: Case, key: str, scorer: str) -> Any:
    """What the row of data says under `key`. Raises DataError, with what it does say, where that is nothing."""
    if case.columns.get(key) is None:
        has = ", ".join(sorted(case.columns)) or "none"
        raise DataError(
            f"the scorer {scorer!r} reads the column {key!r}, and the row of {asked(case)} has no such value "
            f"(its columns: {has}); name the right column, or leave the scorer out"
        )
    return case.columns[key]


def answers_in(value: Any) -> list[str]:
    """What a column of right answers holds: one, or several."""
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]


def _total(case: Case, weights: Sequence[float], scores: Sequence[float]) -> float:
    terms = [weight * score for weight, score in zip(weights, scores, strict=True) if not math.isnan(score)]
    if not terms:
        raise DataError(f"no part of the reward applies to {asked(case)}; add one that does, or leave such prompts out")
    return math.fsum(terms)


def _checked(scorer: Scorer, cases: Sequence[Case]) -> list[float]:
    scores = scorer(cases)
    if len(scores) != len(cases):
        raise DataError(
            f"the scorer {scorer.name!r} gave {len(scores)} scores for {len(cases)} answers; it must give one for each"
        )
    at = next((place for place, score in enumerate(scores) if math.isinf(score)), None)
    if at is not None:
        raise DataError(f"the scorer {scorer.name!r} gave {scores[at]} for {asked(cases[at])}; a score must be finite")
    return scores
