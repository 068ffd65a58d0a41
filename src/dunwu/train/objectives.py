"""Objectives: `(model, batch) → loss and metrics`. The loop knows no more of them than that.

Shapes: `B` batch, `T` time, `N` tokens of a micro-batch (`B·T`), `D` model width, `V` vocabulary.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from dunwu.core.devices import can_compile
from dunwu.corpus.stream import IGNORED, Batch
from dunwu.model.count import LOGITS_CHUNK_BYTES
from dunwu.model.decoder import Decoder
from dunwu.model.native import training

_GPU_CHUNK_BYTES = 256 << 20
_CPU_CHUNK_ROWS = 256  # more gain nothing and leave the cache
FROZEN_HEAD_ROWS = 64
"""The least rows of logits at a time where the head has no gradient: each chunk reads the whole head twice, and no sum of the
head's size has to stay in the cache."""


def causal_lm(model: Decoder, batch: Batch, *, total_learned: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Next-token cross-entropy, nats: summed over the micro-batch and divided by `total_learned`, the learned tokens of the
    whole batch, so that micro-batches add up to the mean over the batch. Targets of -100 carry no loss.

    Returns the loss and `{"loss_sum": nats summed over the micro-batch}`, detached.
    """
    hidden_BTD = model(ids_BT=batch.ids_BT, positions_BT=batch.positions_BT, document_BT=batch.document_BT)
    loss = linear_cross_entropy(
        hidden_BTD.flatten(0, 1),
        model.head_weight,
        batch.targets_BT.flatten(),
        scale=1.0 / total_learned,
        softcap=model.config.logits_softcap,
    )
    return loss, {"loss_sum": loss.detach() * total_learned}


def linear_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    chunk_rows: int | None = None,
) -> Tensor:
    """`scale` times the summed cross-entropy (nats) of `softmax(hidden @ weight.T)` against the targets; -100 is ignored.

    `softcap` c puts the logits through `c tanh(logits / c)` first.

    The logits exist only `chunk_rows` rows at a time; where gradients are wanted, those of hidden and weight are made from
    the same chunk, while it is in the cache, and the backward pass only hands them out (after Liger, arXiv:2410.10989).
    """
    rows = chunk_rows or chunk_rows_for(hidden_ND, weight_VD)
    wanted = torch.is_grad_enabled()
    return cast("Tensor", _LinearCrossEntropy.apply(hidden_ND, weight_VD, targets_N, scale, softcap, rows, wanted))


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        scale: float,
        softcap: float | None,
        rows: int,
        wanted: bool,
    ) -> Tensor:
        kind = hidden_ND.device.type
        if softcap is None and not torch.is_autocast_enabled(kind) and training.head_serves(hidden_ND, weight_VD):
            slopes = (wanted and ctx.needs_input_grad[0], wanted and ctx.needs_input_grad[1])
            total, *grads = training.head(hidden_ND, weight_VD, targets_N, scale, IGNORED, rows, slopes=slopes)
            ctx.save_for_backward(*grads)
            return total * scale
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_ND.dtype
        with torch.autocast(kind, enabled=False):
            head_VD = weight_VD.to(low)
            grad_hidden_ND = torch.empty_like(hidden_ND) if wanted and ctx.needs_input_grad[0] else None
            grad_weight_VD = (
                torch.zeros_like(weight_VD, dtype=high(low)) if wanted and ctx.needs_input_grad[1] else None
            )
            total = torch.zeros((), dtype=high(low), device=hidden_ND.device)
            for start in range(0, hidden_ND.shape[0], rows):
                chunk_ND = hidden_ND[start : start + rows].to(low)
                targets_chunk_N = targets_N[start : start + rows]
                loss, logits_NV = chunk_and_gradient(chunk_ND, head_VD, targets_chunk_N, scale, softcap)
                total += loss
                if grad_hidden_ND is not None:
                    grad_hidden_ND[start : start + rows] = logits_NV.to(low) @ head_VD
                if grad_weight_VD is not None:
                    add_product(grad_weight_VD, logits_NV.to(low).T, chunk_ND)
        grad_weight_VD = None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype)
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        return total * scale

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        if grads[0].is_cpu and float(grads[0]) == 1.0:  # as a rule; where it is kept on a GPU, asking would wait for it
            return (*ctx.saved_tensors, None, None, None, None, None)
        scaled = [None if grad is None else grad * grads[0].to(grad.dtype) for grad in ctx.saved_tensors]
        return (*scaled, None, None, None, None, None)


def chunk_and_gradient(
    chunk_ND: Tensor, head_VD: Tensor, targets_N: Tensor, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy of a chunk, nats, and `scale` times its gradient at the logits, by what is fastest here."""
    if chunk_ND.is_cuda and can_compile():
        return _fused()(chunk_ND @ head_VD.T, targets_N, scale, softcap)
    logits_NV = (chunk_ND @ head_VD.T).to(high(chunk_ND.dtype))
    return _cross_entropy_and_its_gradient(logits_NV, targets_N, scale, softcap), logits_NV


def chunk_rows_for(hidden_ND: Tensor, weight_VD: Tensor) -> int:
    """How many rows of logits exist at a time."""
    chunk_bytes = LOGITS_CHUNK_BYTES if hidden_ND.is_cpu else _GPU_CHUNK_BYTES
    least = 16 if weight_VD.requires_grad else FROZEN_HEAD_ROWS
    rows = max(least, chunk_bytes // (weight_VD.shape[0] * 4))
    return min(rows, _CPU_CHUNK_ROWS) if hidden_ND.is_cpu else rows


def high(dtype: torch.dtype) -> torch.dtype:
    """What to sum in."""
    return torch.promote_types(dtype, torch.float32)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add `a @ b` to `total`, which may be of a higher dtype."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def cross_entropy_and_gradient(
    logits_NV: Tensor, targets_N: Tensor, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy, nats, and `scale` times its gradient in the logits' dtype: what a compiler makes few sweeps of."""
    capped_NV = logits_NV.to(high(logits_NV.dtype))
    slope_NV = None
    if softcap is not None:
        bent_NV = (capped_NV / softcap).tanh()
        capped_NV, slope_NV = softcap * bent_NV, 1.0 - bent_NV.square()
    learned_N = targets_N != IGNORED
    index_N1 = targets_N.clamp(min=0)[:, None]
    normaliser_N1 = capped_NV.logsumexp(dim=-1, keepdim=True)
    total = ((normaliser_N1 - capped_NV.gather(1, index_N1))[:, 0] * learned_N).sum()
    own_NV = torch.arange(logits_NV.shape[-1], device=logits_NV.device) == index_N1
    chances_NV = (capped_NV - normaliser_N1).exp()
    gradient_NV = torch.where(own_NV, chances_NV - 1.0, chances_NV) * (learned_N * scale)[:, None]
    if slope_NV is not None:
        gradient_NV = gradient_NV * slope_NV
    return total, gradient_NV.to(logits_NV.dtype)


@cache
def _fused() -> Callable[..., tuple[Tensor, Tensor]]:
    """Made when it is first wanted: torch's compiler takes a second to load."""
    return cast("Callable[..., tuple[Tensor, Tensor]]", torch.compile(cross_entropy_and_gradient, dynamic=True))


def _cross_entropy_and_its_gradient(
    logits_NV: Tensor, targets_N: Tensor, scale: float, softcap: float | None
) -> Tensor:
    """The summed cross-entropy, nats; `logits_NV` is turned into `scale` times its gradient in place."""
    if softcap is None and logits_NV.is_contiguous() and training.serves(logits_NV):
        return training.cross_entropy_and_its_gradient(logits_NV, targets_N, scale, IGNORED)
    slope_NV = None
    if softcap is not None:
        logits_NV.div_(softcap).tanh_()
        slope_NV = 1.0 - logits_NV.square()
        logits_NV *= softcap
    learned_N = targets_N != IGNORED
    index_N1 = targets_N.clamp(min=0)[:, None]
    logits_NV -= logits_NV.amax(dim=-1, keepdim=True)
    target_logits_N1 = logits_NV.gather(1, index_N1)
    sums_N1 = logits_NV.exp_().sum(dim=-1, keepdim=True)
    factor_N1 = (learned_N * scale).to(logits_NV.dtype)[:, None]
    logits_NV *= factor_N1 / sums_N1
    logits_NV.scatter_add_(1, index_N1, -factor_N1)
    if slope_NV is not None:
        logits_NV *= slope_NV
    return ((sums_N1.log_() - target_logits_N1)[:, 0] * learned_N).sum()
