"""REINFORCE, leave one out."""

import numpy as np

from dunwu.align.advantages.annotated import Annotated, Judged
from dunwu.core.policy import RlooSpec


def rloo(judged: Judged, spec: RlooSpec) -> Annotated:
    """A reward less the mean of the other answers to its prompt, alike for all tokens (arXiv:2402.14740 eq. 9).

    The reward is the score less what the whole answer diverges from the reference.
    """
    rewards_A = judged.scores_A - judged.kl_coefficient * judged.sums_A(judged.divergence_N())
    groups = judged.of_groups(rewards_A)
    others = (groups.sum(1, keepdims=True) - groups) / (judged.count - 1)
    advantages_A = (groups - others).reshape(-1)
    advantages_A[np.repeat(judged.alike_G(rewards_A), judged.count)] = 0.0
    return Annotated(advantage_N=advantages_A[judged.answer_N], used_A=np.ones(len(rewards_A), bool))
