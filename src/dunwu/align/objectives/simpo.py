"""Simple preference optimisation. Shapes: `P` pairs."""

from torch import Tensor
from torch.nn import functional as F

from dunwu.align.answers import CHOSEN, REJECTED, Answers
from dunwu.align.objectives.verdict import Verdict
from dunwu.core.preference import SimpoSpec


def simpo_loss(chosen_P: Tensor, rejected_P: Tensor, *, beta: float, gamma: float) -> Tensor:
    """Simple preference optimisation, arXiv:2405.14734 eq. 6: `-log σ(β (chosen - rejected) - γ)`, `[P]`, nats.

    Inputs: mean log-probabilities of an answer's tokens, nats. γ stands outside β here, as in the paper; its
    published settings give γ / β.
    """
    return -F.logsigmoid(beta * (chosen_P - rejected_P) - gamma)


def simpo(answers: Answers, spec: SimpoSpec) -> Verdict:
    """No reference. Rewards: β times the mean log-probability."""
    chosen, rejected = answers.of(CHOSEN).mean_logprobs, answers.of(REJECTED).mean_logprobs
    losses = simpo_loss(chosen, rejected, beta=spec.beta, gamma=spec.gamma)
    return Verdict(losses, spec.beta * chosen.detach(), spec.beta * rejected.detach())
