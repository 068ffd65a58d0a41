"""Selective methods: some of the model's own parameters learn, and what they learned is kept as a difference.

Embeddings, heads, norms and matrices alike; not routers' corrections, which no gradient moves, nor matrices of few bits.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dunwu.core.deltas import DeltaSpec, LastLayersSpec, NormsSpec, PatternSpec
from dunwu.core.errors import ModelError
from dunwu.delta.base import Delta
from dunwu.delta.exchange import PREFIX, Exchange
from dunwu.delta.places import OwnParameter, Place, fitting
from dunwu.delta.standins import Difference, ground
from dunwu.model.blocks.norms import RMSNorm
from dunwu.model.blocks.quantised import QuantisedMatrix
from dunwu.model.decoder import Decoder
from dunwu.model.families import family_of

Spec = TypeVar("Spec", bound=DeltaSpec)


class Selective(Delta[Spec]):
    """Whole parameters of these names learn."""

    def __init__(self, model: Decoder, spec: Spec, names: Sequence[str]) -> None:
        super().__init__(model, spec)
        self.values: dict[str, nn.Parameter] = {}
        for name in names:
            own = model.get_parameter(name)
            dtype = torch.promote_types(own.dtype, torch.float32)
            self.values[name] = nn.Parameter(torch.zeros(own.shape, dtype=dtype, device=own.device))
            self.register_parameter(name.replace(".", "/"), self.values[name])

    @property
    def active(self) -> bool:
        """Never: the model's weights say it all."""
        return False

    def hooks(self) -> Iterator[RemovableHandle]:
        yield from ()

    def differences(self) -> Mapping[str, Difference]:
        return {name: self._difference(name) for name in self.values} if self._counts else {}

    def changed(self) -> Iterator[tuple[Place, Tensor]]:
        for name in self.values:
            parameter = self.model.get_parameter(name)
            value = parameter.detach().float().clone()
            self._difference(name).add_to(value)
            yield OwnParameter.of(name, parameter), value

    def differences_whole(self) -> dict[str, Tensor]:
        """What it adds to the model's own parameters at weight 1, each of its parameter's shape, float32."""
        found: dict[str, Tensor] = {}
        for name, difference in ((name, self._difference(name)) for name in self.values):
            whole = torch.zeros(self.model.get_parameter(name).shape, device=difference.values.device)
            Difference(difference.values, 1.0, difference.places).add_to(whole)
            found[name] = whole
        return found

    def _difference(self, name: str) -> Difference:
        return Difference(self.values[name], self.weight)


class LastLayers(Selective[LastLayersSpec]):
    """The last blocks."""

    def __init__(self, model: Decoder, spec: LastLayersSpec, *, seed: int) -> None:
        count = model.config.num_hidden_layers
        if spec.layers > count:
            raise ModelError(f"layers={spec.layers} are more than the {count} of this model; use 1 to {count}")
        chosen = {f"model.layers.{layer}" for layer in range(count - spec.layers, count)}
        for name, module in model.named_modules():
            if isinstance(module, QuantisedMatrix) and any(name.startswith(f"{layer}.") for layer in chosen):
                raise ModelError(
                    f"{name} has weights of few bits, which cannot learn; take the base in floats, or use lora"
                )
        super().__init__(model, spec, [n for n in learnable(model) if ".".join(n.split(".")[:3]) in chosen])


class ByPattern(Selective[PatternSpec]):
    """Whatever fits the patterns."""

    def __init__(self, model: Decoder, spec: PatternSpec, *, seed: int) -> None:
        super().__init__(model, spec, fitting_names(spec.targets, learnable(model)))


class Norms(Selective[NormsSpec]):
    """Norms: of the stream, of queries and keys, of latent vectors, and the final one."""

    def __init__(self, model: Decoder, spec: NormsSpec, *, seed: int) -> None:
        self.modules_chosen = fitting_names(spec.targets, norms_of(model))
        names = [f"{module}.{name}" for module in self.modules_chosen for name, _ in _own(model, module)]
        super().__init__(model, spec, names)

    def _before(self, name: str) -> Tensor:
        """The norm without this one."""
        kept = {place.name: tensors[0] for place, tensors in self._kept or []}
        return kept[name] if name in kept else ground(self.model, name)

    def exchanged(self) -> Exchange:
        known = {ours: theirs for theirs, ours in _stored_vectors(self.model).items()}
        tensors: dict[str, Tensor] = {}
        modules: list[str] = []
        for name, value in self.values.items():
            module, _, part = known[name].rpartition(".")
            tensors[f"{PREFIX}{module}.ln_tuning_layers.{part}"] = self._before(name).float() + value.detach().float()
            modules.append(module)
        config = {
            "peft_type": "LN_TUNING",
            "task_type": "CAUSAL_LM",
            "inference_mode": True,
            "target_modules": list(dict.fromkeys(modules)),
            "modules_to_save": None,
        }
        return Exchange(config=config, tensors=tensors)


def norms_from_peft(model: Decoder, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Norms:
    """A delta from peft's files, not attached yet. Raises ModelError for what it cannot be."""
    if config.get("modules_to_save"):
        raise ModelError(
            f"adapter_config.json has modules_to_save={config['modules_to_save']!r}, which dunwu does not have; merge the adapter "
            "in peft and load the model that comes of it"
        )
    known = _stored_vectors(model)
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX).replace(".ln_tuning_layers.", ".")
        if name not in known or not _is_norm(model, known[name]):
            raise ModelError(f"the adapter changes {key}, which is no norm of this model; it belongs to another base")
        if tensor.shape != ground(model, known[name]).shape:
            raise ModelError(
                f"the adapter has {key} of {list(tensor.shape)}, and the model's norm {list(ground(model, known[name]).shape)}; it "
                "belongs to another base"
            )
        found[known[name]] = tensor
    if not found:
        raise ModelError(
            "the adapter has no tensors called base_model.model.….ln_tuning_layers.weight; take its whole file"
        )
    delta = Norms(model, NormsSpec(targets=tuple(dict.fromkeys(name.rpartition(".")[0] for name in found))), seed=0)
    delta.load({name: tensor.float() - ground(model, name).float() for name, tensor in found.items()})
    return delta


def learnable(model: Decoder) -> list[str]:
    """The parameters that a gradient may move, by name."""
    return [name for name, _ in model.named_parameters() if not name.endswith("router.correction")]


def norms_of(model: Decoder) -> list[str]:
    """All norms, by name."""
    return [name for name, module in model.named_modules() if isinstance(module, RMSNorm | nn.LayerNorm)]


def fitting_names(patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The names that fit one of the patterns, in their order. Raises ModelError for a pattern that fits none."""
    wanted = {name for pattern in patterns for name in fitting(pattern, names, "targets")}
    return [name for name in names if name in wanted]


def _own(model: Decoder, module: str) -> list[tuple[str, nn.Parameter]]:
    return list(model.get_submodule(module).named_parameters(recurse=False))


def _is_norm(model: Decoder, name: str) -> bool:
    return isinstance(model.get_submodule(name.rpartition(".")[0]), RMSNorm | nn.LayerNorm)


def _stored_vectors(model: Decoder) -> dict[str, str]:
    """Vectors by their names in transformers, and ours."""
    stored = family_of(model.config.architecture).stored(model.config)
    return {one.name: one.pieces[0].ours for one in stored if len(one.shape) == 1 and len(one.pieces) == 1}
