"""Matrices of few bits: whole numbers of 8 or 4 bits with a scale for each group of inputs. What they say stays float32.

In the kernels, on a processor with AVX512 VNNI, what int8 matrices of 64n inputs and one scale a row are multiplied by is rounded
to 16 bits, with a scale for each 64: products are off by 2e-5 of their size, 7e-5 where a few inputs are 200 times the others.

INT4 lies as the kernels read it: 32 inputs in 16 bytes, input i in the low half of byte i, input i + 16 in its high half, each
8 too much.

Shapes: `O` outputs, `I` inputs, `G` groups of inputs.
"""

from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dunwu.model.native.library import INT4, INT8, Matrix, native

Bits = Literal[8, 4]
UNIT = 32
"""Inputs of 4 bits that lie together."""


class QuantisedMatrix(nn.Module):
    """`numbers * scales`: int8 `[O, I]` or, of 4 bits, uint8 `[O, I/2]`; scales float32 `[O, G]`."""

    packed: Tensor
    scales: Tensor

    def __init__(self, packed_OI: Tensor, scales_OG: Tensor, *, bits: Bits) -> None:
        super().__init__()
        self.bits: Bits = bits
        self.out_features = packed_OI.shape[0]
        self.in_features = packed_OI.shape[1] * (8 // bits)
        self.register_buffer("packed", packed_OI)
        self.register_buffer("scales", scales_OG)

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return -(-self.in_features // self.scales.shape[1])

    @property
    def bytes(self) -> int:
        """What it takes to keep it, scales included."""
        return self.packed.nbytes + self.scales.nbytes

    @property
    def weight(self) -> Tensor:
        """The float32 matrix that it stands for, `[O, I]`, made anew."""
        return self.rows(None)

    def rows(self, chosen: Tensor | None) -> Tensor:
        """Some rows of `weight`, `[..., I]`."""
        packed, scales = (self.packed, self.scales) if chosen is None else (self.packed[chosen], self.scales[chosen])
        numbers = packed if self.bits == 8 else unpack(packed)
        if scales.shape[-1] == 1:
            return numbers * scales
        return numbers.float() * scales.repeat_interleave(self.group, dim=-1)[..., : self.in_features]

    def matrix(self, bias: Tensor | None = None) -> Matrix:
        """What the kernels are told."""
        return Matrix(
            weights=self.packed.data_ptr(),
            scales=self.scales.data_ptr(),
            bias=0 if bias is None else bias.data_ptr(),
            outputs=self.out_features,
            inputs=self.in_features,
            group=self.group,
            kind=INT8 if self.bits == 8 else INT4,
        )

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`x` [..., I] times the matrix, [..., O]: in the kernels for float32 (see above), else by torch.

        Where a gradient of `x` is wanted, the backward pass makes the matrix anew.
        """
        if x.requires_grad and torch.is_grad_enabled():
            return cast("Tensor", FrozenProduct.apply(x, self, bias))
        rows = x.numel() // self.in_features
        if x.is_cpu and x.dtype == torch.float32 and rows and (kernels := native()) is not None:
            return kernels.product(self.matrix(bias), x)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Remade(Protocol):
    """What makes its matrix anew at every reading."""

    @property
    def weight(self) -> Tensor: ...


class FrozenProduct(torch.autograd.Function):
    """`x` times a matrix that has a `weight` made anew at every reading, and learns nothing: only the packed form is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Remade, bias: Tensor | None) -> Tensor:
        ctx.matrix = matrix
        return F.linear(x, matrix.weight.to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        return grads[0] @ ctx.matrix.weight.to(grads[0].dtype), None, None


class QuantisedLinear(QuantisedMatrix):
    """In place of an `nn.Linear`; its bias stays as it was."""

    def __init__(self, packed_OI: Tensor, scales_OG: Tensor, *, bits: Bits, bias: Tensor | None) -> None:
        super().__init__(packed_OI, scales_OG, bits=bits)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.bias)


class QuantisedEmbedding(QuantisedMatrix):
    """In place of an `nn.Embedding`, and of the head where that is tied to it."""

    def forward(self, ids: Tensor) -> Tensor:
        return self.rows(ids)


def pack(numbers_OI: Tensor) -> Tensor:
    """Numbers from -8 to 7, int8 `[..., I]` with I a multiple of `UNIT`, as uint8 `[..., I/2]`."""
    halves = (numbers_OI + 8).to(torch.uint8).unflatten(-1, (-1, 2, UNIT // 2))
    return (halves[..., 0, :] | (halves[..., 1, :] << 4)).flatten(-2)


def unpack(packed: Tensor) -> Tensor:
    """The numbers again, int8 `[..., I]`."""
    bytes_ = packed.unflatten(-1, (-1, UNIT // 2))
    return cast("Tensor", torch.stack((bytes_ & 15, bytes_ >> 4), dim=-2).flatten(-3).to(torch.int8) - 8)
