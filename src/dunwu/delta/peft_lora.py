"""LoRA's kin in peft's format: `adapter_config.json` and the tensors' names, both ways.

Where one matrix of theirs holds several of ours, their pairs become one pair of the sum of the ranks: the As below each other,
the Bs on the diagonal. Read back, each of ours keeps the part of its rows. Pairs that share one A are written with it once.

Shapes: `O` outputs, `I` inputs, `r` rank, `E` experts.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dunwu.core.errors import ModelError
from dunwu.delta.exchange import PREFIX, Exchange
from dunwu.delta.slots import Cut, Slot, slot_named, slots, slots_to_write
from dunwu.model.decoder import Decoder

_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.(?P<kind>lora_A|lora_B|lora_magnitude_vector)(\.weight)?")
_UNLESS: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "layer_replication": (None,),
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None,),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
}
"""Of a configuration: what changes more than matrices, or changes them otherwise, and the values at which it does not."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What an adapter does to one of our matrices: `scale · B A`; with `magnitude` `[O]` rows of that length (DoRA)."""

    a: Tensor
    b: Tensor
    scale: float
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.a.shape[-2]


# Writing


def written(
    model: Decoder,
    pairs: Mapping[str, Pair],
    *,
    rank: int,
    alpha: float,
    rank_stabilised: bool,
    dropout: float,
) -> Exchange:
    """The adapter of these pairs, by the names of our places. `rank` and `alpha` are what most of them have."""
    used = slots_to_write(model, pairs)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for slot in used:
        whole = _joined(slot, pairs, model)
        at = _key_of(slot, used)
        stacked = whole.a.ndim == 3
        tensors[f"{at}.lora_A.weight"] = whole.a.flatten(0, 1) if stacked else whole.a
        tensors[f"{at}.lora_B.weight"] = whole.b.permute(1, 2, 0).flatten(1) if stacked else whole.b
        if whole.magnitude is not None:
            tensors[f"{at}.lora_magnitude_vector"] = whole.magnitude
        own = whole.scale * (math.sqrt(whole.rank) if rank_stabilised else whole.rank)
        if whole.rank != rank:
            ranks[slot.name] = whole.rank
        if not math.isclose(own, alpha, rel_tol=1e-12):
            alphas[slot.name] = own
    modules = [slot for slot in used if not slot.is_parameter]
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _whole(alpha),
        "lora_dropout": 0.0 if any(slot.is_parameter for slot in used) else dropout,
        "target_modules": short_names(modules, model),
        "target_parameters": [slot.name for slot in used if slot.is_parameter] or None,
        "rank_pattern": {re.escape(name): value for name, value in ranks.items()},
        "alpha_pattern": {re.escape(name): _whole(value) for name, value in alphas.items()},
        "use_rslora": rank_stabilised,
        "use_dora": any(pair.magnitude is not None for pair in pairs.values()),
        "fan_in_fan_out": any(slot.transposed for slot in modules),
        "bias": "none",
        "init_lora_weights": True,
        "modules_to_save": None,
    }
    return Exchange(config=config, tensors={name: tensor.contiguous() for name, tensor in tensors.items()})


def _joined(slot: Slot, pairs: Mapping[str, Pair], model: Decoder) -> Pair:
    """One pair for the whole slot."""
    own = [(cut, pairs[cut.place]) for cut in slot.cuts if cut.place in pairs]
    first = own[0][1]
    shared = all(pair.a.shape == first.a.shape and torch.equal(pair.a, first.a) for _, pair in own)
    rank = first.rank if shared else sum(pair.rank for _, pair in own)
    a = first.a if shared else torch.cat([pair.a for _, pair in own], dim=-2)
    b = first.b.new_zeros(*first.b.shape[:-2], slot.outputs, rank)
    start = 0
    for cut, pair in own:
        columns = slice(0, rank) if shared else slice(start, start + pair.rank)
        b[..., cut.rows, columns] = pair.b * (pair.scale / first.scale)
        start += pair.rank
    return Pair(a=a, b=b, scale=first.scale, magnitude=_joined_magnitude(slot, own, model))


def _joined_magnitude(slot: Slot, own: Sequence[tuple[Cut, Pair]], model: Decoder) -> Tensor | None:
    """The rows' lengths; those of our matrices that the adapter leaves alone keep their own."""
    if own[0][1].magnitude is None:
        return None
    lengths = own[0][1].magnitude.new_empty(slot.outputs)
    for cut in slot.cuts:
        lengths[cut.rows] = model.get_parameter(f"{cut.place}.weight").detach().float().norm(dim=1)
    for cut, pair in own:
        assert pair.magnitude is not None
        lengths[cut.rows] = pair.magnitude
    return lengths


def _key_of(slot: Slot, used: Sequence[Slot]) -> str:
    """Where peft keeps a slot's tensors. Parameters of one module are wrapped around each other, the last one outermost."""
    if not slot.is_parameter:
        return PREFIX + slot.name
    module = slot.name.rpartition(".")[0]
    inside = [other.name for other in used if other.is_parameter and other.name.rpartition(".")[0] == module]
    return PREFIX + module + ".base_layer" * (len(inside) - 1 - inside.index(slot.name))


def short_names(modules: Sequence[Slot], model: Decoder) -> list[str]:
    """Last parts of the names where these stand for the same modules, as other engines like them; else whole names."""
    last = {slot.name.rpartition(".")[2] for slot in modules}
    every = [slot for slot in slots(model).values() if not slot.is_parameter and slot.cuts[0].expert is None]
    if {slot.name for slot in every if slot.name.rpartition(".")[2] in last} == {slot.name for slot in modules}:
        return sorted(last)
    return [slot.name for slot in modules]


def _whole(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


# Reading


def read(model: Decoder, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Pair]:
    """What the adapter does to each of our matrices, by place.

    Raises ModelError for what dunwu does not have, for modules that the model lacks, and for shapes that do not fit it.
    """
    for name, allowed in _UNLESS.items():
        if name in config and config[name] not in allowed:
            raise ModelError(
                f"adapter_config.json has {name}={config[name]!r}, which dunwu does not have; train the adapter without it, or "
                "merge it in peft and load the model that comes of it"
            )
    known = slots(model)
    pairs: dict[str, Pair] = {}
    for slot, parts in _grouped(known, config, tensors):
        whole = _whole_pair(slot, parts, config, model)
        for cut in slot.cuts:
            _put(pairs, cut, whole, model)
    if not pairs:
        raise ModelError(
            "the adapter has no tensors called base_model.model.….lora_A.weight; take the files of one adapter"
        )
    return pairs


def _grouped(
    known: Mapping[str, Slot], config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Iterator[tuple[Slot, dict[str, Tensor]]]:
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise ModelError(
                f"the adapter has a tensor {key}, which is no part of LoRA as dunwu has it; train the adapter without it, or "
                "merge it in peft and load the model that comes of it"
            )
        groups.setdefault(match["module"], {})[match["kind"]] = tensor
    wanted = list(config.get("target_parameters") or [])
    for module, parts in groups.items():
        yield slot_named(_parameter_of(module, groups, wanted, known) or module, known), parts


def _parameter_of(
    module: str, groups: Mapping[str, object], wanted: Sequence[str], known: Mapping[str, Slot]
) -> str | None:
    """The stack whose tensors lie at `module`, or None: peft names the wrappers of one module's parameters by their nesting."""
    outermost = module
    while outermost.endswith(".base_layer"):
        outermost = outermost.removesuffix(".base_layer")
    of_module = [name for name, slot in known.items() if slot.is_parameter and name.rpartition(".")[0] == outermost]
    chosen = [name for name in of_module if any(name == one or name.endswith(f".{one}") for one in wanted)]
    deep = len(module.removeprefix(outermost).split(".base_layer")) - 1
    return chosen[len(chosen) - 1 - deep] if deep < len(chosen) else None


def _whole_pair(slot: Slot, parts: Mapping[str, Tensor], config: Mapping[str, Any], model: Decoder) -> Pair:
    missing = [kind for kind in ("lora_A", "lora_B") if kind not in parts]
    if missing:
        raise ModelError(f"the adapter lacks {missing[0]} of {slot.name}; take the whole file")
    a, b, magnitude = parts["lora_A"].float(), parts["lora_B"].float(), parts.get("lora_magnitude_vector")
    if slot.is_parameter:
        count = model.config.experts.count if model.config.experts else 1
        if a.shape[0] % count or b.shape[-1] != a.shape[0]:
            raise ModelError(
                f"the adapter has lora_A {list(a.shape)} and lora_B {list(b.shape)} for {slot.name} of {count} experts; it "
                "belongs to another base"
            )
        a, b = a.unflatten(0, (count, -1)), b.unflatten(1, (-1, count)).permute(2, 0, 1)
    rank = a.shape[-2]
    alpha = _pattern(config.get("alpha_pattern"), slot.name, config.get("lora_alpha", 8))
    said = int(_pattern(config.get("rank_pattern"), slot.name, config.get("r", 8)))
    if rank not in (said, rank if slot.is_parameter else said):
        raise ModelError(
            f"the adapter has rank {rank} for {slot.name}, and adapter_config.json says {said}; take both files of one adapter"
        )
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return Pair(a=a, b=b, scale=scale, magnitude=None if magnitude is None else magnitude.float().flatten())


def _put(pairs: dict[str, Pair], cut: Cut, whole: Pair, model: Decoder) -> None:
    """Our part of a slot's pair; of a single expert, its place in the stack (those that are not adapted stay at zero)."""
    b, magnitude = whole.b[..., cut.rows, :], None if whole.magnitude is None else whole.magnitude[cut.rows]
    outputs, inputs = _shape(cut, model)
    if (b.shape[-2], whole.a.shape[-1]) != (outputs, inputs):
        raise ModelError(
            f"the adapter changes {cut.place} as if it gave {b.shape[-2]} of {whole.a.shape[-1]} channels, and here it gives "
            f"{outputs} of {inputs}; it belongs to another base"
        )
    if cut.expert is None:
        pairs[cut.place] = Pair(a=whole.a.clone(), b=b.clone(), scale=whole.scale, magnitude=magnitude)
        return
    count = model.config.experts.count if model.config.experts else 1
    if cut.place not in pairs:
        stack_a, stack_b = whole.a.new_zeros(count, *whole.a.shape), b.new_zeros(count, *b.shape)
        pairs[cut.place] = Pair(a=stack_a, b=stack_b, scale=whole.scale)
    stack = pairs[cut.place]
    if stack.rank != whole.rank:
        raise ModelError(
            f"the adapter gives the experts of {cut.place} ranks {stack.rank} and {whole.rank}; dunwu has one rank"
        )
    stack.a[cut.expert] = whole.a
    stack.b[cut.expert] = b * (whole.scale / stack.scale)


def _shape(cut: Cut, model: Decoder) -> tuple[int, int]:
    owner, _, last = cut.place.rpartition(".")
    module = model.get_submodule(owner)
    found = getattr(module, last)
    shape = found.shape if isinstance(found, Tensor) else (found.out_features, found.in_features)
    return shape[-2], shape[-1]


def _pattern(patterns: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """As peft looks it up: a pattern fits from a dot on, to the end."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default
