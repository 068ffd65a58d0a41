"""A decoder with a scalar head in place of the one that makes words; several heads on one decoder make an ensemble.

Shapes: `B` rows, `T` time, `D` model width, `A` answers, `N` places that are read, `K` heads.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dunwu.corpus.stream import Batch
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import Decoder

Combine = Literal["mean", "min", "cautious"]
Reads = Literal["answer", "steps"]


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """How the scores of several heads, or of several models, become one: their mean, the least, or `cautious`, the mean less
    `caution` standard deviations (worst-case and uncertainty-weighted optimisation, arXiv:2310.02743).

    The deviation is that of the members themselves (divided by K), so that one member has none.
    """

    combine: Combine = "mean"
    caution: float = 1.0

    def __call__(self, scores: Tensor) -> Tensor:
        """`[..., K]` → `[...]`."""
        match self.combine:
            case "mean":
                return scores.mean(-1)
            case "min":
                return scores.amin(-1)
            case "cautious":
                return scores.mean(-1) - self.caution * scores.std(-1, correction=0)


class ScalarHead(nn.Module):
    """One number, or `K`, of a hidden state; without a bias, which no comparison of answers could learn."""

    def __init__(self, width: int, heads: int = 1) -> None:
        super().__init__()
        self.score = nn.Linear(width, heads, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """`[..., D]` → `[..., K]`, in float32 or higher."""
        wide = torch.promote_types(hidden.dtype, torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.to(wide), self.score.weight.to(wide))


class RewardModel(nn.Module):
    """Scores of answers, in units in which a difference d means that the better one wins with probability sigmoid(d).

    `reads`: whether a score is asked for at the end of an answer, or at the end of each of its steps. `tie_threshold`: the
    log of Rao–Kupper's theta (see `losses.py`); 0 where there are no ties.
    """

    def __init__(
        self,
        decoder: Decoder,
        head: ScalarHead,
        *,
        ensemble: Ensemble = Ensemble(),
        reads: Reads = "answer",
        tie_threshold: float = 0.0,
    ) -> None:
        super().__init__()
        self.decoder, self.head = decoder, head
        self.ensemble, self.reads, self.tie_threshold = ensemble, reads, tie_threshold

    @property
    def config(self) -> DecoderConfig:
        """The decoder's; it has no head of its own."""
        return self.decoder.config

    def forward(self, batch: Batch) -> Tensor:
        """The scores of every head at the places that are asked for, `[N, K]`: see `items.py`."""
        hidden_BTD = self._hidden(batch)
        return self.head(hidden_BTD.flatten(0, 1).index_select(0, batch.annotations["at_N"]))

    def scores(self, batch: Batch) -> Tensor:
        """One score for each place that is asked for, `[N]`; of answers read at their end, `[A]`."""
        return self.ensemble(self(batch))

    def values(self, batch: Batch) -> Tensor:
        """A score at every token, `[B, T]`."""
        return self.ensemble(self.head(self._hidden(batch)))

    def _hidden(self, batch: Batch) -> Tensor:
        return self.decoder(
            ids_BT=batch.ids_BT,
            positions_BT=batch.positions_BT,
            document_BT=batch.document_BT,
            branch_BT=batch.branch_BT,
        )


def without_language_head(decoder: Decoder) -> Decoder:
    """The same decoder, without the head that makes words: it then counts as tied."""
    if not decoder.config.tie_word_embeddings:
        del decoder.lm_head
        decoder.config = dataclasses.replace(decoder.config, tie_word_embeddings=True)
    return decoder


def new_reward_model(
    decoder: Decoder,
    *,
    seed: int,
    heads: int = 1,
    ensemble: Ensemble = Ensemble(),
    reads: Reads = "answer",
    tie_threshold: float = 0.0,
) -> RewardModel:
    """A reward model on `decoder`, which loses its head for words, with fresh heads from `seed`.

    Their weights are normal with deviation 1/sqrt(D + 1), as in arXiv:2009.01325, so that scores begin at about one.
    """
    parameter = next(decoder.parameters())
    head = ScalarHead(decoder.config.hidden_size, heads)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        std = (decoder.config.hidden_size + 1) ** -0.5
        head.score.weight.copy_(torch.empty(head.score.weight.shape).normal_(0.0, std, generator=generator))
    head = head.to(device=parameter.device, dtype=parameter.dtype)
    return RewardModel(
        without_language_head(decoder), head, ensemble=ensemble, reads=reads, tie_threshold=tie_threshold
    )
