"""Normalisation over the last axis."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dunwu.model import kernels
from dunwu.model.config import DecoderConfig


def by_hand(x: Tensor) -> bool:
    """Whether `kernels` serve this tensor: on a CPU, not in half precision, and not while a compiler traces the formulas."""
    return x.is_cpu and x.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling()


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (arXiv:1910.07467); Gemma's learns what is added to one: `offset`."""

    def __init__(self, size: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        if self.offset and x.dtype in (torch.float16, torch.bfloat16):
            # The sum would lose most of what the weight says, so Gemma makes it, and the product, in float32.
            weight = self.weight.float() + self.offset
            return F.rms_norm(x.float(), weight.shape, weight, self.eps).to(x.dtype)
        weight = self.weight + self.offset if self.offset else self.weight
        if by_hand(x):
            return kernels.rms_norm(x, weight, self.eps)
        return F.rms_norm(x, weight.shape, weight, self.eps)


def new_norm(config: DecoderConfig, size: int | None = None) -> nn.Module:
    """A norm of the model's kind over `size` channels, its width by default."""
    size = size or config.hidden_size
    if config.norm == "layer":
        return nn.LayerNorm(size, eps=config.rms_norm_eps)
    return RMSNorm(size, config.rms_norm_eps, config.norm_offset)
