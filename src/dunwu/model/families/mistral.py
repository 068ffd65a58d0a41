"""Mistral (arXiv:2310.06825): Llama, where every layer may see no more than the last tokens."""

from collections.abc import Mapping
from typing import Any

from dunwu.core.errors import ModelError
from dunwu.model.config import DecoderConfig
from dunwu.model.families.base import (
    Family,
    llama_tensors,
    refuse,
    rope,
    sizes,
    sliding_by_type,
    window_everywhere,
    written_rope,
    written_sizes,
)


def _read(values: Mapping[str, Any]) -> DecoderConfig:
    refuse(values, hidden_act="silu")
    values = {"num_key_value_heads": 8, "max_position_embeddings": 131_072, **values}
    sized, window = sizes(values), window_everywhere(values, default=4096)
    by_type = sliding_by_type(values)
    if by_type is not None and by_type != window.get("sliding_layers", ()):
        raise ModelError(
            "config.json has layer_types that disagree with sliding_window: Mistral's window is in all layers or in none; "
            "models that alternate have another model_type"
        )
    return DecoderConfig(architecture="mistral", **sized, **rope(values), **window)


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {
        **written_sizes(config),
        **written_rope(config),
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "sliding_window": config.sliding_window,
    }


MISTRAL = Family(model_type="mistral", class_name="MistralForCausalLM", read=_read, write=_write, stored=llama_tensors)
