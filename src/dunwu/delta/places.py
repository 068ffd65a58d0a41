"""The matrices of a model that a delta may change, found by pattern, read and replaced whatever they are stored as.

Shapes: `O` outputs, `I` inputs, `E` experts.
"""

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from dunwu.core.deltas import ALL_LINEAR
from dunwu.core.errors import ModelError
from dunwu.delta.quantise import quantised
from dunwu.model.blocks.experts import ExpertStack, StackProduct
from dunwu.model.blocks.nf4 import NF4Linear
from dunwu.model.blocks.quantised import QuantisedLinear
from dunwu.model.decoder import Decoder

FewBits = QuantisedLinear | NF4Linear
Kept = tuple[Tensor, ...]
"""What was stored before a replacement, to be put back bit for bit."""


@dataclass(frozen=True, eq=False)
class Place:
    """A matrix `[O, I]`, or a stack of experts' `[E, O, I]`.

    `name`: of the linear layer, or of the stack: `model.layers.0.self_attn.q_proj`, `model.layers.0.mlp.experts.up_proj`.
    `product`: the module whose input is what the matrix multiplies and whose output is the product: where hooks go.
    """

    name: str
    product: nn.Module
    owner: nn.Module
    attribute: str
    shape: tuple[int, ...]

    @property
    def inputs(self) -> int:
        return self.shape[-1]

    @property
    def outputs(self) -> int:
        return self.shape[-2]

    @property
    def experts(self) -> int | None:
        """How many matrices the stack has; None for a single one."""
        return self.shape[0] if len(self.shape) == 3 else None

    @property
    def is_quantised(self) -> bool:
        return isinstance(self.owner, FewBits)

    @property
    def device(self) -> torch.device:
        return self.owner.packed.device if isinstance(self.owner, FewBits) else self._parameter().device

    def read(self) -> Tensor:
        """The matrix in float32; a copy where it is stored otherwise."""
        if isinstance(self.owner, FewBits):
            return self.owner.weight
        return self._parameter().detach().float()

    def replace(self, value: Tensor) -> tuple[Kept, float]:
        """Store another matrix; gives what was stored, and how far what is stored now is from `value`.

        The error is the root of the mean square, as a share of the matrix's own: that of rounding to the dtype, or to few bits.
        """
        kept: Kept
        if isinstance(self.owner, FewBits):
            kept = tuple(self.owner.buffers(recurse=False))
            if isinstance(self.owner, NF4Linear):
                self.owner.store(value)
            else:
                self.owner.packed, self.owner.scales = quantised(value, self.owner.bits)
        else:
            parameter = self._parameter()
            if parameter.is_cuda:  # recorded passes read it where it lies
                kept = (parameter.data.clone(),)
                parameter.data.copy_(value)
            else:
                kept = (parameter.data,)
                parameter.data = value.to(parameter.dtype)
            if parameter.dtype == torch.float32:
                return kept, 0.0
        error = (self.read() - value).square_().mean() / value.square().mean().clamp(min=1e-30)
        return kept, float(error.sqrt())

    def restore(self, kept: Kept) -> None:
        """Put back what `replace` gave."""
        if isinstance(self.owner, FewBits):
            for (name, _), buffer in zip(list(self.owner.named_buffers(recurse=False)), kept, strict=True):
                setattr(self.owner, name, buffer)
        else:
            parameter = self._parameter()
            if parameter.is_cuda:
                parameter.data.copy_(kept[0])
            else:
                parameter.data = kept[0]

    def _parameter(self) -> nn.Parameter:
        return cast("nn.Parameter", getattr(self.owner, self.attribute))


@dataclass(frozen=True, eq=False)
class OwnParameter(Place):
    """Any parameter of a model's, or a bias that is kept as a plain tensor, to be read and replaced."""

    held: Tensor

    @classmethod
    def of(cls, name: str, held: Tensor) -> "OwnParameter":
        nothing = nn.Module()
        return cls(name, nothing, nothing, name.rpartition(".")[2], tuple(held.shape), held)

    def _parameter(self) -> nn.Parameter:
        return cast("nn.Parameter", self.held)


_STACKS = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
"""An expert stack's parameters, and the modules that multiply by them."""


def places(model: Decoder) -> dict[str, Place]:
    """All linear layers of the blocks and all stacks of experts, by name.

    Embedding and head are left out: an objective reads the head as a matrix, past any hook.
    """
    found: dict[str, Place] = {}
    for name, module in model.model.layers.named_modules(prefix="model.layers"):
        if isinstance(module, nn.Linear | FewBits):
            shape = (module.out_features, module.in_features)
            found[name] = Place(name, module, module, "weight", shape)
        elif isinstance(module, ExpertStack):
            for attribute, product in _STACKS.items():
                stack = cast("nn.Parameter", getattr(module, attribute))
                multiplies = cast("StackProduct", getattr(module, product))
                full = f"{name}.{attribute}"
                found[full] = Place(full, multiplies, module, attribute, tuple(stack.shape))
    return found


def chosen_places(model: Decoder, targets: Sequence[str]) -> list[Place]:
    """Those that fit one of the patterns, in the model's order; `all-linear` stands for all linear layers of the blocks (not for
    stacks of experts, nor for a gate of one output).

    Raises ModelError for a pattern that fits none, with the nearest names.
    """
    everything = places(model)
    wanted: set[str] = set()
    for pattern in targets:
        if pattern == ALL_LINEAR:
            wanted |= {name for name, place in everything.items() if place.experts is None and place.outputs > 1}
        else:
            wanted |= fitting(pattern, list(everything), "targets")
    return [place for name, place in everything.items() if name in wanted]


def fitting(pattern: str, names: Sequence[str], option: str) -> set[str]:
    """The names that a pattern fits: whole (`model.layers.0.*`) or from a dot on (`q_proj`, `self_attn.*`).

    Raises ModelError where there is none, with the nearest.
    """
    found = {name for name in names if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"*.{pattern}")}
    if not found:
        raise ModelError(
            f"{option} has {pattern!r}, which fits nothing in this model; nearest: {_nearest(pattern, names)}"
        )
    return found


def _nearest(pattern: str, names: Sequence[str]) -> str:
    """Up to three ends of names, as long as the pattern is, most like it."""
    parts = pattern.count(".") + 1
    ends = list(dict.fromkeys(".".join(name.split(".")[-parts:]) for name in names))
    return ", ".join(difflib.get_close_matches(pattern, ends, n=3, cutoff=0.0)) or "nothing"
