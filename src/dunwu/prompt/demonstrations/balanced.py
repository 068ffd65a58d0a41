"""Each answer as often as every other, so that no answer is likelier for having been seen more (Zhao et al. 2021, arXiv:2102.09690)."""

from collections import defaultdict
from collections.abc import Sequence

from dunwu.core.problems import Problem
from dunwu.prompt.demonstrations.at_random import drawing
from dunwu.prompt.demonstrations.base import Choice, label, others, require_pool


class Balanced(Choice):
    """At random, but answers take turns: their numbers differ by one at most, as far as the pool has them."""

    def __init__(self, pool: Sequence[Problem], *, seed: int = 0) -> None:
        self.pool, self.seed = require_pool(pool), seed

    def choose(self, problem: Problem, k: int) -> list[int]:
        rng = drawing(self.seed, problem)
        by_label: dict[str, list[int]] = defaultdict(list)
        for place in others(self.pool, problem):
            by_label[label(self.pool[place])].append(place)
        groups = [rng.sample(by_label[name], len(by_label[name])) for name in sorted(by_label)]
        rng.shuffle(groups)
        chosen: list[int] = []
        while len(chosen) < k and any(groups):
            for group in groups:
                if group and len(chosen) < k:
                    chosen.append(group.pop())
        return chosen
