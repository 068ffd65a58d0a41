"""In-context learning: how much easier a token is late in a context than early in it.

Olsson et al. (arXiv:2209.11895) take the loss at token 500 less that at token 50 of contexts of 512. Here both places are scaled to
the context at hand, and each is a short stretch around it, a fiftieth of the context, so that fewer texts do. Below 0: later
tokens are easier.

Shapes: `N` texts, `T` targets.
"""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from dunwu.evaluate.stats import Estimate, ratio_interval

EARLY, LATE, WIDTH = 50 / 512, 500 / 512, 1 / 50
SHORTEST = 64  # tokens of a context in which both places mean something
BINS = 24

Floats = npt.NDArray[np.float64]


def stretch(context: int, place: float) -> slice:
    """The targets around a place; target i is predicted from i + 1 tokens."""
    middle, half = place * context, WIDTH * context / 2
    begin = round(middle - half)
    return slice(max(0, begin), min(context - 1, max(begin + 1, round(middle + half))))


def in_context_score(nats_NT: Floats, document_N: npt.NDArray[np.int64]) -> Estimate:
    """Mean late loss less mean early loss, nats a token, with an interval over documents."""
    context = nats_NT.shape[1] + 1
    gain_N = nats_NT[:, stretch(context, LATE)].mean(1) - nats_NT[:, stretch(context, EARLY)].mean(1)
    return by_document(gain_N, document_N)


def by_document(values_N: Floats, document_N: npt.NDArray[np.int64]) -> Estimate:
    """The mean with an interval in which each document is one case."""
    _, where_N = np.unique(document_N, return_inverse=True)
    sums, sizes = np.bincount(where_N, weights=values_N), np.bincount(where_N)
    return ratio_interval(sums.astype(np.float64), sizes.astype(np.float64))


def loss_by_place(nats_NT: Floats) -> list[dict[str, Any]]:
    """The mean loss of tokens at about the same place, in at most `BINS` bins of equal ratios."""
    targets = nats_NT.shape[1]
    edges = np.unique(np.round(np.geomspace(1, targets + 1, BINS + 1)).astype(int))
    return [
        {"place": float(np.sqrt(begin * (end - 1))), "nats": float(nats_NT[:, begin - 1 : end - 1].mean())}
        for begin, end in itertools.pairwise(edges.tolist())
    ]
