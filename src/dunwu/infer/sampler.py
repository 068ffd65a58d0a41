"""From logits to the next token.

A row's choice depends only on its own logits and its own number between 0 and 1, so that what else is in the batch changes
nothing. Shapes: `B` rows, `V` vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dunwu.core.errors import ModelError, RecipeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to choose. Filters apply in this order: temperature, `top_k`, `top_p`, `min_p`; each is off at its default.

    `temperature` 0 takes the likeliest token. `top_p` keeps the fewest likely tokens whose probabilities reach it
    (arXiv:1904.09751); `min_p` keeps those at least that fraction as likely as the likeliest (arXiv:2407.01082).
    Raises RecipeError for values out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise RecipeError(f"temperature={self.temperature} must be 0 (the likeliest token) or more; try 0.7")
        if self.top_k < 0:
            raise RecipeError(f"top_k={self.top_k} must be 0 (off) or more")
        if not 0 < self.top_p <= 1:
            raise RecipeError(f"top_p={self.top_p} must be above 0 and at most 1 (off)")
        if not 0 <= self.min_p <= 1:
            raise RecipeError(f"min_p={self.min_p} must be between 0 (off) and 1")


GREEDY = Sampling()


def sample(logits_BV: Tensor, sampling: Sampling, uniforms: Sequence[float] = ()) -> list[int]:
    """One token id a row. `uniforms`: a number in [0, 1) for each row; not needed when greedy.

    Raises ModelError when the logits are not finite, for a model that says nothing must not look as if it did.
    """
    if sampling.temperature == 0:
        best_B = logits_BV.max(dim=-1)
        _require_finite(best_B.values)
        return best_B.indices.tolist()
    return _pick(filtered_probabilities(logits_BV, sampling), uniforms)


def filtered_probabilities(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that `sample` draws from, [B, V] float32: zero for what the filters drop, the rest sums to 1."""
    scaled_BV = logits_BV.float()
    scaled_BV = (scaled_BV - scaled_BV.amax(-1, keepdim=True)) / sampling.temperature
    if 0 < sampling.top_k < scaled_BV.shape[-1]:
        scaled_BV = _keep_top_k(scaled_BV, sampling.top_k)
    probabilities_BV = scaled_BV.softmax(-1)
    if sampling.top_p < 1:
        probabilities_BV = _keep_top_p(probabilities_BV, sampling.top_p)
    if sampling.min_p > 0:
        floor_B1 = sampling.min_p * probabilities_BV.amax(-1, keepdim=True)
        probabilities_BV = probabilities_BV.where(probabilities_BV >= floor_B1, 0.0)
    return probabilities_BV / probabilities_BV.sum(-1, keepdim=True)


def _keep_top_k(scaled_BV: Tensor, top_k: int) -> Tensor:
    kept = scaled_BV.topk(top_k, dim=-1)
    return torch.full_like(scaled_BV, -math.inf).scatter_(-1, kept.indices, kept.values)


def _keep_top_p(probabilities_BV: Tensor, top_p: float) -> Tensor:
    sorted_BV, order_BV = torch.sort(probabilities_BV, dim=-1, descending=True, stable=True)
    before_BV = sorted_BV.cumsum(-1) - sorted_BV
    kept_BV = sorted_BV.where(before_BV < top_p, 0.0)
    return torch.zeros_like(probabilities_BV).scatter_(-1, order_BV, kept_BV)


def _pick(probabilities_BV: Tensor, uniforms: Sequence[float]) -> list[int]:
    """Invert each row's cumulative distribution, in float64 so that a large vocabulary does not blur it."""
    cumulative_BV = probabilities_BV.double().cumsum(-1)
    total_B1 = cumulative_BV[:, -1:]
    _require_finite(total_B1)
    drawn_B1 = torch.tensor(uniforms, dtype=torch.float64, device=cumulative_BV.device)[:, None]
    found_B1 = torch.searchsorted(cumulative_BV, drawn_B1 * total_B1, right=True)
    return found_B1.clamp_(max=probabilities_BV.shape[-1] - 1)[:, 0].tolist()


def _require_finite(values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise ModelError(
            "the model's logits are not finite: its weights are damaged or training diverged; train it again"
        )
