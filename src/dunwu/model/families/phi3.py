"""Phi-3 and Phi-4 (arXiv:2404.14219, 2412.08905), Phi-4-mini (arXiv:2503.01743): Llama with fused matrices on disk, LongRoPE,
and only a part of each head turned."""

from collections.abc import Iterator, Mapping
from typing import Any

from dunwu.model.config import DecoderConfig
from dunwu.model.families.base import (
    Family,
    StoredTensor,
    fused_attention_tensors,
    fused_mlp_tensors,
    in_layers,
    norm_tensors,
    refuse,
    rope,
    rotary_dim,
    sizes,
    window_everywhere,
    written_rope,
    written_sizes,
)

_OTHER_NAMES = {"su": "longrope", "yarn": "longrope"}
"""What early checkpoints call LongRoPE."""


def _read(values: Mapping[str, Any]) -> DecoderConfig:
    refuse(values, hidden_act="silu", attention_bias=False, mlp_bias=False)
    values = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, **values}
    sized = sizes(values)
    return DecoderConfig(
        architecture="phi3",
        **sized,
        **rope(_rope_values(values)),
        **window_everywhere(values, default=None),
        rotary_dim=rotary_dim(values, sized["head_dim"]),
    )


def _rope_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """With the original length where the other architectures have it: beside the factors, not above them."""
    given = dict(values.get("rope_scaling") or values.get("rope_parameters") or {})
    kind = given.get("rope_type") or given.get("type")
    if kind in (None, "default"):
        return dict(values)
    original = values.get("original_max_position_embeddings") or given.get("original_max_position_embeddings") or 4096
    given |= {"rope_type": _OTHER_NAMES.get(kind, kind), "original_max_position_embeddings": original}
    return {**values, "rope_scaling": given}


def _write(config: DecoderConfig) -> dict[str, Any]:
    values = {
        **written_sizes(config),
        **written_rope(config),
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "sliding_window": config.sliding_window,
    }
    del values["head_dim"]  # it follows from the width: transformers checks the factors against that
    if config.rope_scaling is not None:
        values["original_max_position_embeddings"] = config.rope_scaling.original_max_position_embeddings
    return values


def _layer(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    yield from fused_attention_tensors(config, layer)
    yield from fused_mlp_tensors(config, layer)
    yield from norm_tensors(
        config, layer, input_layernorm="input_layernorm", post_attention_layernorm="post_attention_layernorm"
    )


def _stored(config: DecoderConfig) -> Iterator[StoredTensor]:
    return in_layers(config, _layer)


PHI3 = Family(model_type="phi3", class_name="Phi3ForCausalLM", read=_read, write=_write, stored=_stored)
