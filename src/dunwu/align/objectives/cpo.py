"""Contrastive preference optimisation. Shapes: `P` pairs."""

from torch import Tensor
from torch.nn import functional as F

from dunwu.align.answers import CHOSEN, REJECTED, Answers
from dunwu.align.objectives.verdict import Verdict
from dunwu.core.preference import CpoSpec


def cpo_loss(chosen_P: Tensor, rejected_P: Tensor, *, beta: float) -> Tensor:
    """Contrastive preference optimisation, arXiv:2401.08417 eq. 5: `-log σ(β (chosen - rejected))`, `[P]`, nats: DPO with a
    reference that finds all answers equally likely.

    Inputs: log-probabilities summed over the answer, nats.
    """
    return -F.logsigmoid(beta * (chosen_P - rejected_P))


def cpo(answers: Answers, spec: CpoSpec) -> Verdict:
    """Eq. 6: the comparison, and the chosen answer's cross-entropy `cross_entropy_weight` times. No reference.

    The cross-entropy is the mean over an answer's tokens, then over pairs; TRL takes it over all tokens of a batch alike.
    Rewards: β times the log-probability.
    """
    chosen, rejected = answers.of(CHOSEN), answers.of(REJECTED)
    entropy_P = -chosen.mean_logprobs
    losses = cpo_loss(chosen.logprobs, rejected.logprobs, beta=spec.beta) + spec.cross_entropy_weight * entropy_P
    return Verdict(
        losses,
        spec.beta * chosen.logprobs.detach(),
        spec.beta * rejected.logprobs.detach(),
        {"cross_entropy": entropy_P.detach()},
    )
