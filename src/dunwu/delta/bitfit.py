"""BitFit (arXiv:2106.10199): biases alone learn.

Llama and its kin have none. There linear layers get biases of zeros, which is what the method comes to on such a model; with
them it cannot be merged, since the family has no place for them.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dunwu.core.deltas import BitFitSpec
from dunwu.core.errors import ModelError
from dunwu.delta.places import Place, fitting, places
from dunwu.delta.selective import Selective, fitting_names, learnable
from dunwu.model.decoder import Decoder


class BitFit(Selective[BitFitSpec]):
    """Biases that there are, those of norms and experts too, and new ones of linear layers that have none."""

    def __init__(self, model: Decoder, spec: BitFitSpec, *, seed: int) -> None:
        biases = [name for name in learnable(model) if name.endswith(("bias", "_bias"))]
        without = _without(model)
        linear = [name for name, place in places(model).items() if place.experts is None]
        adds = len(without) == len(linear) if spec.add == "auto" else spec.add
        if not adds and not biases:
            raise ModelError("bitfit finds no bias in this model; let it add some, with add: true")
        names = [*biases, *(f"{name}.bias" for name in (without if adds else ()))]
        chosen = set(fitting_names(_of_layers(spec.targets, names), names))
        super().__init__(model, spec, [name for name in biases if name in chosen])
        self.added: dict[str, nn.Parameter] = {}
        for name, place in without.items() if adds else ():
            if f"{name}.bias" in chosen:
                self.added[name] = nn.Parameter(torch.zeros(place.outputs, device=place.device))
                self.register_parameter(f"{name}.bias".replace(".", "/"), self.added[name])
        self.mergeable = not self.added

    @property
    def active(self) -> bool:
        """Whether biases are added from outside."""
        return self._counts and bool(self.added)

    @property
    def row_wise(self) -> bool:
        return not self.values

    def hooks(self) -> Iterator[RemovableHandle]:
        for name, bias in self.added.items():
            yield self.model.get_submodule(name).register_forward_hook(self._hook(bias))

    def _hook(self, bias: nn.Parameter) -> Any:
        def add(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            return output + (self.weight * bias).to(output.dtype) if self.active else None

        return add


def _without(model: Decoder) -> dict[str, Place]:
    """Linear layers of the blocks that have no bias that can learn."""
    return {
        name: place
        for name, place in places(model).items()
        if place.experts is None and "bias" not in dict(place.owner.named_parameters(recurse=False))
    }


def _of_layers(patterns: tuple[str, ...], names: list[str]) -> list[str]:
    """Patterns may name biases, or the layers that have them."""
    layers = [name.rpartition(".")[0] for name in names]
    found: list[str] = []
    for pattern in patterns:
        ends_so = pattern.endswith(("bias", "*"))
        found += [pattern] if ends_so else [f"{layer}.bias" for layer in fitting(pattern, layers, "targets")]
    return found
