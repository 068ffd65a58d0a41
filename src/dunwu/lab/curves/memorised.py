"""Memorised text: passages that the model goes on with word for word, given their beginning.

Exact extraction (Carlini et al., arXiv:2202.07646): after the first tokens of a passage of training text, greedy decoding gives
exactly the tokens that follow. Greedy decoding does so if and only if each of these is the likeliest after the true ones before it,
so one pass over the passage tells, and nothing is generated. What anybody could go on with counts too (a refrain, a licence): the
same on text that was held out says how much of it that is.

Shapes: `N` passages, `T` targets.
"""

import numpy as np
import numpy.typing as npt

from dunwu.evaluate.clustered import score_interval
from dunwu.evaluate.stats import Estimate

DRAWS = 2_000  # of the permutation test


def is_memorised(likeliest_NT: npt.NDArray[np.bool_], continuation: int) -> npt.NDArray[np.bool_]:
    """Whether all of the last `continuation` targets of each passage are the likeliest."""
    return np.logical_and.reduce(likeliest_NT[:, -continuation:], axis=1)


def memorised_share(memorised_N: npt.NDArray[np.bool_], document_N: npt.NDArray[np.int64]) -> Estimate:
    """The share, with an interval that takes passages of one document as alike."""
    return score_interval(memorised_N.astype(float).tolist(), [str(one) for one in document_N.tolist()])


def excess_p_value(
    learned_N: npt.NDArray[np.bool_],
    learned_document_N: npt.NDArray[np.int64],
    control_M: npt.NDArray[np.bool_],
    control_document_M: npt.NDArray[np.int64],
    *,
    seed: int,
) -> float:
    """How often the share among `learned` would exceed that among `control` by as much or more, were it chance which documents
    were learned from: one-sided, whole documents change sides, `DRAWS` times."""
    counts = [_by_document(*side) for side in ((learned_N, learned_document_N), (control_M, control_document_M))]
    right, sizes = (np.concatenate([side[at] for side in counts]) for at in (0, 1))
    first = len(counts[0][0])
    generator = np.random.default_rng([seed, DRAWS])
    orders = [np.arange(len(right)), *(generator.permutation(len(right)) for _ in range(DRAWS))]
    gaps = np.array([_share(right, sizes, order[:first]) - _share(right, sizes, order[first:]) for order in orders])
    return float((gaps >= gaps[0] - 1e-12).mean())


def _by_document(
    memorised_N: npt.NDArray[np.bool_], document_N: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """How many passages of each document are memorised, and how many it has."""
    _, where_N = np.unique(document_N, return_inverse=True)
    return np.bincount(where_N, weights=memorised_N).astype(np.int64), np.bincount(where_N)


def _share(right: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64]) -> float:
    return float(right[chosen].sum() / sizes[chosen].sum())
