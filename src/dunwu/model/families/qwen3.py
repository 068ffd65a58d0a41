"""Qwen3 (arXiv:2505.09388): Llama with queries and keys normalised by head."""

from collections.abc import Mapping
from typing import Any

from dunwu.model.config import DecoderConfig
from dunwu.model.families.base import (
    Family,
    llama_tensors,
    optional_window,
    refuse,
    rope,
    sizes,
    written_optional_window,
    written_rope,
    written_sizes,
)


def _read(values: Mapping[str, Any]) -> DecoderConfig:
    refuse(values, hidden_act="silu")
    values = {"head_dim": 128, "max_position_embeddings": 32_768, **values}
    bias = bool(values.get("attention_bias"))
    return DecoderConfig(
        architecture="qwen3",
        **sizes(values),
        **rope(values),
        **optional_window(values),
        qk_norm="head",
        attention_bias=bias,
        attention_output_bias=bias,
    )


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {
        **written_sizes(config),
        **written_rope(config),
        **written_optional_window(config),
        "hidden_act": "silu",
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
    }


QWEN3 = Family(model_type="qwen3", class_name="Qwen3ForCausalLM", read=_read, write=_write, stored=llama_tensors)
