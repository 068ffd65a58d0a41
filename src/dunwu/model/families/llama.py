"""Llama 2 and 3 (arXiv:2307.09288, 2407.21783); the shape that the others vary."""

from collections.abc import Mapping
from typing import Any

from dunwu.model.config import DecoderConfig
from dunwu.model.families.base import (
    Family,
    llama_tensors,
    refuse,
    rope,
    sizes,
    whole_heads,
    written_rope,
    written_sizes,
)


def _read(values: Mapping[str, Any]) -> DecoderConfig:
    refuse(values, hidden_act="silu")
    bias = bool(values.get("attention_bias"))
    return DecoderConfig(
        architecture="llama",
        **sizes(values),
        **rope(values),
        attention_bias=bias,
        attention_output_bias=bias,
        mlp_bias=bool(values.get("mlp_bias")),
    )


def _write(config: DecoderConfig) -> dict[str, Any]:
    whole_heads(config)
    return {
        **written_sizes(config),
        **written_rope(config),
        "hidden_act": "silu",
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "mlp_bias": config.mlp_bias,
    }


LLAMA = Family(model_type="llama", class_name="LlamaForCausalLM", read=_read, write=_write, stored=llama_tensors)
