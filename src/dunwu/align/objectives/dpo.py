"""Direct preference optimisation. Shapes: `P` pairs."""

from torch import Tensor
from torch.nn import functional as F

from dunwu.align.answers import CHOSEN, REJECTED, Answers
from dunwu.align.objectives.verdict import Verdict
from dunwu.core.preference import DpoSpec


def dpo_loss(chosen_P: Tensor, rejected_P: Tensor, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Direct preference optimisation, arXiv:2305.18290 eq. 7: `-log σ(β (chosen - rejected))`, `[P]`, nats.

    Inputs: log-ratios of model and reference, `log π(y|x) - log π_ref(y|x)`, summed over the answer, nats. With label smoothing
    ε the labels are taken to be wrong with that chance: `(1 - ε)` of it and `ε` of its mirror (conservative DPO, E. Mitchell
    2023). Lengths are not normalised (SimPO does that).
    """
    logits_P = beta * (chosen_P - rejected_P)
    return -F.logsigmoid(logits_P) * (1.0 - label_smoothing) - F.logsigmoid(-logits_P) * label_smoothing


def dpo(answers: Answers, spec: DpoSpec) -> Verdict:
    """Rewards: β times the log-ratio."""
    chosen, rejected = answers.of(CHOSEN).log_ratios, answers.of(REJECTED).log_ratios
    losses = dpo_loss(chosen, rejected, beta=spec.beta, label_smoothing=spec.label_smoothing)
    return Verdict(losses, spec.beta * chosen.detach(), spec.beta * rejected.detach())
