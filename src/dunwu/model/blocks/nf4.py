"""Frozen matrices in 4-bit NormalFloat (arXiv:2305.14314, section 3): sixteen values that share out a normal distribution evenly,
scaled by the greatest of each block of 64.

With double quantisation the scales lie in 8 bits, as their mean and what they differ from it, in blocks of 256: 4.127 bits a
weight instead of 4.5. Values, blocks, packing and the 8-bit numbers are those of bitsandbytes.

Shapes: `O` outputs, `I` inputs, `B` blocks of 64 numbers, row by row, `G` groups of 256 blocks.
"""

import functools
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dunwu.model.blocks.quantised import FrozenProduct

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The paper's appendix E."""
BLOCK, GROUP = 64, 256


class NF4Linear(nn.Module):
    """In place of an `nn.Linear`; its bias stays as it was. Its matrix is made anew for every product and learns nothing.

    `twice`: its scales are quantised too.
    """

    packed: Tensor
    scales: Tensor
    mean: Tensor | None
    group_scales: Tensor | None

    def __init__(self, weight_OI: Tensor, bias: Tensor | None, *, twice: bool = True) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_OI.shape
        self.bias, self.twice = bias, twice
        for name in ("packed", "scales", "mean", "group_scales"):
            self.register_buffer(name, None)
        self.store(weight_OI)

    def store(self, weight_OI: Tensor) -> None:
        """Keep another matrix of this shape."""
        packed, scales_B = pack_nf4(weight_OI)
        self.packed = packed
        if not self.twice:
            self.scales = scales_B
            return
        self.mean = scales_B.mean()
        self.scales, self.group_scales = to_8_bits(scales_B - self.mean)

    @property
    def weight(self) -> Tensor:
        """The float32 matrix that it stands for, `[O, I]`, made anew."""
        scales_B = self.scales
        if self.group_scales is not None and self.mean is not None:
            scales_B = from_8_bits(self.scales, self.group_scales) + self.mean
        return unpack_nf4(self.packed, scales_B, self.out_features * self.in_features).view(
            self.out_features, self.in_features
        )

    @property
    def bytes(self) -> int:
        """What it takes to keep it, scales included."""
        return sum(buffer.nbytes for buffer in self.buffers())

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            return cast("Tensor", FrozenProduct.apply(x, self, self.bias))
        return F.linear(x, self.weight.to(x.dtype), self.bias)


def pack_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Two numbers a byte, the first in the high half, and the greatest of each block, `[B]`; what a block lacks is zero."""
    flat = weight.detach().float().flatten()
    blocks_BN = F.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
    scales_B = blocks_BN.abs().amax(1)
    table = _table(flat.device)
    middles = (table[1:] + table[:-1]) / 2
    codes = torch.bucketize(blocks_BN / scales_B.clamp(min=1e-30)[:, None], middles).to(torch.uint8).view(-1, 2)
    return (codes[:, 0] << 4) | codes[:, 1], scales_B


def unpack_nf4(packed: Tensor, scales_B: Tensor, count: int) -> Tensor:
    """The numbers again, float32 `[count]`."""
    pairs_N2 = _pairs(packed.device)[packed.int()]
    return (pairs_N2.view(-1, BLOCK) * scales_B[:, None]).flatten()[:count]


def to_8_bits(values_B: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of `dynamic_numbers`, uint8 `[B]`, and the greatest of each group, `[G]`."""
    groups_GN = F.pad(values_B, (0, -values_B.numel() % GROUP)).view(-1, GROUP)
    greatest_G = groups_GN.abs().amax(1)
    numbers = dynamic_numbers().to(values_B.device)
    shares_GN = groups_GN / greatest_G.clamp(min=1e-30)[:, None]
    codes = torch.bucketize(shares_GN, (numbers[1:] + numbers[:-1]) / 2)
    return codes.to(torch.uint8).flatten()[: values_B.numel()], greatest_G


def from_8_bits(codes_B: Tensor, greatest_G: Tensor) -> Tensor:
    """The values again, `[B]`."""
    numbers = dynamic_numbers().to(codes_B.device)
    return numbers[codes_B.int()] * greatest_G.repeat_interleave(GROUP)[: codes_B.numel()]


@functools.cache
def dynamic_numbers() -> Tensor:
    """256 numbers from -1 to 1, finer towards zero (arXiv:1511.04561, as bitsandbytes has them): seven decades, each with twice
    as many as the one below."""
    found = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1.0, 2**exponent + 1)
        middles = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent - 6)).tolist()
        found += [*middles, *(-middle for middle in middles)]
    return torch.tensor(sorted(found))


@functools.cache
def _table(device: torch.device) -> Tensor:
    return torch.tensor(NF4, device=device)


@functools.cache
def _pairs(device: torch.device) -> Tensor:
    """Both numbers of every byte, `[256, 2]`."""
    table, byte = _table(device), torch.arange(256, device=device)
    return torch.stack((table[byte >> 4], table[byte & 15]), dim=1)
