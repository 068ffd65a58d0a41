"""Qwen2 and 2.5 (arXiv:2407.10671, 2412.15115): Llama with biases of queries, keys and values."""

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
    values = {"max_position_embeddings": 32_768, **values}
    return DecoderConfig(
        architecture="qwen2", **sizes(values), **rope(values), **optional_window(values), attention_bias=True
    )


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {
        **written_sizes(config),
        **written_rope(config),
        **written_optional_window(config),
        "hidden_act": "silu",
        "attention_dropout": 0.0,
    }


QWEN2 = Family(model_type="qwen2", class_name="Qwen2ForCausalLM", read=_read, write=_write, stored=llama_tensors)
