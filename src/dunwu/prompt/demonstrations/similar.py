"""Those most like the problem (Liu et al. 2021, arXiv:2101.06804)."""

from collections.abc import Sequence

from dunwu.core.problems import Problem
from dunwu.prompt.demonstrations.base import Choice, others, require_pool
from dunwu.prompt.demonstrations.likeness import Likeness


class Similar(Choice):
    """By how like the problem their questions are; of equals, the one that stands first in the pool."""

    def __init__(self, pool: Sequence[Problem], likeness: Likeness) -> None:
        self.pool, self.likeness = require_pool(pool), likeness

    def choose(self, problem: Problem, k: int) -> list[int]:
        scores = self.likeness.to(problem.input)
        return sorted(others(self.pool, problem), key=lambda place: (-scores[place], place))[:k]
