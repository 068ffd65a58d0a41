"""PiSSA (arXiv:2404.02948): LoRA that begins with the principal part of each matrix instead of nothing.

Here: the model's matrices stay as they are, and what the pair began with is subtracted beside it, which comes to the same: the
paper writes the residual into them instead. Others read such a delta as LoRA of twice the rank.

Shapes: `O` outputs, `I` inputs, `r` rank, `E` experts.
"""

from typing import Any

import torch
from torch import Tensor

from dunwu.delta.lora import Lora, LowRank
from dunwu.delta.peft_lora import Pair
from dunwu.delta.places import Place

WIDER, ROUNDS = 16, 4
"""Directions beyond the rank, and rounds of iteration: the paper finds 4 to be enough (its section 5.5)."""


class Principal(LowRank):
    """A pair that began as `first_b first_a`, the best of its rank, and counts by what it has moved since."""

    first_a: Tensor
    first_b: Tensor

    def __init__(self, place: Place, rank: int, scale: float, dropout: float, generator: torch.Generator) -> None:
        super().__init__(place, rank, scale, dropout, generator)
        if place.device.type != "meta":
            b, a = principal(place.read() / scale, rank, generator)
            self.a.data, self.b.data = a, b
        self.register_buffer("first_a", self.a.detach().clone())
        self.register_buffer("first_b", self.b.detach().clone())

    def add_to(self, output: Tensor, inputs: tuple[Any, ...], weight: float) -> Tensor:
        a, b = torch.cat((self.a, self.first_a), dim=-2), torch.cat((self.b, -self.first_b), dim=-1)
        return self.add(output, inputs, a, b, weight)

    def merged_into(self, matrix: Tensor, weight: float) -> Tensor:
        moved = self.b.detach() @ self.a.detach() - self.first_b @ self.first_a
        return matrix + (weight * self.scale) * moved

    def exchanged(self) -> Pair:
        a = torch.cat((self.a.detach(), self.first_a), dim=-2)
        b = torch.cat((self.b.detach(), -self.first_b), dim=-1)
        return Pair(a=a, b=b, scale=self.scale)


class Pissa(Lora):
    """LoRA whose pairs begin as the principal part of their matrices."""

    def pair(self, place: Place, rank: int, scale: float, generator: torch.Generator) -> LowRank:
        return Principal(place, rank, scale, self.spec.dropout, generator)


def principal(matrix: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`[O, r]` and `[r, I]` whose product is the best of that rank, the singular values shared out evenly.

    A randomised decomposition (arXiv:0909.4061, algorithm 4.4) in float32, or a whole one where that is as cheap.
    """
    width = rank + WIDER
    if 2 * width >= min(matrix.shape[-2:]):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        drawn = torch.randn(*matrix.shape[:-2], matrix.shape[-1], width, generator=generator).to(matrix.device)
        basis = torch.linalg.qr(matrix @ drawn).Q
        for _ in range(ROUNDS):
            basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.mT @ basis).Q).Q
        left, values, right = torch.linalg.svd(basis.mT @ matrix, full_matrices=False)
        left = basis @ left
    root = values[..., :rank].sqrt()
    return (left[..., :rank] * root[..., None, :]).contiguous(), (root[..., None] * right[..., :rank, :]).contiguous()
