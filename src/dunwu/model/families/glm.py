"""GLM-4 (arXiv:2406.12793): half of each head turned, neighbouring channels together; `glm` is the earlier GLM-4-9B, `glm4` the
GLM-4-0414 models, whose blocks also normalise what they add."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from dunwu.model.config import DecoderConfig
from dunwu.model.families.base import (
    Family,
    StoredTensor,
    attention_tensors,
    fused_mlp_tensors,
    in_layers,
    norm_tensors,
    refuse,
    rope,
    rotary_dim,
    sizes,
    written_rope,
    written_sizes,
)

_DEFAULTS = {"head_dim": 128, "num_key_value_heads": 2, "rms_norm_eps": 1.5625e-07, "max_position_embeddings": 131_072}


def _read_glm(values: Mapping[str, Any]) -> DecoderConfig:
    return _read(values, "glm", "pre")


def _read_glm4(values: Mapping[str, Any]) -> DecoderConfig:
    return _read(values, "glm4", "both")


def _read(values: Mapping[str, Any], architecture: str, placement: Literal["pre", "both"]) -> DecoderConfig:
    refuse(values, hidden_act="silu")
    values = {**_DEFAULTS, **values}
    sized = sizes(values)
    return DecoderConfig(
        architecture=architecture,
        **sized,
        **rope(values),
        rotary_dim=rotary_dim(values, sized["head_dim"], default=0.5),
        rope_interleaved=True,
        norm_placement=placement,
        attention_bias=bool(values.get("attention_bias", True)),
    )


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {
        "partial_rotary_factor": 1.0,  # theirs is a half where nothing is said
        **written_sizes(config),
        **written_rope(config),
        "hidden_act": "silu",
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
    }


def _glm_layer(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    yield from attention_tensors(config, layer)
    yield from fused_mlp_tensors(config, layer)
    yield from norm_tensors(
        config, layer, input_layernorm="input_layernorm", post_attention_layernorm="post_attention_layernorm"
    )


def _glm4_layer(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    yield from _glm_layer(config, layer)
    yield from norm_tensors(
        config, layer, post_self_attn_layernorm="attention_output_norm", post_mlp_layernorm="mlp_output_norm"
    )


def _glm_stored(config: DecoderConfig) -> Iterator[StoredTensor]:
    return in_layers(config, _glm_layer)


def _glm4_stored(config: DecoderConfig) -> Iterator[StoredTensor]:
    return in_layers(config, _glm4_layer)


GLM = Family(model_type="glm", class_name="GlmForCausalLM", read=_read_glm, write=_write, stored=_glm_stored)
GLM4 = Family(model_type="glm4", class_name="Glm4ForCausalLM", read=_read_glm4, write=_write, stored=_glm4_stored)
