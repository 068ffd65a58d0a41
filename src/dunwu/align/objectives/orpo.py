"""Odds ratio preference optimisation. Shapes: `P` pairs."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dunwu.align.answers import CHOSEN, REJECTED, Answers
from dunwu.align.objectives.verdict import Verdict
from dunwu.core.preference import OrpoSpec


def odds_ratio_loss(chosen_P: Tensor, rejected_P: Tensor) -> tuple[Tensor, Tensor]:
    """Odds ratio preference optimisation, arXiv:2403.07691 eq. 7: `-log σ(log (odds(chosen) / odds(rejected)))`, `[P]`, nats, with
    `odds = p / (1 - p)`; and the log of the ratio.

    Inputs: log p, mean log-probabilities of an answer's tokens, nats, below 0.
    """
    log_odds_P = chosen_P - rejected_P - (_log_one_minus(chosen_P) - _log_one_minus(rejected_P))
    return -F.logsigmoid(log_odds_P), log_odds_P


def orpo(answers: Answers, spec: OrpoSpec) -> Verdict:
    """Eq. 6: the chosen answer's cross-entropy and `weight` times the odds ratio's loss. No reference.

    The cross-entropy is the mean over an answer's tokens, then over pairs; TRL takes it over the prompt's tokens too, and
    over all tokens of a batch alike. Rewards: mean log-probabilities.
    """
    chosen, rejected = answers.of(CHOSEN).mean_logprobs, answers.of(REJECTED).mean_logprobs
    ratio_losses, log_odds = odds_ratio_loss(chosen, rejected)
    more = {"cross_entropy": -chosen.detach(), "log_odds_ratio": log_odds.detach()}
    return Verdict(spec.weight * ratio_losses - chosen, chosen.detach(), rejected.detach(), more)


def _log_one_minus(log_p: Tensor) -> Tensor:
    """`log(1 - exp(log p))`, exact at both ends (M. Mächler 2012); certainty itself is taken for almost that."""
    log_p = log_p.clamp(max=-torch.finfo(log_p.dtype).eps)
    return torch.where(log_p > -0.6931, torch.log(-torch.expm1(log_p)), torch.log1p(-torch.exp(log_p)))
