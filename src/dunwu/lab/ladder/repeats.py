"""What text is worth that is read again and again: arXiv:2305.16264, with its published constant, which was not measured here.

D' = U + U R* (1 - exp(-R / R*)): `U` tokens are fresh, and each of R more passes over them is worth less, by a factor e after R* of them.
"""

import math

import numpy as np

from dunwu.lab.scaling.points import Floats

FADE = 15.4  # R*_D of arXiv:2305.16264, section 5: BORROWED from models of 2.8B to 8.7B parameters
SAYS = (
    "R*_D = 15.4, borrowed from arXiv:2305.16264; not measured on this corpus",
    "R*_D = 15.4 借自 arXiv:2305.16264，未在本语料上测量",
)


def worth(tokens: Floats | float, fresh: float) -> Floats:
    """So many tokens drawn from a corpus of `fresh`, as fresh ones count."""
    passes = np.maximum(0.0, np.asarray(tokens, np.float64) / fresh - 1.0)
    return np.minimum(tokens, fresh) + fresh * FADE * (1.0 - np.exp(-passes / FADE))


def epochs_until(share: float) -> float:
    """After how many passes a further token is worth only that share of a fresh one."""
    return 1.0 - FADE * math.log(share)
