"""Demonstrations: which problems of a pool are shown, with their answers, before a problem is asked."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dunwu.core.errors import DataError
from dunwu.core.problems import Problem

Demonstrations = Callable[[Problem], Sequence[Problem]]
"""Those to show for a problem, in the order shown."""
Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]
"""A vector for each text, [P, D]: those of a model, such as `/v1/embeddings` gives."""


class Choice(Protocol):
    """A way to choose from a pool. Each has a file, and a line in `registry.py`."""

    pool: Sequence[Problem]

    @abstractmethod
    def choose(self, problem: Problem, k: int) -> list[int]:
        """Places in the pool of up to `k` demonstrations, the most wanted first; never the problem itself."""
        ...


def require_pool(pool: Sequence[Problem]) -> tuple[Problem, ...]:
    """Raises DataError for an empty one."""
    if not pool:
        raise DataError("the pool of demonstrations is empty; give problems with answers, or choose none")
    return tuple(pool)


def others(pool: Sequence[Problem], problem: Problem) -> list[int]:
    """Places of all that are not the problem itself, under its name or in its words."""
    return [
        place
        for place, one in enumerate(pool)
        if one.input != problem.input and not (problem.id and one.id == problem.id)
    ]


def label(problem: Problem) -> str:
    """What a problem's answer counts as."""
    return problem.choices[problem.right] if problem.choices and problem.right is not None else problem.target
