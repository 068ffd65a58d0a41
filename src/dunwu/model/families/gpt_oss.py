"""gpt-oss (arXiv:2508.10925): experts with biases and a clamped activation, sinks, sliding windows in every other layer."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from dunwu.model.config import DecoderConfig, Experts
from dunwu.model.families.base import (
    Family,
    Piece,
    StoredTensor,
    attention_tensors,
    in_layers,
    norm_tensors,
    one,
    refuse,
    required,
    rope,
    sizes,
    sliding_by_type,
    written_rope,
    written_sizes,
    written_types,
)
from dunwu.model.families.sparse import experts_of, refuse_quantised

_YARN = {
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip


def _read(values: Mapping[str, Any]) -> DecoderConfig:
    refuse(values, hidden_act="silu", swiglu_alpha=1.702)
    refuse_quantised(
        values,
        "take a copy in bfloat16, or make one in transformers: from_pretrained(..., "
        "quantization_config=Mxfp4Config(dequantize=True)), then save_pretrained",
    )
    required(values, "num_local_experts", "num_experts_per_tok", "intermediate_size", "num_hidden_layers")
    if not (values.get("rope_parameters") or values.get("rope_scaling")):
        values = {**values, "rope_parameters": _YARN}
    bias = bool(values.get("attention_bias", True))
    sliding = sliding_by_type(values)
    if sliding is None:
        sliding = tuple(range(0, int(values["num_hidden_layers"]), 2))
    return DecoderConfig(
        architecture="gpt_oss",
        **sizes({"head_dim": 64, "rms_norm_eps": 1e-5, **values}),
        **rope(values, default_theta=150_000.0),
        attention_bias=bias,
        attention_output_bias=bias,
        sinks=True,
        sliding_window=int(values.get("sliding_window") or 128),
        sliding_layers=sliding,
        activation="clamped_silu",
        activation_limit=float(values.get("swiglu_limit", 7.0)),
        experts=Experts(
            count=int(values["num_local_experts"]),
            per_token=int(values["num_experts_per_tok"]),
            intermediate_size=int(values["intermediate_size"]),
            scores="softmax_after",
            router_bias=True,
            bias=True,
        ),
    )


def _write(config: DecoderConfig) -> dict[str, Any]:
    experts = experts_of(config)
    return {
        **written_sizes(config),
        **written_rope(config),
        "hidden_act": "silu",
        "swiglu_limit": config.activation_limit,
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "sliding_window": config.sliding_window,
        "layer_types": written_types(config),
        "num_local_experts": experts.count,
        "num_experts_per_tok": experts.per_token,
    }


def _even(stored: Tensor) -> Tensor:
    return stored[..., ::2]


def _odd(stored: Tensor) -> Tensor:
    return stored[..., 1::2]


def _even_turned(stored: Tensor) -> Tensor:
    return stored[..., ::2].mT


def _odd_turned(stored: Tensor) -> Tensor:
    return stored[..., 1::2].mT


def _turned(stored: Tensor) -> Tensor:
    return stored.mT


def _experts(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    """Stacks of matrices that are multiplied from the right, gate and up in turns."""
    at, width, experts = f"model.layers.{layer}.mlp", config.hidden_size, experts_of(config)
    count, size = experts.count, experts.intermediate_size
    yield one(f"{at}.router.weight", f"{at}.router.weight", count, width)
    yield one(f"{at}.router.bias", f"{at}.router.bias", count)
    gate, up, down = (f"{at}.experts.{name}" for name in ("gate_proj", "up_proj", "down_proj"))
    both = f"{at}.experts.gate_up_proj"
    yield StoredTensor(both, (count, width, 2 * size), (Piece(gate, _even_turned), Piece(up, _odd_turned)))
    biases = Piece(f"{gate}_bias", _even), Piece(f"{up}_bias", _odd)
    yield StoredTensor(f"{both}_bias", (count, 2 * size), biases)
    yield StoredTensor(down, (count, size, width), (Piece(down, _turned),))
    yield one(f"{down}_bias", f"{down}_bias", count, width)


def _layer(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    sinks = f"model.layers.{layer}.self_attn.sinks"
    yield from attention_tensors(config, layer)
    yield one(sinks, sinks, config.num_attention_heads)
    yield from _experts(config, layer)
    yield from norm_tensors(
        config, layer, input_layernorm="input_layernorm", post_attention_layernorm="post_attention_layernorm"
    )


def _stored(config: DecoderConfig) -> Iterator[StoredTensor]:
    return in_layers(config, _layer)


GPT_OSS = Family(model_type="gpt_oss", class_name="GptOssForCausalLM", read=_read, write=_write, stored=_stored)
