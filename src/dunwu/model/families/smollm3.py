"""SmolLM3: Llama where every fourth layer has no positions (NoPE, arXiv:2305.19466; mixed with rotary, arXiv:2501.18795)."""

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
    written_rope,
    written_sizes,
    written_types,
)


def _read(values: Mapping[str, Any]) -> DecoderConfig:
    refuse(values, hidden_act="silu")
    values = {"tie_word_embeddings": True, "num_key_value_heads": 4, "max_position_embeddings": 32_768, **values}
    sized = sizes(values)
    bias = bool(values.get("attention_bias"))
    nope = _nope_layers(values, sized["num_hidden_layers"])
    return DecoderConfig(
        architecture="smollm3",
        **sized,
        **rope(values, default_theta=2_000_000.0),
        **_window(values, nope),
        nope_layers=nope,
        attention_bias=bias,
        attention_output_bias=bias,
        mlp_bias=bool(values.get("mlp_bias")),
    )


def _nope_layers(values: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    """`no_rope_layers` holds 1 where a layer does have positions."""
    turns = values.get("no_rope_layers")
    if turns is None:
        interval = int(values.get("no_rope_layer_interval") or 4)
        turns = [(layer + 1) % interval != 0 for layer in range(layers)]
    if len(turns) < layers:
        raise ModelError(f"config.json has no_rope_layers for {len(turns)} of {layers} layers; give one number a layer")
    return tuple(layer for layer in range(layers) if not turns[layer])


def _window(values: Mapping[str, Any], nope: tuple[int, ...]) -> dict[str, Any]:
    window, asked, layers = values.get("sliding_window"), values.get("use_sliding_window"), sliding_by_type(values)
    if layers and not (asked and window):
        raise ModelError(
            "config.json has sliding layer_types without use_sliding_window and sliding_window; give both, or no such layer"
        )
    if not asked or window is None:
        return {}
    layers = nope if layers is None else layers
    return {"sliding_window": int(window), "sliding_layers": layers} if layers else {}


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {
        **written_sizes(config),
        **written_rope(config),
        "hidden_act": "silu",
        "no_rope_layers": [int(layer not in config.nope_layers) for layer in range(config.num_hidden_layers)],
        "use_sliding_window": bool(config.sliding_layers),
        "sliding_window": config.sliding_window,
        "layer_types": written_types(config),
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "mlp_bias": config.mlp_bias,
    }


SMOLLM3 = Family(model_type="smollm3", class_name="SmolLM3ForCausalLM", read=_read, write=_write, stored=llama_tensors)
