"""Judgements as objectives for the one loop.

Shapes: `P` pairs, `N` places that are read, `K` heads.
"""

import torch
from torch import Tensor

from dunwu.align.answers import CHOSEN, REJECTED
from dunwu.align.reward.losses import centring_loss, step_loss, tie_loss, win_loss
from dunwu.align.reward.model import RewardModel
from dunwu.corpus.stream import Batch
from dunwu.model.decoder import Decoder


class PairObjective:
    """The mean loss over pairs, and over heads.

    Figures, means over the pairs of the batch: `rewards_chosen` and `rewards_rejected`, their difference `reward_margin`, and
    `reward_accuracy`, the share whose chosen answer has the higher score (ties count as half), all of the mean over heads.
    """

    def __init__(self, reward_model: RewardModel, *, centring: float = 0.0) -> None:
        self.reward_model, self.centring = reward_model, centring

    def __call__(self, model: Decoder, batch: Batch, *, total_learned: int) -> tuple[Tensor, dict[str, Tensor]]:
        assert model is self.reward_model.decoder, "the loop trains the decoder of this reward model"
        notes = batch.annotations
        scores_AK = self.reward_model(batch)
        first_PK, second_PK = (scores_AK[notes["kind_A"] == kind] for kind in (CHOSEN, REJECTED))
        losses_PK = self._losses(first_PK, second_PK, notes["margin_P"][:, None], notes["tie_P"][:, None])
        if "weight_PK" in notes:
            losses_PK = losses_PK * notes["weight_PK"]
        loss = losses_PK.mean(-1).sum() / total_learned
        return loss, _figures(first_PK.detach().mean(-1), second_PK.detach().mean(-1), notes["tie_P"], total_learned)

    def _losses(self, first_PK: Tensor, second_PK: Tensor, margin_P1: Tensor, tie_P1: Tensor) -> Tensor:
        difference_PK, eta = first_PK - second_PK, self.reward_model.tie_threshold
        losses_PK = win_loss(difference_PK, margin=margin_P1, tie_threshold=eta)
        if eta > 0:
            losses_PK = torch.where(tie_P1, tie_loss(difference_PK, tie_threshold=eta), losses_PK)
        if self.centring > 0:
            losses_PK = losses_PK + self.centring * centring_loss(first_PK, second_PK)
        return losses_PK


@torch.no_grad()
def _figures(first_P: Tensor, second_P: Tensor, tie_P: Tensor, total_learned: int) -> dict[str, Tensor]:
    right_P = torch.where(tie_P, 0.5, (first_P > second_P).float())
    sums = {
        "rewards_chosen": first_P.sum(),
        "rewards_rejected": second_P.sum(),
        "reward_margin": (first_P - second_P).sum(),
        "reward_accuracy": right_P.sum(),
    }
    return {name: value / total_learned for name, value in sums.items()}


class StepObjective:
    """The mean loss over judged steps, and over heads. Figure: `step_accuracy`, the share of them on the right side of 0."""

    def __init__(self, reward_model: RewardModel) -> None:
        self.reward_model = reward_model

    def __call__(self, model: Decoder, batch: Batch, *, total_learned: int) -> tuple[Tensor, dict[str, Tensor]]:
        assert model is self.reward_model.decoder, "the loop trains the decoder of this reward model"
        scores_NK, labels_N = self.reward_model(batch), batch.annotations["label_N"]
        losses_NK = step_loss(scores_NK, labels_N[:, None].expand_as(scores_NK))
        loss = losses_NK.mean(-1).sum() / total_learned
        with torch.no_grad():
            right_N = (scores_NK.mean(-1) > 0) == (labels_N > 0.5)
            figures = {"step_accuracy": (right_N & ~labels_N.isnan()).sum() / total_learned}
        return loss, figures
