"""What the families with mixtures of experts share: their experts on disk, and which of their layers are plain."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dunwu.core.errors import ModelError
from dunwu.model.config import DecoderConfig, Experts
from dunwu.model.families.base import Piece, StoredTensor, gated_mlp_tensors, one

_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def refuse_quantised(
    values: Mapping[str, Any], remedy: str = "take the weights in bfloat16, float16 or float32"
) -> None:
    """Raise ModelError when config.json says that the weights are quantised."""
    quantised = values.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, Mapping) else quantised
        raise ModelError(
            f"config.json has quantization_config of {method!r}; dunwu reads weights as they are: {remedy}"
        )


def experts_of(config: DecoderConfig) -> Experts:
    """The mixture. Raises ModelError when there is none: these families cannot be without."""
    if config.experts is None:
        raise ModelError(f"the architecture {config.architecture!r} has experts; give model.experts, or choose another")
    return config.experts


def plain_by_step(values: Mapping[str, Any]) -> tuple[int, ...]:
    """Qwen's layers without experts: those named, and all but each `decoder_sparse_step`-th."""
    named, step = values.get("mlp_only_layers") or (), int(values.get("decoder_sparse_step") or 1)
    return tuple(n for n in range(int(values["num_hidden_layers"])) if n in named or (n + 1) % step)


def split_experts(
    config: DecoderConfig, layer: int, *, at: str = "mlp", names: tuple[str, str, str] = _PROJECTIONS
) -> Iterator[StoredTensor]:
    """A router called `gate` and experts stored one by one, their three matrices under these names."""
    experts, width = experts_of(config), config.hidden_size
    theirs, ours = f"model.layers.{layer}.{at}", f"model.layers.{layer}.mlp"
    yield one(f"{theirs}.gate.weight", f"{ours}.router.weight", experts.count, width)
    if experts.correction:
        yield one(f"{theirs}.gate.e_score_correction_bias", f"{ours}.router.correction", experts.count)
    for expert in range(experts.count):
        for name, projection in zip(names, _PROJECTIONS, strict=True):
            shape = (experts.intermediate_size, width)
            yield StoredTensor(
                f"{theirs}.experts.{expert}.{name}.weight",
                shape[::-1] if projection == "down_proj" else shape,
                (Piece(f"{ours}.experts.{projection}", index=expert),),
            )


def mlp_or_experts(
    config: DecoderConfig, layer: int, routed: Callable[[DecoderConfig, int], Iterator[StoredTensor]] = split_experts
) -> Iterator[StoredTensor]:
    """The plain MLP of a layer without experts, or what `routed` lists."""
    at = f"model.layers.{layer}.mlp"
    if config.has_experts(layer):
        yield from routed(config, layer)
    else:
        yield from gated_mlp_tensors(config, at, at, config.intermediate_size)
