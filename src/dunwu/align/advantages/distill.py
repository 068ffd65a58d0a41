"""On-policy distillation: a teacher's word on each token of the student's own answers."""

import numpy as np

from dunwu.align.advantages.annotated import Annotated, Judged
from dunwu.core.policy import DistillSpec


def distill(judged: Judged, spec: DistillSpec) -> Annotated:
    """How much likelier the teacher finds each token than the student who chose it, nats: the policy gradient is then that of the
    reverse divergence KL(student || teacher) of each token after what stands before it.

    Generalised knowledge distillation on the student's own samples (arXiv:2306.13649, with lambda = 1 and the reverse divergence),
    estimated from the chosen tokens as in thinkingmachines.ai/blog/on-policy-distillation (2025); MiniLLM (arXiv:2306.08543)
    differs in that a token also answers for those after it. `judged.reference_N` is the teacher's. Scores play no part, unless
    `spec.reward_weight` adds the score less its prompt's mean to all tokens of an answer.
    """
    assert judged.reference_N is not None
    closer_N = judged.reference_N - judged.logprob_N
    advantage_N = (
        closer_N - closer_N.mean()
    )  # as the same for all tokens it changes no expectation, and takes much of the noise
    if spec.reward_weight:
        groups = judged.of_groups(judged.scores_A)
        centred_A = (groups - groups.mean(1, keepdims=True)).reshape(-1)
        advantage_N = advantage_N + spec.reward_weight * centred_A[judged.answer_N]
    figures = {"teacher_kl": -float(closer_N.mean())}  # nats a token
    return Annotated(advantage_N=advantage_N, used_A=np.ones(len(judged.scores_A), bool), figures=figures)
