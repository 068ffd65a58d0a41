"""How much the answers to one prompt differ. A model that always says the same has diversity 0, whatever it says.

All functions take the answers to one prompt as sequences of ids, and return nan where they say nothing.
"""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

Ids = Sequence[int]


def distinct(answers: Sequence[Ids], n: int) -> float:
    """Of all n-grams in the answers the share that are different (Li et al. 2016, arXiv:1510.03055)."""
    found = [tuple(answer[at : at + n]) for answer in answers for at in range(len(answer) - n + 1)]
    return len(set(found)) / len(found) if found else math.nan


def mean_edit_distance(answers: Sequence[Ids]) -> float:
    """Levenshtein's distance of two answers as a share of the longer one, 0 to 1, averaged over all pairs."""
    pairs = [edit_distance(one, other) / max(len(one), len(other), 1) for one, other in combinations(answers, 2)]
    return math.fsum(pairs) / len(pairs) if pairs else math.nan


def edit_distance(one: Ids, other: Ids) -> int:
    """The fewest ids put in, taken out or replaced that make one of the other."""
    if len(one) < len(other):
        one, other = other, one
    wanted = np.asarray(other, dtype=np.int64)
    places = np.arange(len(other) + 1)
    row = places.copy()
    for count, token in enumerate(one, 1):
        kept = np.minimum(row[:-1] + (wanted != token), row[1:] + 1)  # replaced or the same, or taken out
        fresh = np.concatenate(([count], kept))
        row = np.minimum.accumulate(fresh - places) + places  # put in: from any place to the left
    return int(row[-1])
