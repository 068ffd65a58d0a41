"""Any of the pool."""

import random
from collections.abc import Sequence

from dunwu.core.problems import Problem
from dunwu.prompt.demonstrations.base import Choice, others, require_pool


class AtRandom(Choice):
    """Drawn anew for each problem, decided by the seed and the problem alone."""

    def __init__(self, pool: Sequence[Problem], *, seed: int = 0) -> None:
        self.pool, self.seed = require_pool(pool), seed

    def choose(self, problem: Problem, k: int) -> list[int]:
        places = others(self.pool, problem)
        return drawing(self.seed, problem).sample(places, min(k, len(places)))


def drawing(seed: int, problem: Problem) -> random.Random:
    """The draws for a problem."""
    return random.Random(f"{seed}\x1f{problem.id}\x1f{problem.input}")
