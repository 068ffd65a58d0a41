"""(IA)³ (arXiv:2205.05638): what some linear layers give, or take, is scaled channel by channel. The scales start at one.

Keys and values by what their layers give, MLPs by what their last layer takes; of experts each has scales of its own. With
latent attention keys and values come out of one layer, `kv_b_proj`.

Shapes: `O` outputs, `I` inputs, `E` experts, `M` rows sorted by expert.
"""

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dunwu.core.deltas import Ia3Spec
from dunwu.core.errors import ModelError
from dunwu.delta.base import Delta
from dunwu.delta.exchange import PREFIX, Exchange
from dunwu.delta.places import OwnParameter, Place, chosen_places, places
from dunwu.delta.slots import Slot, slot_named, slots, slots_to_write
from dunwu.model.decoder import Decoder

_AUTO = ("k_proj", "v_proj", "kv_b_proj", "down_proj")


class Scales(nn.Module):
    """Those of one matrix: `scale` `[O]`, or `[I]` where it is what the matrix takes that is scaled; of a stack `[E, …]`."""

    def __init__(self, place: Place, of_input: bool) -> None:
        super().__init__()
        self.place, self.of_input = place, of_input
        shape = (*place.shape[:-2], place.inputs if of_input else place.outputs)
        self.scale = nn.Parameter(torch.ones(shape, device=place.device))

    def weighed(self, weight: float) -> Tensor:
        """What to multiply by."""
        return self.scale if weight == 1.0 else 1.0 + weight * (self.scale - 1.0)

    def times(self, x: Tensor, inputs: tuple[Any, ...], weight: float) -> Tensor:
        """`x` scaled; `inputs` are those of the product, which of experts say which row is whose."""
        scale = self.weighed(weight)
        return x * (scale if self.place.experts is None else scale[cast("Tensor", inputs[4])]).to(x.dtype)

    def changed(self, weight: float) -> Iterator[tuple[Place, Tensor]]:
        """The matrix, and its bias, if the scales are in them."""
        scale = self.weighed(weight).detach()
        yield self.place, self.place.read() * (scale[..., None, :] if self.of_input else scale[..., None])
        stack = self.place.experts is not None
        bias = getattr(self.place.owner, f"{self.place.attribute}_bias" if stack else "bias", None)
        if bias is not None and not self.of_input:
            own = OwnParameter.of(f"{self.place.name}.bias", bias)
            yield own, own.read() * scale


class Ia3(Delta[Ia3Spec]):
    """Scales of the places that the specification's patterns choose."""

    multiplies = True

    def __init__(self, model: Decoder, spec: Ia3Spec, *, seed: int) -> None:
        super().__init__(model, spec)
        self.scales: dict[str, Scales] = {}
        for place in chosen_places(model, _targets(model) if spec.targets == "auto" else spec.targets):
            of_input = any(fnmatch.fnmatchcase(place.name, f"*{pattern}") for pattern in spec.inputs)
            self.scales[place.name] = Scales(place, of_input)
            self.add_module(place.name.replace(".", "/"), self.scales[place.name])

    @property
    def row_wise(self) -> bool:
        return all(one.place.experts is None for one in self.scales.values())

    def hooks(self) -> Iterator[RemovableHandle]:
        for scales in self.scales.values():
            product = scales.place.product
            if scales.of_input:
                yield product.register_forward_pre_hook(self._before(scales))
            else:
                yield product.register_forward_hook(self._after(scales))

    def _before(self, scales: Scales) -> Any:
        def scale(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            return (scales.times(inputs[0], inputs, self.weight), *inputs[1:]) if self.active else None

        return scale

    def _after(self, scales: Scales) -> Any:
        def scale(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            return scales.times(output, inputs, self.weight) if self.active else None

        return scale

    def changed(self) -> Iterator[tuple[Place, Tensor]]:
        for scales in self.scales.values():
            yield from scales.changed(self.weight)

    def exchanged(self) -> Exchange | None:
        """None with experts, of which peft scales none."""
        if any(one.place.experts is not None for one in self.scales.values()):
            return None
        used = slots_to_write(self.model, self.scales)
        of_input = [slot.name for slot in used if self.scales[_first(slot, self.scales)].of_input]
        config = {
            "peft_type": "IA3",
            "task_type": "CAUSAL_LM",
            "inference_mode": True,
            "target_modules": [slot.name for slot in used],
            "feedforward_modules": of_input,
            "fan_in_fan_out": any(slot.transposed for slot in used),
            "init_ia3_weights": True,
            "modules_to_save": None,
        }
        return Exchange(
            config=config, tensors={f"{PREFIX}{slot.name}.ia3_l": _joined(slot, self.scales) for slot in used}
        )


def _targets(model: Decoder) -> list[str]:
    last = {name.rpartition(".")[2] for name in places(model)}
    return [name for name in _AUTO if name in last]


def _first(slot: Slot, scales: Mapping[str, Scales]) -> str:
    return next(cut.place for cut in slot.cuts if cut.place in scales)


def _joined(slot: Slot, scales: Mapping[str, Scales]) -> Tensor:
    """One vector for a matrix of theirs, which may hold several of ours; those that are left alone have ones."""
    own = [(cut, scales[cut.place]) for cut in slot.cuts if cut.place in scales]
    first = own[0][1]
    if first.of_input:
        if len(own) < len(slot.cuts) or any(not torch.equal(one.scale, first.scale) for _, one in own):
            raise ModelError(
                f"{slot.name} is one matrix in peft, whose input has one scale; choose all of it, or its outputs"
            )
        return first.scale.detach()[None].clone()
    whole = torch.ones(slot.outputs, 1, device=first.scale.device)
    for cut, one in own:
        whole[cut.rows, 0] = one.scale.detach()
    return whole


def ia3_from_peft(model: Decoder, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Ia3:
    """A delta from peft's files, not attached yet. Raises ModelError for what it cannot be."""
    if config.get("modules_to_save"):
        raise ModelError(
            f"adapter_config.json has modules_to_save={config['modules_to_save']!r}, which dunwu does not have; merge the adapter "
            "in peft and load the model that comes of it"
        )
    known = slots(model)
    values: dict[str, Tensor] = {}
    inputs: list[str] = []
    for key, tensor in tensors.items():
        if not (key.startswith(PREFIX) and key.endswith(".ia3_l")):
            raise ModelError(
                f"the adapter has a tensor {key}, which is no part of (IA)³; take the files of one adapter"
            )
        slot = slot_named(key.removeprefix(PREFIX).removesuffix(".ia3_l"), known)
        of_input = _is_feedforward(slot.name, config.get("feedforward_modules") or [])
        whole = tensor.float().flatten()
        for cut in slot.cuts:
            if len(slot.cuts) > 1 and not of_input and bool((whole[cut.rows] == 1.0).all()):
                continue
            values[cut.place] = whole if of_input else whole[cut.rows]
            inputs += [cut.place] if of_input else []
    if not values:
        raise ModelError("the adapter has no tensors called base_model.model.….ia3_l; take the files of one adapter")
    delta = Ia3(model, Ia3Spec(targets=tuple(values), inputs=tuple(inputs)), seed=0)
    delta.load({f"{name}.scale": value for name, value in values.items()})
    return delta


def _is_feedforward(name: str, said: str | Sequence[str]) -> bool:
    """As peft looks it up."""
    if isinstance(said, str):
        return re.fullmatch(said, name) is not None
    return any(name.endswith(one) for one in said)
