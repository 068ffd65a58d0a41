"""Identity preference optimisation. Shapes: `P` pairs."""

from torch import Tensor

from dunwu.align.answers import CHOSEN, REJECTED, Answers, Side
from dunwu.align.objectives.verdict import Verdict
from dunwu.core.preference import IpoSpec


def ipo_loss(chosen_P: Tensor, rejected_P: Tensor, *, beta: float) -> Tensor:
    """Identity preference optimisation, arXiv:2310.12036 eq. 17: `(chosen - rejected - 1 / (2β))²`, `[P]`; β is the paper's τ.

    Inputs: log-ratios of model and reference, nats. The square does not fade where a pair is told apart well, as DPO's
    logarithm does: the margin is drawn to 1 / (2β) and no further.
    """
    return (chosen_P - rejected_P - 1.0 / (2.0 * beta)).square()


def ipo(answers: Answers, spec: IpoSpec) -> Verdict:
    """Log-ratios are means over an answer's tokens unless `per_token` is off: the paper writes sums, and its authors say that its
    results are of means (huggingface.co/blog/pref-tuning, 2024). Rewards: β times the log-ratio."""
    chosen, rejected = (_ratios(answers.of(kind), per_token=spec.per_token) for kind in (CHOSEN, REJECTED))
    return Verdict(
        ipo_loss(chosen, rejected, beta=spec.beta), spec.beta * chosen.detach(), spec.beta * rejected.detach()
    )


def _ratios(side: Side, *, per_token: bool) -> Tensor:
    return side.log_ratios / side.tokens if per_token else side.log_ratios
