"""Weight-only quantising: the matrices of a finished model become whole numbers of few bits; what flows through stays float32.

int8 has one scale a row; int4 one for each 32 inputs, chosen for the least squared error, and keeps embedding and head at 8
bits, where 4 cost the most. Norms, biases, routers and stacks of experts stay as they are.

Shapes: `O` outputs, `I` inputs, `G` groups of inputs, `N` inputs of a group.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from dunwu.core.errors import ModelError
from dunwu.model.blocks.nf4 import NF4Linear
from dunwu.model.blocks.quantised import (
    UNIT,
    Bits,
    QuantisedEmbedding,
    QuantisedLinear,
    QuantisedMatrix,
    pack,
)
from dunwu.model.decoder import Decoder

Weights = Literal["float", "int8", "int4"]
INT4_GROUP = 32
_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Shares of the greatest weight of a group that its scale may stand for: what is beyond is clipped."""


def quantise(model: Decoder, weights: Weights) -> Decoder:
    """Rewrite the model in place, and give it back; "float" leaves it alone. Raises ModelError for a kind that is not known."""
    if weights not in ("float", "int8", "int4"):
        raise ModelError(f"weights={weights!r} are not known; use float, int8 or int4")
    if weights == "float":
        return model
    bits: Bits = 8 if weights == "int8" else 4
    for name, module in list(model.named_modules()):
        if type(module) is nn.Embedding and name.endswith("embed_tokens"):
            _replace(model, name, QuantisedEmbedding(*quantised(module.weight.detach(), 8), bits=8))
        elif type(module) is nn.Linear and name.rpartition(".")[2] != "shared_gate":
            own = 8 if name == "lm_head" or module.in_features % UNIT else bits
            bias = None if module.bias is None else module.bias.detach()
            _replace(model, name, QuantisedLinear(*quantised(module.weight.detach(), own), bits=own, bias=bias))
    return model


def quantise_base(model: Decoder, weights: Literal["float", "int8", "nf4"]) -> Decoder:
    """Rewrite the linear layers of the blocks in place, as a frozen base that deltas learn on; embedding and head stay.

    "nf4": 4-bit NormalFloat with double quantisation (arXiv:2305.14314). Stacks of experts and gates of one output stay too.
    """
    for name, module in list(model.model.layers.named_modules(prefix="model.layers")):
        if weights == "float" or type(module) is not nn.Linear or module.out_features == 1:
            continue
        weight, bias = module.weight.detach(), None if module.bias is None else module.bias.detach()
        if weights == "nf4":
            _replace(model, name, NF4Linear(weight, bias))
        else:
            _replace(model, name, QuantisedLinear(*quantised(weight, 8), bits=8, bias=bias))
    return model


def dequantise(model: Decoder) -> Decoder:
    """Plain modules again, in place, with the weights that the quantised ones stand for."""
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantisedEmbedding):
            _replace(model, name, nn.Embedding.from_pretrained(module.weight))
        elif isinstance(module, QuantisedLinear | NF4Linear):
            plain = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
            plain.weight = nn.Parameter(module.weight, requires_grad=False)
            if module.bias is not None:
                plain.bias = nn.Parameter(module.bias, requires_grad=False)
            _replace(model, name, plain)
    return model


def weight_bytes(model: Decoder) -> int:
    """What the weights take, scales included."""
    modules = list(model.modules())
    few = sum(module.bytes for module in modules if isinstance(module, QuantisedMatrix | NF4Linear))
    return few + sum(parameter.nbytes for parameter in model.parameters())


def quantised(weight_OI: Tensor, bits: Bits) -> tuple[Tensor, Tensor]:
    """Whole numbers and scales, `[O, I]` or packed `[O, I/2]`, and `[O, G]`. Rounding is to the nearest, zero stays zero."""
    weight_OI = weight_OI.float()
    if bits == 8:
        scales_O1 = weight_OI.abs().amax(1, keepdim=True) / 127
        numbers_OI = (weight_OI / scales_O1.clamp(min=1e-30)).round_().clamp_(-127, 127).to(torch.int8)
        return numbers_OI, scales_O1.contiguous()
    numbers_OGN, scales_OG1 = _of_four_bits(weight_OI.unflatten(1, (-1, INT4_GROUP)))
    return pack(numbers_OGN.flatten(1)), scales_OG1[..., 0].contiguous()


def _of_four_bits(weight_OGN: Tensor) -> tuple[Tensor, Tensor]:
    greatest_OG1 = weight_OGN.abs().amax(-1, keepdim=True)
    best_OG1 = torch.full_like(greatest_OG1, torch.inf)
    numbers_OGN, scales_OG1 = torch.zeros_like(weight_OGN), greatest_OG1
    for shrink in _SHRINKS:
        scale_OG1 = greatest_OG1 * (shrink / 7)
        tried_OGN = (weight_OGN / scale_OG1.clamp(min=1e-30)).round_().clamp_(-8, 7)
        error_OG1 = (tried_OGN * scale_OG1 - weight_OGN).square_().sum(-1, keepdim=True)
        better_OG1 = error_OG1 < best_OG1
        best_OG1 = torch.where(better_OG1, error_OG1, best_OG1)
        numbers_OGN = torch.where(better_OG1, tried_OGN, numbers_OGN)
        scales_OG1 = torch.where(better_OG1, scale_OG1, scales_OG1)
    return numbers_OGN.to(torch.int8), scales_OG1


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module.train(model.training))
