"""DoRA (arXiv:2402.09353): the length of each row of a matrix learns apart from its direction, which LoRA turns.

As in the paper's section 4.3 the length that is divided by carries no gradient.

Shapes: `O` outputs, `I` inputs, `r` rank.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from dunwu.core.errors import ModelError
from dunwu.delta.lora import Lora, LowRank
from dunwu.delta.peft_lora import Pair
from dunwu.delta.places import Place


class Directed(LowRank):
    """A pair with the lengths of the rows, `[O]`, which begin as they are."""

    def __init__(self, place: Place, rank: int, scale: float, dropout: float, generator: torch.Generator) -> None:
        if place.experts is not None:
            raise ModelError(
                f"dora has no form for {place.name}, a stack of experts; leave it out of targets, or take lora"
            )
        super().__init__(place, rank, scale, dropout, generator)
        meta = place.device.type == "meta"
        self.magnitude = nn.Parameter(torch.empty(place.outputs, device="meta") if meta else place.read().norm(dim=1))

    def lengths(self, matrix_OI: Tensor) -> Tensor:
        """Lengths of the rows of `matrix + scale · B A`, `[O]`, without making that."""
        a, b = self.a.detach(), self.b.detach()
        crossed_O = ((matrix_OI @ a.mT) * b).sum(1)
        own_O = ((b @ (a @ a.mT)) * b).sum(1)
        squares_O = matrix_OI.square().sum(1) + 2 * self.scale * crossed_O + self.scale**2 * own_O
        return squares_O.clamp_(min=1e-30).sqrt_()

    def add_to(self, output: Tensor, inputs: tuple[Any, ...], weight: float) -> Tensor:
        turned = super().add_to(output, inputs, 1.0)
        with torch.no_grad():
            lengths_O = self.lengths(self.place.read().to(self.a.dtype))
        factor_O = (self.magnitude / lengths_O).to(output.dtype)
        bias_O = cast("Tensor | None", self.place.owner.bias)
        changed = turned * factor_O if bias_O is None else (turned - bias_O) * factor_O + bias_O
        return changed if weight == 1.0 else output + weight * (changed - output)

    def merged_into(self, matrix: Tensor, weight: float) -> Tensor:
        turned = super().merged_into(matrix, 1.0)
        changed = turned * (self.magnitude.detach() / turned.norm(dim=1))[:, None]
        return changed if weight == 1.0 else matrix + weight * (changed - matrix)

    def exchanged(self) -> Pair:
        return Pair(a=self.a.detach(), b=self.b.detach(), scale=self.scale, magnitude=self.magnitude.detach())


class Dora(Lora):
    """LoRA whose pairs have lengths beside them."""

    multiplies = True

    def pair(self, place: Place, rank: int, scale: float, generator: torch.Generator) -> LowRank:
        return Directed(place, rank, scale, self.spec.dropout, generator)
