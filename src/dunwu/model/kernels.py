"""The element-wise parts and attention with backward passes by hand, for CPUs: fewer sweeps over memory, little kept.

Each equals the plain formula in its docstring; the tests compare value and gradients. In float32 they are kernels in C
(`native/training.c`); what is here serves other dtypes, and machines without a compiler. On CUDA the compiler fuses the plain
formulas, so the decoder uses those there.

Shapes: `B` batch, `T` time, `S` source time, `H` query heads, `K` key/value heads, `C` head channels, `D` width, `F` MLP width, `N` rows.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from dunwu.model.native import training

QUERY_CHUNK = 128
"""Queries whose scores are made at a time; what lies above the diagonal beyond the chunk is never computed."""
MAX_KEPT_TIME = 512
"""Rows up to this long keep their attention probabilities for the backward pass; longer ones go to torch's flash kernel."""


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        product = grads[0] * x
        slope = (product @ weight).unsqueeze_(-1).mul_(inverse**3).div_(x.shape[-1])
        grad_x = (grads[0] * weight).mul_(inverse).addcmul_(x, slope, value=-1.0)
        grad_weight = inverse.flatten() @ product.flatten(0, -2) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x²) + eps) * weight` over the last axis."""
    if training.serves(x, weight):
        return training.rms_norm(x, weight, eps)
    return cast("Tensor", _RMSNorm.apply(x, weight, eps))


class _GatedSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_up = torch.nn.functional.silu(gate).mul_(grads[0])
        return torch.ops.aten.silu_backward(grads[0] * up, gate), grad_up


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up`."""
    if training.serves(gate, up):
        return training.gated_silu(gate, up)
    return cast("Tensor", _GatedSilu.apply(gate, up))


def gated_linear(gate: Tensor, up: Tensor, weight_OI: Tensor) -> Tensor:
    """`(silu(gate) * up) @ weight.T`; the kernels keep gate and up for the backward pass, and not their product."""
    if training.linear_serves(gate, weight_OI):
        return training.gated_linear(gate, up, weight_OI)
    return linear(gated_silu(gate, up), (weight_OI,))[0]


def _rotate(x_BHTC: Tensor, out_BHTC: Tensor, cos_B1TC: Tensor, sin_B1TC: Tensor, sign: float) -> Tensor:
    left, right = x_BHTC.chunk(2, dim=-1)
    out_left, out_right = out_BHTC.chunk(2, dim=-1)
    torch.mul(left, cos_B1TC, out=out_left).addcmul_(right, sin_B1TC, value=-sign)
    torch.mul(right, cos_B1TC, out=out_right).addcmul_(left, sin_B1TC, value=sign)
    return out_BHTC


class _RotateToHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTHC: Tensor, cos_B1TC: Tensor, sin_B1TC: Tensor) -> Tensor:
        ctx.save_for_backward(cos_B1TC, sin_B1TC)
        batch, time, heads, channels = x_BTHC.shape
        return _rotate(x_BTHC.transpose(1, 2), x_BTHC.new_empty(batch, heads, time, channels), cos_B1TC, sin_B1TC, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        cos_B1TC, sin_B1TC = ctx.saved_tensors
        batch, heads, time, channels = grads[0].shape
        grad_BTHC = grads[0].new_empty(batch, time, heads, channels)
        _rotate(grads[0], grad_BTHC.transpose(1, 2), cos_B1TC, sin_B1TC, -1.0)
        return grad_BTHC, None, None


def rotate_to_heads(x_BTHC: Tensor, cos_B1TC: Tensor, sin_B1TC: Tensor) -> Tensor:
    """Rotary positions, written contiguously as `[B, H, T, C]`: channel `c` is paired with `c + C/2`; the tables hold C/2."""
    if training.serves(x_BTHC, cos_B1TC, sin_B1TC):
        return training.rotate_to_heads(x_BTHC, cos_B1TC, sin_B1TC)
    return cast("Tensor", _RotateToHeads.apply(x_BTHC, cos_B1TC, sin_B1TC))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHTC: Tensor, k_BHTC: Tensor, v_BHTC: Tensor, bias_BTT: Tensor, scale: float) -> Tensor:
        batch, heads, time, channels = q_BHTC.shape
        q, k, v = (x.reshape(batch * heads, time, channels) for x in (q_BHTC * scale, k_BHTC, v_BHTC))
        out_BTHC = q.new_empty(batch, time, heads, channels)
        kept = []
        for start in range(0, time, QUERY_CHUNK):
            end = min(start + QUERY_CHUNK, time)
            scores = torch.bmm(q[:, start:end], k[:, :end].mT)
            _add_bias(scores.view(batch, heads, end - start, end), bias_BTT, start, end)
            torch.softmax(scores, dim=-1, out=scores)
            out_BTHC[:, start:end] = torch.bmm(scores, v[:, :end]).view(batch, heads, -1, channels).transpose(1, 2)
            kept.append(scores)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.shape, ctx.scale = q_BHTC.shape, scale
        return out_BTHC

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, *kept = ctx.saved_tensors
        batch, heads, time, channels = ctx.shape
        grad_out = grads[0].transpose(1, 2).reshape(batch * heads, time, channels)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for start, probabilities in zip(range(0, time, QUERY_CHUNK), kept, strict=True):
            end = start + probabilities.shape[1]
            chunk = grad_out[:, start:end]
            grad_v[:, :end].baddbmm_(probabilities.mT, chunk)
            grad_scores = torch.bmm(chunk, v[:, :end].mT)
            torch.ops.aten._softmax_backward_data.out(
                grad_scores, probabilities, -1, grad_scores.dtype, grad_input=grad_scores
            )
            grad_q[:, start:end] = torch.bmm(grad_scores, k[:, :end])
            grad_k[:, :end].baddbmm_(grad_scores.mT, q[:, start:end])
        grad_q.mul_(ctx.scale)
        return grad_q.view(ctx.shape), grad_k.view(ctx.shape), grad_v.view(ctx.shape), None, None


def _add_bias(scores_BHTS: Tensor, bias_BTT: Tensor, start: int, end: int) -> None:
    """Add what forbids: for plain causal rows only the square on the diagonal has anything forbidden."""
    if bias_BTT.ndim == 2:
        scores_BHTS[..., start:end] += bias_BTT[start:end, start:end]
    else:
        scores_BHTS += bias_BTT[:, None, start:end, :end]


def attention(q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, bias_BTT: Tensor, scale: float) -> Tensor:
    """`softmax(scale * q kᵀ + bias) v`, as `[B, T, H, C]`; H / K query heads share a key.

    `bias_BTT` is 0 where a token may look and -inf where not, and never allows a later token; `[T, T]` stands for the
    plain causal one of all rows. Work above the diagonal is skipped in chunks of queries.
    """
    if training.serves(q_BHTC, k_BKTC, v_BKTC) and training.attention_serves(q_BHTC.shape[-1]):
        return training.attention(q_BHTC, k_BKTC, v_BKTC, bias_BTT if bias_BTT.ndim == 3 else None, scale)
    groups = q_BHTC.shape[1] // k_BKTC.shape[1]
    if groups > 1:
        k_BKTC, v_BKTC = k_BKTC.repeat_interleave(groups, dim=1), v_BKTC.repeat_interleave(groups, dim=1)
    return cast("Tensor", _Attention.apply(q_BHTC, k_BKTC, v_BKTC, bias_BTT, scale))


class _FrozenLinear(torch.autograd.Function):
    """Products by matrices that do not learn: no input is kept, and the input's gradients are summed within the products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights_OI: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*weights_OI)
        return tuple(torch.nn.functional.linear(x, weight) for weight in weights_OI)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        first, *others = ctx.saved_tensors
        grad_NI = grads[0].flatten(0, -2) @ first
        for grad, weight in zip(grads[1:], others, strict=True):
            grad_NI.addmm_(grad.flatten(0, -2), weight)
        return grad_NI.view(*grads[0].shape[:-1], -1), *(None for _ in ctx.saved_tensors)


def linear(x: Tensor, weights_OI: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """`x @ weight.T` for each of the weights `[O, I]`, all of which read the same x `[..., I]`."""
    if training.linear_serves(x, *weights_OI):
        return training.linear(x, *weights_OI)
    if len(weights_OI) > 1 and x.requires_grad and not any(weight.requires_grad for weight in weights_OI):
        return cast("tuple[Tensor, ...]", _FrozenLinear.apply(x, *weights_OI))
    return tuple(torch.nn.functional.linear(x, weight) for weight in weights_OI)
