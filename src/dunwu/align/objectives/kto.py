"""Kahneman-Tversky optimisation. Shapes: `P` and `Q` answers judged good and bad, `U` unrelated ones."""

import torch
from torch import Tensor

from dunwu.align.answers import CHOSEN, REJECTED, UNRELATED, Answers
from dunwu.align.objectives.verdict import Verdict
from dunwu.core.preference import KtoSpec


def kto_loss(
    chosen_P: Tensor, rejected_Q: Tensor, unrelated_U: Tensor, *, beta: float, desirable: float, undesirable: float
) -> tuple[Tensor, Tensor]:
    """Kahneman-Tversky optimisation, arXiv:2402.01306 eq. 8: `λ_D (1 - σ(β (r - z)))` for good answers, `λ_U (1 - σ(β (z - r)))`
    for bad ones, `[P + Q]`, and z.

    Inputs: log-ratios r of model and reference, summed over the answer, nats. z, from which gains and losses count, is the
    mean log-ratio of answers to other prompts, no less than 0, and has no gradient: an estimate of the divergence between
    model and reference. The paper takes unrelated answers from a micro-batch; here each prompt has one from all of the data,
    the same throughout a run, so that the reference reads it once.
    """
    z = unrelated_U.detach().mean().clamp(min=0.0) if len(unrelated_U) else chosen_P.new_zeros(())
    good_P = desirable * (1.0 - torch.sigmoid(beta * (chosen_P - z)))
    bad_Q = undesirable * (1.0 - torch.sigmoid(beta * (z - rejected_Q)))
    return torch.cat((good_P, bad_Q)), z


def kto(answers: Answers, spec: KtoSpec) -> Verdict:
    """Rewards: β times the log-ratio."""
    chosen, rejected, unrelated = (answers.of(kind).log_ratios for kind in (CHOSEN, REJECTED, UNRELATED))
    losses, z = kto_loss(
        chosen,
        rejected,
        unrelated,
        beta=spec.beta,
        desirable=spec.desirable_weight,
        undesirable=spec.undesirable_weight,
    )
    more = {"kl_from_unrelated": z.expand(len(losses))}
    return Verdict(losses, spec.beta * chosen.detach(), spec.beta * rejected.detach(), more)
