"""OLMo 2 (arXiv:2501.00656): Llama whose blocks normalise what they add, and queries and keys over all heads at once."""

from collections.abc import Iterator, Mapping
from typing import Any

from dunwu.model.config import DecoderConfig
from dunwu.model.families.base import (
    Family,
    StoredTensor,
    attention_tensors,
    gated_mlp_tensors,
    in_layers,
    norm_tensors,
    refuse,
    rope,
    sizes,
    written_rope,
    written_sizes,
)


def _read(values: Mapping[str, Any]) -> DecoderConfig:
    refuse(values, hidden_act="silu")
    bias = bool(values.get("attention_bias"))
    return DecoderConfig(
        architecture="olmo2",
        **sizes({"rms_norm_eps": 1e-5, **values}),
        **rope(values),
        norm_placement="post",
        qk_norm="all",
        attention_bias=bias,
        attention_output_bias=bias,
    )


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {
        **written_sizes(config),
        **written_rope(config),
        "hidden_act": "silu",
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
    }


def _layer(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    at = f"model.layers.{layer}.mlp"
    yield from attention_tensors(config, layer)
    yield from gated_mlp_tensors(config, at, at, config.intermediate_size)
    yield from norm_tensors(
        config, layer, post_attention_layernorm="attention_output_norm", post_feedforward_layernorm="mlp_output_norm"
    )


def _stored(config: DecoderConfig) -> Iterator[StoredTensor]:
    return in_layers(config, _layer)


OLMO2 = Family(model_type="olmo2", class_name="Olmo2ForCausalLM", read=_read, write=_write, stored=_stored)
