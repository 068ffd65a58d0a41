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


def is_memorised(likeliest_NT: npt.NDArray[np.bool_], continuation: int) -> npt.NDArray[np.bool_]:
    """Whether all of the last `continuation` targets of each passage are the likeliest."""
    return np.logical_and.reduce(likeliest_NT[:, -continuation:], axis=1)


def memorised_share(memorised_N: npt.NDArray[np.bool_], document_N: npt.NDArray[np.int64]) -> Estimate:
    """The share, with an interval that takes passages of one document as alike."""
    return score_interval(memorised_N.astype(float).tolist(), [str(one) for one in document_N.tolist()])
