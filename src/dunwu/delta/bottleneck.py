"""Bottleneck adapters: beside the stream's sublayers small MLPs learn, `scale · up(activation(down(x)))`; up starts at zero.

In series they read what attention or an MLP gives, before it is added to the stream (after both: arXiv:1902.00751, after the MLP
alone: arXiv:2005.00247); in parallel they read what it reads (arXiv:2110.04366). Where a block normalises a sublayer's output,
that comes after the adapter, as in BERT. A mixture of experts is one sublayer. peft has none of them.
"""

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from dunwu.core.deltas import BottleneckSpec, ParallelSpec
from dunwu.core.errors import ModelError
from dunwu.delta.base import Delta
from dunwu.delta.places import fitting
from dunwu.model.decoder import Decoder

_ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}


class Bottleneck(nn.Module):
    """One adapter."""

    def __init__(self, width: int, spec: BottleneckSpec, device: torch.device, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(width)
        down = torch.empty(spec.bottleneck, width).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(down.to(device))
        self.down_bias = nn.Parameter(torch.zeros(spec.bottleneck, device=device))
        self.up = nn.Parameter(torch.zeros(width, spec.bottleneck, device=device))
        self.up_bias = nn.Parameter(torch.zeros(width, device=device))
        self.activation, self.scale = _ACTIVATIONS[spec.activation], spec.scale

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.down.dtype)
        return self.scale * F.linear(self.activation(F.linear(x, self.down, self.down_bias)), self.up, self.up_bias)


class Adapters(Delta[BottleneckSpec]):
    """Adapters at the sublayers that the specification's patterns choose."""

    mergeable = False

    @property
    def row_wise(self) -> bool:
        return True

    def __init__(self, model: Decoder, spec: BottleneckSpec, *, seed: int) -> None:
        super().__init__(model, spec)
        width = model.config.hidden_size
        if spec.bottleneck > width:
            raise ModelError(
                f"bottleneck={spec.bottleneck} is more than the {width} channels of the model; use {max(1, width // 4)}, or at "
                f"most {width}"
            )
        sublayers = _sublayers(model)
        wanted = {name for pattern in spec.targets for name in fitting(pattern, sublayers, "targets")}
        generator = torch.Generator().manual_seed(seed)
        device = next(model.parameters()).device
        self.adapters = {name: Bottleneck(width, spec, device, generator) for name in sublayers if name in wanted}
        for name, adapter in self.adapters.items():
            self.add_module(name.replace(".", "/"), adapter)

    def hooks(self) -> Iterator[RemovableHandle]:
        parallel = isinstance(self.spec, ParallelSpec)
        for name, adapter in self.adapters.items():
            yield self.model.get_submodule(name).register_forward_hook(self._hook(adapter, parallel))

    def _hook(self, adapter: Bottleneck, parallel: bool) -> Any:
        def add(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if not self.active:
                return None
            read = cast("Tensor", inputs[0]) if parallel else output
            return output + (self.weight * adapter(read)).to(output.dtype)

        return add


def _sublayers(model: Decoder) -> list[str]:
    return [f"model.layers.{layer}.{part}" for layer in range(len(model.model.layers)) for part in ("self_attn", "mlp")]
