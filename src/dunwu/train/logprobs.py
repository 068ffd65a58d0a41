"""Log-probabilities of given tokens, with gradients, without the logits of all of them in memory at once.

Shapes: `N` tokens, `D` model width, `V` vocabulary.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from dunwu.train.objectives import add_product, chunk_and_gradient, chunk_rows_for, high


def token_logprobs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    softcap: float | None = None,
    chunk_rows: int | None = None,
) -> Tensor:
    """`log softmax(hidden @ weight.T)` at the targets, `[N]`, nats, in float32 or higher.

    `softcap` c puts the logits through `c tanh(logits / c)` first.

    Logits exist `chunk_rows` rows at a time. What a loss makes of log-probabilities is not known when these are made, unlike
    in `linear_cross_entropy`: so the backward pass makes the logits of each chunk once more.
    """
    rows = chunk_rows or chunk_rows_for(hidden_ND, weight_VD)
    return cast("Tensor", _TokenLogprobs.apply(hidden_ND, weight_VD, targets_N, softcap, rows))


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, softcap: float | None, rows: int
    ) -> Tensor:
        kind = hidden_ND.device.type
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_ND.dtype
        logprobs_N = torch.empty(len(targets_N), dtype=high(low), device=hidden_ND.device)
        with torch.autocast(kind, enabled=False):
            head_VD = weight_VD.to(low)
            for start in range(0, len(targets_N), rows):
                part = slice(start, start + rows)
                logits_NV = (hidden_ND[part].to(low) @ head_VD.T).to(high(low))
                if softcap is not None:
                    logits_NV = softcap * torch.tanh(logits_NV / softcap)
                logprobs_N[part] = F.cross_entropy(logits_NV, targets_N[part], reduction="none").neg_()
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N)
        ctx.softcap, ctx.rows, ctx.low = softcap, rows, low
        return logprobs_N

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, targets_N = ctx.saved_tensors
        low, (wants_hidden, wants_weight, *_) = ctx.low, ctx.needs_input_grad
        grad_hidden_ND = torch.empty_like(hidden_ND) if wants_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=high(low)) if wants_weight else None
        with torch.autocast(hidden_ND.device.type, enabled=False):
            head_VD = weight_VD.to(low)
            for start in range(0, len(targets_N), ctx.rows):
                part = slice(start, start + ctx.rows)
                chunk_ND = hidden_ND[part].to(low)
                factor_N1 = -grads[0][part, None].to(low)  # of a cross-entropy, which is a negative log-probability
                _, slope_NV = chunk_and_gradient(chunk_ND, head_VD, targets_N[part], 1.0, ctx.softcap)
                slope_NV = slope_NV.to(low)
                if grad_hidden_ND is not None:
                    grad_hidden_ND[part] = (slope_NV @ head_VD) * factor_N1
                if grad_weight_VD is not None:
                    add_product(grad_weight_VD, slope_NV.T, chunk_ND * factor_N1)
        grad_weight_VD = None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype)
        return grad_hidden_ND, grad_weight_VD, None, None, None
