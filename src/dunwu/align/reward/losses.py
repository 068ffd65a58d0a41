"""What judgements say of scores: losses in nats, one a pair or a step, of differences and scores in any shape.

A difference d is the first answer's score less the second's.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def win_loss(difference: Tensor, *, margin: Tensor | float = 0.0, tie_threshold: float = 0.0) -> Tensor:
    """Minus the log-probability that the first answer wins: `-log sigmoid(d - margin - eta)`.

    Bradley and Terry (1952) at eta 0. `margin`: by how much it should lead (Llama 2, arXiv:2307.09288 eq. 2). `tie_threshold`
    is eta, the log of theta in Rao and Kupper (1967): where there may be ties, a win takes a lead.
    """
    return -F.logsigmoid(difference - margin - tie_threshold)


def tie_loss(difference: Tensor, *, tie_threshold: float) -> Tensor:
    """Minus the log-probability of a tie by Rao and Kupper (1967, J. Am. Stat. Assoc. 62:194), with theta = e^eta > 1:

    `(theta^2 - 1) p q / ((p + theta q) (theta p + q))`, p and q being e to the scores. With both wins it makes 1.
    """
    assert tie_threshold > 0, "at a threshold of 0 nothing is ever a tie"
    odds = math.log(math.expm1(2.0 * tie_threshold))
    return -(odds + F.logsigmoid(difference - tie_threshold) + F.logsigmoid(-difference - tie_threshold))


def tie_threshold_for(share: float) -> float:
    """The eta at which equally good answers tie with probability `share`: theta = (1 + share) / (1 - share).

    Where `share` is that of the ties in the data, this is the least eta that explains so many of them.
    """
    assert 0 <= share < 1, "not everything is a tie"
    return math.log1p(share) - math.log1p(-share)


def centring_loss(first: Tensor, second: Tensor) -> Tensor:
    """`(first + second)^2`: keeps scores about 0, which differences alone leave open (arXiv:2312.09244 eq. 2)."""
    return (first + second).square()


def step_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of sigmoid(score) against good (1) and bad (0); 0 where a label is not known (NaN).

    Process supervision as in arXiv:2305.20050 and 2312.08935, which leave out or soften what nobody is sure of.
    """
    known = ~labels.isnan()
    return F.binary_cross_entropy_with_logits(scores, torch.where(known, labels, 0.0), reduction="none") * known
