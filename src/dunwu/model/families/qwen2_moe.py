"""Qwen2-MoE (arXiv:2407.10671): Qwen2 with experts, and an MLP that all tokens share behind a gate of its own."""

from collections.abc import Iterator, Mapping
from typing import Any

from dunwu.model.config import DecoderConfig, Experts
from dunwu.model.families.base import (
    Family,
    StoredTensor,
    attention_tensors,
    gated_mlp_tensors,
    in_layers,
    norm_tensors,
    one,
    refuse,
    required,
    rope,
    sizes,
    written_rope,
    written_sizes,
)
from dunwu.model.families.sparse import experts_of, mlp_or_experts, plain_by_step, refuse_quantised, split_experts


def _read(values: Mapping[str, Any]) -> DecoderConfig:
    refuse(values, hidden_act="silu", use_sliding_window=False)
    refuse_quantised(values)
    required(
        values, "num_experts", "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size",
        "num_hidden_layers",
    )  # fmt: skip
    return DecoderConfig(
        architecture="qwen2_moe",
        **sizes(values),
        **rope(values),
        attention_bias=bool(values.get("qkv_bias", True)),
        dense_layers=plain_by_step(values),
        experts=Experts(
            count=int(values["num_experts"]),
            per_token=int(values["num_experts_per_tok"]),
            intermediate_size=int(values["moe_intermediate_size"]),
            shared_intermediate_size=int(values["shared_expert_intermediate_size"]),
            shared_gate=True,
            normalise=bool(values.get("norm_topk_prob", False)),
        ),
    )


def _write(config: DecoderConfig) -> dict[str, Any]:
    experts = experts_of(config)
    return {
        **written_sizes(config),
        **written_rope(config),
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "qkv_bias": config.attention_bias,
        "use_sliding_window": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(config.dense_layers),
        "num_experts": experts.count,
        "num_experts_per_tok": experts.per_token,
        "moe_intermediate_size": experts.intermediate_size,
        "shared_expert_intermediate_size": experts.shared_intermediate_size,
        "norm_topk_prob": experts.normalise,
    }


def _routed(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    at, experts = f"model.layers.{layer}.mlp", experts_of(config)
    yield from split_experts(config, layer)
    yield from gated_mlp_tensors(config, f"{at}.shared_expert", f"{at}.shared", experts.shared_intermediate_size)
    yield one(f"{at}.shared_expert_gate.weight", f"{at}.shared_gate.weight", 1, config.hidden_size)


def _layer(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    yield from attention_tensors(config, layer)
    yield from mlp_or_experts(config, layer, _routed)
    yield from norm_tensors(
        config, layer, input_layernorm="input_layernorm", post_attention_layernorm="post_attention_layernorm"
    )


def _stored(config: DecoderConfig) -> Iterator[StoredTensor]:
    return in_layers(config, _layer)


QWEN2_MOE = Family(model_type="qwen2_moe", class_name="Qwen2MoeForCausalLM", read=_read, write=_write, stored=_stored)
