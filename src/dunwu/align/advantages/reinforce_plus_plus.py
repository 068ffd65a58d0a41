"""REINFORCE++."""

import numpy as np

from dunwu.align.advantages.annotated import Annotated, Judged, normalised
from dunwu.core.policy import ReinforcePlusPlusSpec


def reinforce_plus_plus(judged: Judged, spec: ReinforcePlusPlusSpec) -> Annotated:
    """The rewards from each token on, with what each diverges taken off, normalised over all tokens (arXiv:2501.03262 eq. 5 to 7).

    With the baseline "group" scores first lose the mean of their prompt (the paper's REINFORCE++-baseline).
    """
    scores_A = judged.scores_A
    if spec.baseline == "group":
        groups = judged.of_groups(scores_A)
        scores_A = (groups - groups.mean(1, keepdims=True)).reshape(-1)
    to_go_N = judged.to_go_N(judged.rewards_N(scores_A))
    return Annotated(advantage_N=normalised(to_go_N), used_A=np.ones(len(scores_A), bool))
