"""Demonstrations within a number of tokens: whole ones are left out, and it is said which."""

from collections.abc import Callable, Sequence

from dunwu.core.errors import DataError, RecipeError
from dunwu.core.problems import Problem

CountTokens = Callable[[Problem], int]
"""Tokens that a demonstration takes, with all that stands around it."""


def within(chosen: Sequence[Problem], budget: int, count: CountTokens) -> tuple[list[Problem], list[Problem]]:
    """Those that fit, the most wanted first, and those left out. One that is too long does not keep a shorter one out.

    Raises DataError where something is wanted and not even the shortest fits.
    """
    if budget < 1:
        raise RecipeError(f"budget={budget} tokens holds nothing; give 1 or more, or k=0 for no demonstrations")
    kept: list[Problem] = []
    dropped: list[Problem] = []
    sizes = [count(one) for one in chosen]
    left = budget
    for one, size in zip(chosen, sizes, strict=True):
        if size <= left:
            kept.append(one)
            left -= size
        else:
            dropped.append(one)
    if chosen and not kept:
        raise DataError(
            f"budget={budget} tokens, and the shortest of {len(chosen)} demonstrations takes {min(sizes)}; give at least that, or "
            "k=0 for none"
        )
    return kept, dropped
