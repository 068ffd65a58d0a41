"""Demonstrations from a text such as `similar:k=4,order=best-last,budget=600`."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from dunwu.core.errors import RecipeError
from dunwu.core.nearest import validated
from dunwu.core.problems import Problem
from dunwu.core.section import Count, Fraction, Section
from dunwu.prompt.demonstrations.at_random import AtRandom
from dunwu.prompt.demonstrations.balanced import Balanced
from dunwu.prompt.demonstrations.base import Choice, Embed
from dunwu.prompt.demonstrations.budget import CountTokens, within
from dunwu.prompt.demonstrations.diverse import Diverse
from dunwu.prompt.demonstrations.influence import Influence, Influential
from dunwu.prompt.demonstrations.likeness import Bm25, Embedded, Likeness, TfIdf
from dunwu.prompt.demonstrations.order import ORDERS
from dunwu.prompt.demonstrations.similar import Similar
from dunwu.prompt.spelling import named_options, require_known


class Shots(Section):
    """How many demonstrations, how they are compared with a problem, and in which order they are shown. `budget`: the most tokens
    that they may take together. `by`: "model" are the vectors of one. `relevance`: of `diverse`."""

    k: Annotated[int, Field(ge=0)] = 4
    seed: int = 0
    by: Literal["bm25", "tf-idf", "model"] = "bm25"
    order: Literal["best-last", "best-first", "random", "by-label"] = "best-last"
    budget: Count | None = None
    relevance: Fraction = 0.5


@dataclass(frozen=True, kw_only=True)
class Means:
    """What some choices need: vectors of texts, the tokens of a demonstration, influences measured on the same pool. `told` hears,
    once, that the budget leaves something out."""

    embed: Embed | None = None
    count_tokens: CountTokens | None = None
    influences: Sequence[Influence] | None = None
    told: Callable[[str], object] = lambda text: None


class Chosen:
    """Demonstrations of a pool for each problem. `dropped`: how often the budget left out the demonstration of an id."""

    def __init__(self, choice: Choice | None, shots: Shots, means: Means | None = None) -> None:
        means = means or Means()
        if shots.budget is not None and means.count_tokens is None:
            raise RecipeError(
                f"budget={shots.budget} tokens, and nobody counts tokens here; give a model that does, or leave it out"
            )
        self.choice, self.shots, self._count, self._told = choice, shots, means.count_tokens, means.told
        self.dropped: Counter[str] = Counter()

    def __call__(self, problem: Problem) -> Sequence[Problem]:
        if self.choice is None or self.shots.k == 0:
            return ()
        chosen = [self.choice.pool[place] for place in self.choice.choose(problem, self.shots.k)]
        if self.shots.budget is not None and self._count is not None:
            chosen, dropped = within(chosen, self.shots.budget, self._count)
            if dropped and not self.dropped:
                self._told(f"demonstrations that exceed the budget of {self.shots.budget} tokens are left out whole")
            self.dropped.update(one.id for one in dropped)
        return tuple(ORDERS[self.shots.order](problem, chosen, self.shots.seed))


def _likeness(pool: Sequence[Problem], shots: Shots, means: Means) -> Likeness:
    texts = [problem.input for problem in pool]
    if shots.by != "model":
        return Bm25(texts) if shots.by == "bm25" else TfIdf(texts)
    if means.embed is None:
        raise RecipeError("by=model needs a model's vectors, which nobody gives here; use by=bm25 or by=tf-idf")
    return Embedded(texts, means.embed)


def _influential(pool: Sequence[Problem], shots: Shots, means: Means) -> Choice:
    if means.influences is None:
        raise RecipeError(
            "demonstrations by influence need a development set to be measured on; use `dunwu prompt search`"
        )
    return Influential(pool, means.influences)


_Build = Callable[[Sequence[Problem], Shots, Means], Choice | None]
CHOICES: Mapping[str, _Build] = {
    "none": lambda pool, shots, means: None,
    "random": lambda pool, shots, means: AtRandom(pool, seed=shots.seed),
    "balanced": lambda pool, shots, means: Balanced(pool, seed=shots.seed),
    "similar": lambda pool, shots, means: Similar(pool, _likeness(pool, shots, means)),
    "diverse": lambda pool, shots, means: Diverse(pool, _likeness(pool, shots, means), relevance=shots.relevance),
    "influence": _influential,
}


def require_demonstrations(text: str) -> None:
    """Raises RecipeError for a text with an unknown name or option, before anything is read."""
    name, options = named_options(text)
    require_known(name, CHOICES, "choice of demonstrations")
    validated(Shots, options)


def demonstrations(text: str, pool: Sequence[Problem], means: Means | None = None) -> Chosen:
    """Raises RecipeError for an unknown name or option, DataError for an empty pool."""
    name, options = named_options(text)
    require_known(name, CHOICES, "choice of demonstrations")
    return choose(name, validated(Shots, options), pool, means)


def choose(name: str, shots: Shots, pool: Sequence[Problem], means: Means | None = None) -> Chosen:
    """The same, from its parts."""
    means = means or Means()
    choice = None if shots.k == 0 else CHOICES[name](pool, shots, means)
    return Chosen(choice, shots, means)
