"""Like the problem, and unlike each other: maximal marginal relevance (Carbonell and Goldstein 1998)."""

from collections.abc import Sequence

import numpy as np

from dunwu.core.errors import RecipeError
from dunwu.core.problems import Problem
from dunwu.prompt.demonstrations.base import Choice, others, require_pool
from dunwu.prompt.demonstrations.likeness import Likeness


class Diverse(Choice):
    """One after the other, that with the greatest `relevance` × likeness to the problem − (1 − `relevance`) × likeness to the most
    alike of those chosen. Likeness to the problem is scaled to at most 1, as that between two is. Only the `among` most alike are
    looked at."""

    def __init__(
        self, pool: Sequence[Problem], likeness: Likeness, *, relevance: float = 0.5, among: int = 200
    ) -> None:
        if not 0 <= relevance <= 1:
            raise RecipeError(
                f"relevance={relevance} is a share; use 0 (only unlike each other) to 1 (only like the problem)"
            )
        self.pool, self.likeness, self.relevance, self.among = require_pool(pool), likeness, relevance, among

    def choose(self, problem: Problem, k: int) -> list[int]:
        scores = self.likeness.to(problem.input)
        places = sorted(others(self.pool, problem), key=lambda place: (-scores[place], place))[: self.among]
        if not places:
            return []
        top = max(float(scores[places].max()), 0.0) or 1.0
        relevant = self.relevance * np.clip(scores[places] / top, 0, None)
        alike = self.likeness.among(places)
        chosen: list[int] = []
        nearest = np.zeros(len(places))
        while len(chosen) < min(k, len(places)):
            worth = relevant - (1 - self.relevance) * nearest
            worth[chosen] = -np.inf
            best = int(worth.argmax())
            nearest = alike[best].copy() if not chosen else np.maximum(nearest, alike[best])
            chosen.append(best)
        return [places[one] for one in chosen]
