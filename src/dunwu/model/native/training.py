"""The library of `training.c` as functions that autograd knows. `kernels.py` says what each computes, and falls back to torch.

Shapes: `B` batch, `T` time, `H` query heads, `K` key/value heads, `C` head channels, `N` rows, `D` width, `V` vocabulary.
"""

import ctypes
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dunwu.core.errors import DunwuError
from dunwu.model.native.compiling import library
from dunwu.model.native.library import share_threads, switched_off

_log = logging.getLogger(__name__)
_i64, _pointer, _float = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
MOST_MATRICES = 4
LEAST_ROWS = 64
"""With fewer rows the time to lay out the weights shows."""
_WIDE = 64  # outputs that any processor's vectors divide


class Strides(ctypes.Structure):
    """`Strides` of training.c."""

    _fields_ = (("batch", _i64), ("time", _i64), ("head", _i64))


class AttentionCall(ctypes.Structure):
    """`Attention` of training.c."""

    _fields_ = (
        *(
            (name, _pointer)
            for name in ("q", "k", "v", "bias", "grad_out", "out", "kept", "grad_q", "grad_k", "grad_v")
        ),
        *((name, Strides) for name in ("qs", "ks", "vs", "os", "gqs", "gks", "gvs")),
        *((name, _i64) for name in ("batch", "time", "heads", "kv_heads", "channels")),
        ("scale", _float),
    )


class LinearCall(ctypes.Structure):
    """`Linear` of training.c."""

    _fields_ = (
        ("x", _pointer),
        *((name, _pointer * MOST_MATRICES) for name in ("weights", "grads", "outs")),
        ("grad_x", _pointer),
        ("grad_weights", _pointer * MOST_MATRICES),
        ("packed", _pointer),
        ("outputs", _i64 * MOST_MATRICES),
        *((name, _i64) for name in ("rows", "inputs", "count")),
    )


class HeadCall(ctypes.Structure):
    """`Head` of training.c."""

    _fields_ = (
        *((name, _pointer) for name in ("hidden", "head", "targets", "losses", "grad_hidden", "grad_head")),
        *((name, _i64) for name in ("rows", "width", "size", "chunk", "ignored")),
        ("scale", _float),
        ("own", _pointer * 13),
    )


class TrainingKernels:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        loaded = ctypes.CDLL(str(path))
        share_threads(loaded)
        strides = ctypes.POINTER(Strides)
        self.rms_norm = _typed(loaded.dunwu_rms_norm, *[_pointer] * 4, _i64, _i64, _float, _i64)
        self.rms_norm_backward = _typed(loaded.dunwu_rms_norm_backward, *[_pointer] * 6, *[_i64] * 3)
        self.gated_silu = _typed(loaded.dunwu_gated_silu, *[_pointer] * 3, _i64, _i64)
        self.gated_silu_backward = _typed(loaded.dunwu_gated_silu_backward, *[_pointer] * 6, _i64, _i64)
        self.rotate = _typed(
            loaded.dunwu_rotate, _pointer, strides, _pointer, strides, _pointer, _pointer, _i64, _float, *[_i64] * 5
        )
        self.attention_serves = _typed(loaded.dunwu_attention_serves, _i64, gives=_i64)
        self.attention_kept = _typed(loaded.dunwu_attention_kept, *[_i64] * 3, gives=_i64)
        call = ctypes.POINTER(AttentionCall)
        self.attention = _typed(loaded.dunwu_attention, call, _i64, gives=_i64)
        self.attention_backward = _typed(loaded.dunwu_attention_backward, call, _i64, gives=_i64)
        self.cross_entropy = _typed(loaded.dunwu_cross_entropy, *[_pointer] * 3, *[_i64] * 3, _float, _i64, gives=_i64)
        self.linear_serves = _typed(loaded.dunwu_linear_serves, _i64, _i64, gives=_i64)
        self.linear = _typed(loaded.dunwu_linear, ctypes.POINTER(LinearCall), _i64, gives=_i64)
        self.linear_backward = _typed(loaded.dunwu_linear_backward, ctypes.POINTER(LinearCall), _i64)
        self.head = _typed(loaded.dunwu_head, ctypes.POINTER(HeadCall), _i64, gives=_i64)


def _typed(function: Any, *takes: Any, gives: Any = None) -> Any:
    function.argtypes, function.restype = list(takes), gives
    return function


@functools.cache
def _loaded() -> TrainingKernels | None:
    try:
        return TrainingKernels(library("training.c"))
    except (DunwuError, OSError) as error:
        _log.warning("Training goes through torch alone, which is slower: %s", error)
        return None


def training_kernels() -> TrainingKernels | None:
    """The kernels, compiled at the first call; None, with the reason logged once, where they can't be had or are off."""
    return None if switched_off() else _loaded()


def serves(*tensors: Tensor) -> bool:
    """Whether the kernels can be had and compute on such tensors."""
    return all(x.is_cpu and x.dtype == torch.float32 for x in tensors) and training_kernels() is not None


def _kernels() -> TrainingKernels:
    found = _loaded()
    assert found is not None  # `serves` said so
    return found


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x, weight, size = x.contiguous(), weight.contiguous(), x.shape[-1]
        rows = x.numel() // max(1, size)
        out, inverse_N = torch.empty_like(x), x.new_empty(rows)
        _kernels().rms_norm(
            x.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            inverse_N.data_ptr(),
            rows,
            size,
            eps,
            torch.get_num_threads(),
        )
        ctx.save_for_backward(x, weight, inverse_N)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor | None, None]:
        x, weight, inverse_N = ctx.saved_tensors
        grad, out, threads = grads[0].contiguous(), torch.empty_like(x), torch.get_num_threads()
        grad_weight = x.new_empty(threads, len(weight)) if ctx.needs_input_grad[1] else None
        _kernels().rms_norm_backward(
            grad.data_ptr(), x.data_ptr(), weight.data_ptr(), inverse_N.data_ptr(), out.data_ptr(), _address(grad_weight),
            len(inverse_N), len(weight), threads,
        )  # fmt: skip
        return out, None if grad_weight is None else grad_weight[0].clone(), None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `kernels.rms_norm`."""
    return cast("Tensor", _RMSNorm.apply(x, weight, eps))


class _GatedSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        _kernels().gated_silu(gate.data_ptr(), up.data_ptr(), out.data_ptr(), out.numel(), torch.get_num_threads())
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad, grad_gate, grad_up = grads[0].contiguous(), torch.empty_like(gate), torch.empty_like(up)
        _kernels().gated_silu_backward(
            grad.data_ptr(), gate.data_ptr(), up.data_ptr(), grad_gate.data_ptr(), grad_up.data_ptr(), None, gate.numel(),
            torch.get_num_threads(),
        )  # fmt: skip
        return grad_gate, grad_up


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """See `kernels.gated_silu`."""
    return cast("Tensor", _GatedSilu.apply(gate, up))


class _RotateToHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTHC: Tensor, cos_B1TC: Tensor, sin_B1TC: Tensor) -> Tensor:
        batch, time, heads, channels = x_BTHC.shape
        cos_B1TC, sin_B1TC = cos_B1TC.contiguous(), sin_B1TC.contiguous()
        out_BHTC = x_BTHC.new_empty(batch, heads, time, channels)
        _turn(x_BTHC, out_BHTC.transpose(1, 2), cos_B1TC, sin_B1TC, 1.0)
        ctx.save_for_backward(cos_B1TC, sin_B1TC)
        return out_BHTC

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        batch, heads, time, channels = grads[0].shape
        out_BTHC = grads[0].new_empty(batch, time, heads, channels)
        cos_B1TC, sin_B1TC = ctx.saved_tensors
        _turn(grads[0].transpose(1, 2), out_BTHC, cos_B1TC, sin_B1TC, -1.0)
        return out_BTHC, None, None


def _turn(x_BTHC: Tensor, out_BTHC: Tensor, cos_B1TC: Tensor, sin_B1TC: Tensor, sign: float) -> None:
    x_BTHC = _channels_together(x_BTHC)
    batch, time, heads, channels = x_BTHC.shape
    table = cos_B1TC.stride(0) if cos_B1TC.shape[0] > 1 else 0
    _kernels().rotate(
        x_BTHC.data_ptr(), _strides(x_BTHC), out_BTHC.data_ptr(), _strides(out_BTHC), cos_B1TC.data_ptr(),
        sin_B1TC.data_ptr(), table, sign, batch, time, heads, channels // 2, torch.get_num_threads(),
    )  # fmt: skip


def rotate_to_heads(x_BTHC: Tensor, cos_B1TC: Tensor, sin_B1TC: Tensor) -> Tensor:
    """See `kernels.rotate_to_heads`."""
    return cast("Tensor", _RotateToHeads.apply(x_BTHC, cos_B1TC, sin_B1TC))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, bias_BTT: Tensor | None, scale: float
    ) -> Tensor:
        q_BTHC, k_BTKC, v_BTKC = (_channels_together(x.transpose(1, 2)) for x in (q_BHTC, k_BKTC, v_BKTC))
        bias_BTT = None if bias_BTT is None else bias_BTT.contiguous()
        batch, time, heads, channels = q_BTHC.shape
        out_BTHC = q_BTHC.new_empty(batch, time, heads, channels)
        kept = q_BTHC.new_empty(_kernels().attention_kept(batch, time, heads))
        call = _call(q_BTHC, k_BTKC, v_BTKC, bias_BTT, scale, kept)
        call.out, call.os = out_BTHC.data_ptr(), _strides(out_BTHC)
        _done(_kernels().attention(call, torch.get_num_threads()))
        ctx.save_for_backward(q_BTHC, k_BTKC, v_BTKC, kept)
        ctx.scale = scale
        return out_BTHC

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q_BTHC, k_BTKC, v_BTKC, kept = ctx.saved_tensors
        grad_BTHC = _channels_together(grads[0])
        grad_q, grad_k, grad_v = (
            torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q_BTHC, k_BTKC, v_BTKC)
        )
        call = _call(q_BTHC, k_BTKC, v_BTKC, None, ctx.scale, kept)
        call.grad_out, call.os = grad_BTHC.data_ptr(), _strides(grad_BTHC)
        call.grad_q, call.grad_k, call.grad_v = grad_q.data_ptr(), grad_k.data_ptr(), grad_v.data_ptr()
        call.gqs, call.gks, call.gvs = _strides(grad_q), _strides(grad_k), _strides(grad_v)
        _done(_kernels().attention_backward(call, torch.get_num_threads()))
        return grad_q.transpose(1, 2), grad_k.transpose(1, 2), grad_v.transpose(1, 2), None, None


def _call(
    q_BTHC: Tensor, k_BTKC: Tensor, v_BTKC: Tensor, bias_BTT: Tensor | None, scale: float, kept: Tensor
) -> AttentionCall:
    batch, time, heads, channels = q_BTHC.shape
    return AttentionCall(
        q=q_BTHC.data_ptr(), k=k_BTKC.data_ptr(), v=v_BTKC.data_ptr(), bias=_address(bias_BTT), kept=kept.data_ptr(),
        qs=_strides(q_BTHC), ks=_strides(k_BTKC), vs=_strides(v_BTKC), batch=batch, time=time, heads=heads,
        kv_heads=k_BTKC.shape[2], channels=channels, scale=scale,
    )  # fmt: skip


def _done(failed: bool | int) -> None:
    if failed:
        raise MemoryError("there is no memory left for what the kernels need besides")


def attention(q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, bias_BTT: Tensor | None, scale: float) -> Tensor:
    """See `kernels.attention`; None is plain causal."""
    return cast("Tensor", _Attention.apply(q_BHTC, k_BKTC, v_BKTC, bias_BTT, scale))


def attention_serves(channels: int) -> bool:
    """Whether heads have a width that fits the vectors of this processor."""
    return bool(_kernels().attention_serves(channels))


def cross_entropy_and_its_gradient(logits_NV: Tensor, targets_N: Tensor, scale: float, ignored: int) -> Tensor:
    """The summed cross-entropy, nats; contiguous `logits_NV` is turned into `scale` times its gradient in place."""
    losses_N, targets_N = torch.empty(len(targets_N), dtype=torch.float64), targets_N.contiguous()
    strange = _kernels().cross_entropy(
        logits_NV.data_ptr(), targets_N.data_ptr(), losses_N.data_ptr(), *logits_NV.shape, ignored, scale,
        torch.get_num_threads(),
    )  # fmt: skip
    if strange:
        raise IndexError(f"{strange} targets are not within the vocabulary of {logits_NV.shape[1]}")
    return losses_N.sum().to(logits_NV.dtype)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights_OI: Tensor) -> tuple[Tensor, ...]:
        x = x.contiguous()
        weights_OI = tuple(weight.contiguous() for weight in weights_OI)
        outs = tuple(x.new_empty(*x.shape[:-1], len(weight)) for weight in weights_OI)
        call = _linear_call(x, weights_OI, rows=x.numel() // x.shape[-1])
        call.outs = _addresses(outs)
        _done(_kernels().linear(call, torch.get_num_threads()))
        kept = x if any(ctx.needs_input_grad[1:]) else x.new_empty(0)  # frozen matrices ask for no input again
        ctx.save_for_backward(kept, *weights_OI)
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, *weights_OI = ctx.saved_tensors
        grads = tuple(grad.contiguous() for grad in grads)
        wanted_x, *wanted = ctx.needs_input_grad
        shape = (*grads[0].shape[:-1], weights_OI[0].shape[-1])
        grad_x = grads[0].new_empty(shape) if wanted_x else None
        grad_weights_OI = [torch.empty_like(weight) for weight in weights_OI] if any(wanted) else []
        call = _linear_call(x, weights_OI, rows=grads[0].numel() // len(weights_OI[0]))
        call.grads, call.grad_x, call.grad_weights = _addresses(grads), _address(grad_x), _addresses(grad_weights_OI)
        _kernels().linear_backward(call, torch.get_num_threads())
        return grad_x, *(grad_weights_OI or [None] * len(weights_OI))


class _GatedLinear(torch.autograd.Function):
    """Gate, up and the product behind them: what lies between is made again on the way back instead of being kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight_OI: Tensor) -> Tensor:
        gate, up, weight_OI = gate.contiguous(), up.contiguous(), weight_OI.contiguous()
        gated, threads = torch.empty_like(gate), torch.get_num_threads()
        _kernels().gated_silu(gate.data_ptr(), up.data_ptr(), gated.data_ptr(), gated.numel(), threads)
        out = gate.new_empty(*gate.shape[:-1], len(weight_OI))
        call = _linear_call(gated, [weight_OI], rows=gated.numel() // gated.shape[-1])
        call.outs = _addresses([out])
        _done(_kernels().linear(call, threads))
        ctx.save_for_backward(gate, up, weight_OI)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        gate, up, weight_OI = ctx.saved_tensors
        grad, threads = grads[0].contiguous(), torch.get_num_threads()
        gated, grad_gate, grad_up = (torch.empty_like(gate) for _ in range(3))
        call = _linear_call(gated, [weight_OI], rows=gated.numel() // gated.shape[-1])
        call.grads, call.grad_x = _addresses([grad]), gated.data_ptr()
        _kernels().linear_backward(call, threads)  # `gated` is its gradient for a moment
        _kernels().gated_silu_backward(
            gated.data_ptr(), gate.data_ptr(), up.data_ptr(), grad_gate.data_ptr(), grad_up.data_ptr(), gated.data_ptr(),
            gated.numel(), threads,
        )  # fmt: skip
        grad_weight_OI = torch.empty_like(weight_OI)
        call.grad_x, call.grad_weights = None, _addresses([grad_weight_OI])
        _kernels().linear_backward(call, threads)
        return grad_gate, grad_up, grad_weight_OI


def gated_linear(gate: Tensor, up: Tensor, weight_OI: Tensor) -> Tensor:
    """See `kernels.gated_linear`."""
    return cast("Tensor", _GatedLinear.apply(gate, up, weight_OI))


def _linear_call(x: Tensor, weights_OI: Sequence[Tensor], *, rows: int) -> LinearCall:
    return LinearCall(
        x=x.data_ptr(), weights=_addresses(weights_OI), outputs=(_i64 * MOST_MATRICES)(*map(len, weights_OI)),
        rows=rows, inputs=weights_OI[0].shape[-1], count=len(weights_OI),
    )  # fmt: skip


def _addresses(tensors: Sequence[Tensor]) -> Any:
    return (_pointer * MOST_MATRICES)(*(x.data_ptr() for x in tensors))


def linear(x: Tensor, *weights_OI: Tensor) -> tuple[Tensor, ...]:
    """See `kernels.linear`."""
    return cast("tuple[Tensor, ...]", _Linear.apply(x, *weights_OI))


def linear_serves(x: Tensor, *weights_OI: Tensor) -> bool:
    """Whether these products are done here, and are large enough to be worth it."""
    return (
        len(weights_OI) <= MOST_MATRICES
        and x.numel() >= LEAST_ROWS * x.shape[-1]
        and serves(x, *weights_OI)
        and all(_kernels().linear_serves(*weight.shape) for weight in weights_OI)
        and any(weight.requires_grad for weight in weights_OI)  # torch keeps less for matrices that are frozen
    )


def head_serves(hidden_ND: Tensor, weight_VD: Tensor) -> bool:
    """Whether `head` does this cross-entropy."""
    return serves(hidden_ND, weight_VD) and bool(_kernels().linear_serves(_WIDE, hidden_ND.shape[1]))


def head(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    scale: float,
    ignored: int,
    chunk: int,
    *,
    slopes: tuple[bool, bool],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The summed cross-entropy, nats, of the targets under `softmax(hidden @ weight.T)`, and `scale` times its gradients by
    hidden and weight, where wanted. The logits of `chunk` tokens exist at a time."""
    hidden_ND, weight_VD, targets_N = hidden_ND.contiguous(), weight_VD.contiguous(), targets_N.contiguous()
    losses_N = torch.empty(len(targets_N), dtype=torch.float64)
    grad_hidden_ND = torch.empty_like(hidden_ND) if slopes[0] else None
    grad_weight_VD = torch.empty_like(weight_VD) if slopes[1] else None
    call = HeadCall(
        hidden=hidden_ND.data_ptr(), head=weight_VD.data_ptr(), targets=targets_N.data_ptr(), losses=losses_N.data_ptr(),
        grad_hidden=_address(grad_hidden_ND), grad_head=_address(grad_weight_VD), rows=len(hidden_ND),
        width=weight_VD.shape[1], size=weight_VD.shape[0], chunk=chunk, ignored=ignored, scale=scale,
    )  # fmt: skip
    strange = _kernels().head(call, torch.get_num_threads())
    _done(strange < 0)
    if strange:
        raise IndexError(f"{strange} targets are not within the vocabulary of {len(weight_VD)}")
    return losses_N.sum().to(hidden_ND.dtype), grad_hidden_ND, grad_weight_VD


def _strides(x_BTHC: Tensor) -> Strides:
    return Strides(x_BTHC.stride(0), x_BTHC.stride(1), x_BTHC.stride(2))


def _channels_together(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()
