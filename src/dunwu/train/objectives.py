"""Objectives: `(model, batch) → loss and metrics`. The loop knows no more of them than that.

Shapes: `B` batch, `T` time, `N` tokens of a micro-batch (`B·T`), `D` model width, `V` vocabulary.
"""

from typing import Any, cast

import torch
from torch import Tensor

from dunwu.corpus.stream import IGNORED, Batch
from dunwu.model.count import LOGITS_CHUNK_BYTES
from dunwu.model.decoder import Decoder


def causal_lm(model: Decoder, batch: Batch, *, total_learned: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Next-token cross-entropy, nats: summed over the micro-batch and divided by `total_learned`, the learned tokens of the
    whole batch, so that micro-batches add up to the mean over the batch. Targets of -100 carry no loss.

    Returns the loss and `{"loss_sum": nats summed over the micro-batch}`, detached.
    """
    hidden_BTD = model(ids_BT=batch.ids_BT, positions_BT=batch.positions_BT, document_BT=batch.document_BT)
    loss_sum = linear_cross_entropy(
        hidden_BTD.flatten(0, 1), model.head_weight, batch.targets_BT.flatten(), scale=1.0 / total_learned
    )
    return loss_sum, {"loss_sum": loss_sum.detach() * total_learned}


def linear_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, scale: float = 1.0, chunk_rows: int | None = None
) -> Tensor:
    """`scale` times the summed cross-entropy (nats) of `softmax(hidden @ weight.T)` against the targets; -100 is ignored.

    The logits exist only `chunk_rows` rows at a time; where gradients are wanted, those of hidden and weight are made from
    the same chunk, while it is in the cache, and the backward pass only hands them out (after Liger, arXiv:2410.10989).
    """
    rows = chunk_rows or max(16, LOGITS_CHUNK_BYTES // (weight_VD.shape[0] * 4))
    return cast("Tensor", _LinearCrossEntropy.apply(hidden_ND, weight_VD, targets_N, scale, rows))


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, scale: float, rows: int) -> Tensor:
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        work = torch.promote_types(hidden_ND.dtype, torch.float32)
        grad_hidden_ND = torch.empty_like(hidden_ND) if wants_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=work) if wants_weight else None
        total = torch.zeros((), dtype=work, device=hidden_ND.device)
        for start in range(0, hidden_ND.shape[0], rows):
            chunk_hidden = hidden_ND[start : start + rows]
            targets = targets_N[start : start + rows]
            learned = targets != IGNORED
            index_N1 = targets.clamp(min=0)[:, None]
            logits_NV = (chunk_hidden @ weight_VD.T).to(work)
            logits_NV -= logits_NV.amax(dim=-1, keepdim=True)
            target_logits_N1 = logits_NV.gather(1, index_N1)
            logits_NV.exp_()
            sums_N1 = logits_NV.sum(dim=-1, keepdim=True)
            total += ((sums_N1.log() - target_logits_N1)[:, 0] * learned).sum()
            if not (wants_hidden or wants_weight):
                continue
            factor_N1 = (learned * scale).to(work)[:, None]
            logits_NV *= factor_N1 / sums_N1
            logits_NV.scatter_add_(1, index_N1, -factor_N1)
            grad_logits_NV = logits_NV.to(hidden_ND.dtype)
            if grad_hidden_ND is not None:
                torch.mm(grad_logits_NV, weight_VD, out=grad_hidden_ND[start : start + rows])
            if grad_weight_VD is not None:
                if grad_logits_NV.dtype == work:
                    grad_weight_VD.addmm_(grad_logits_NV.T, chunk_hidden)
                else:
                    grad_weight_VD += grad_logits_NV.T @ chunk_hidden
        ctx.save_for_backward(grad_hidden_ND, None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype))
        return total * scale

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        grad = grads[0]
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        return (
            None if grad_hidden_ND is None else grad_hidden_ND * grad,
            None if grad_weight_VD is None else grad_weight_VD * grad,
            None,
            None,
            None,
        )
