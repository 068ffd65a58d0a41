"""VeRA (arXiv:2310.11454): one pair of random matrices for all places, frozen; only two vectors a place learn.

Each place has the first rows and columns that it needs of the pair. Where a matrix of peft's holds several of ours, it would
take other rows for them: such a delta is not written in peft's format.

Shapes: `O` outputs, `I` inputs, `r` rank.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from dunwu.core.deltas import VeraSpec
from dunwu.core.errors import ModelError
from dunwu.delta.base import Delta
from dunwu.delta.exchange import Exchange
from dunwu.delta.peft_lora import PREFIX, short_names
from dunwu.delta.places import Place, chosen_places
from dunwu.delta.slots import slot_named, slots, slots_to_write
from dunwu.model.decoder import Decoder

LR_FACTOR = 10.0
"""Vectors want larger steps than matrices (the paper's appendix A)."""


class Scales(nn.Module):
    """The vectors of one place: `d` `[r]` and `b` `[O]`, which begins at zero."""

    def __init__(self, place: Place, rank: int, start: float) -> None:
        super().__init__()
        self.place = place
        self.d = nn.Parameter(torch.full((rank,), start, device=place.device))
        self.b = nn.Parameter(torch.zeros(place.outputs, device=place.device))


class Vera(Delta[VeraSpec]):
    """`b ∘ B (d ∘ A x)` beside each chosen matrix."""

    a: Tensor
    b: Tensor

    def __init__(self, model: Decoder, spec: VeraSpec, *, seed: int) -> None:
        super().__init__(model, spec)
        chosen = chosen_places(model, spec.targets)
        for place in chosen:
            if place.experts is not None:
                raise ModelError(
                    f"vera has no form for {place.name}, a stack of experts; leave it out of targets, or take lora"
                )
        inputs, outputs = max(place.inputs for place in chosen), max(place.outputs for place in chosen)
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("a", _random(spec.r, inputs, generator).to(chosen[0].device))
        self.register_buffer("b", _random(outputs, spec.r, generator).to(chosen[0].device))
        self.scales = {place.name: Scales(place, spec.r, spec.d_initial) for place in chosen}
        for name, own in self.scales.items():
            self.add_module(name.replace(".", "/"), own)

    def hooks(self) -> Iterator[RemovableHandle]:
        for own in self.scales.values():
            yield own.place.product.register_forward_hook(self._hook(own))

    def _hook(self, own: Scales) -> Any:
        def add(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if not self.active:
                return None
            x = inputs[0] if torch.is_autocast_enabled(inputs[0].device.type) else inputs[0].to(self.a.dtype)
            if self.spec.dropout and module.training:
                x = F.dropout(x, self.spec.dropout)
            a_rI, b_Or = self._cut(own.place)
            added = F.linear(own.d * F.linear(x, a_rI), b_Or) * own.b
            return output + self.weight * added.to(output.dtype)

        return add

    def _cut(self, place: Place) -> tuple[Tensor, Tensor]:
        return self.a[:, : place.inputs], self.b[: place.outputs]

    def changed(self) -> Iterator[tuple[Place, Tensor]]:
        for own in self.scales.values():
            a_rI, b_Or = self._cut(own.place)
            added = (own.b.detach()[:, None] * b_Or) @ (own.d.detach()[:, None] * a_rI)
            yield own.place, own.place.read() + self.weight * added

    @property
    def row_wise(self) -> bool:
        return True

    def lr_factor(self, name: str) -> float:
        return LR_FACTOR

    def exchanged(self) -> Exchange | None:
        used = slots_to_write(self.model, self.scales)
        if any(len(slot.cuts) > 1 for slot in used):
            return None
        tensors = {"base_model.vera_A": self.a, "base_model.vera_B": self.b}
        for slot in used:
            own = self.scales[slot.cuts[0].place]
            tensors |= {f"{PREFIX}{slot.name}.vera_lambda_{part}": getattr(own, part).detach() for part in "bd"}
        config = {
            "peft_type": "VERA", "task_type": "CAUSAL_LM", "inference_mode": True, "r": self.spec.r,
            "target_modules": short_names(used, self.model), "vera_dropout": self.spec.dropout, "save_projection": True,
            "d_initial": self.spec.d_initial, "fan_in_fan_out": any(slot.transposed for slot in used), "bias": "none",
            "projection_prng_key": 0, "modules_to_save": None, "init_weights": True,
        }  # fmt: skip
        return Exchange(config=config, tensors=tensors)


def vera_from_peft(model: Decoder, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Vera:
    """A delta from peft's files, not attached yet. Raises ModelError for what it cannot be."""
    if config.get("bias") not in (None, "none") or config.get("modules_to_save"):
        raise ModelError(
            "the adapter trains biases or whole modules, which dunwu's vera does not have; train it without them"
        )
    shared = {part: tensors.get(f"base_model.vera_{part.upper()}") for part in "ab"}
    if shared["a"] is None or shared["b"] is None:
        raise ModelError("the adapter lacks vera_A and vera_B; save it with save_projection=True")
    known, values = slots(model), {"a": shared["a"], "b": shared["b"]}
    for key, tensor in tensors.items():
        module, found, kind = key.removeprefix(PREFIX).rpartition(".vera_lambda_")
        if not found:
            continue
        first, *more = slot_named(module, known).cuts
        if more:
            raise ModelError(
                f"the adapter changes {module}, which holds {1 + len(more)} matrices of ours: vera has no form for that; merge "
                "it in peft, and load the model that comes of it"
            )
        values[f"{first.place}.{kind}"] = tensor
    names: tuple[str, ...] = tuple(dict.fromkeys(name.rpartition(".")[0] for name in values if "." in name))
    spec = VeraSpec(
        r=int(config.get("r", 256)), targets=names, dropout=float(config.get("vera_dropout") or 0.0),
        d_initial=float(config.get("d_initial", 0.1)),
    )  # fmt: skip
    delta = Vera(model, spec, seed=0)
    values |= {"a": values["a"][:, : delta.a.shape[1]], "b": values["b"][: len(delta.b)]}
    delta.load(values)
    return delta


def _random(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """As peft draws it: uniform, by Kaiming's rule for what comes in."""
    bound = math.sqrt(6.0 / columns)
    return torch.empty(rows, columns).uniform_(-bound, bound, generator=generator)
