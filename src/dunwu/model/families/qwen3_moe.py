"""Qwen3-MoE (arXiv:2505.09388): Qwen3 with experts in some layers or all."""

from collections.abc import Iterator, Mapping
from typing import Any

from dunwu.model.config import DecoderConfig, Experts
from dunwu.model.families.base import (
    Family,
    StoredTensor,
    attention_tensors,
    in_layers,
    norm_tensors,
    refuse,
    required,
    rope,
    sizes,
    written_rope,
    written_sizes,
)
from dunwu.model.families.sparse import experts_of, mlp_or_experts, plain_by_step, refuse_quantised


def _read(values: Mapping[str, Any]) -> DecoderConfig:
    refuse(values, hidden_act="silu", use_sliding_window=False)
    refuse_quantised(values)
    values = {"num_experts": values.get("num_local_experts"), **values}  # as transformers 5 writes it
    required(values, "num_experts", "num_experts_per_tok", "moe_intermediate_size", "num_hidden_layers")
    bias = bool(values.get("attention_bias"))
    return DecoderConfig(
        architecture="qwen3_moe",
        **sizes(values),
        **rope(values),
        qk_norm="head",
        attention_bias=bias,
        attention_output_bias=bias,
        dense_layers=plain_by_step(values),
        experts=Experts(
            count=int(values["num_experts"]),
            per_token=int(values["num_experts_per_tok"]),
            intermediate_size=int(values["moe_intermediate_size"]),
            normalise=bool(values.get("norm_topk_prob", False)),
        ),
    )


def _write(config: DecoderConfig) -> dict[str, Any]:
    experts = experts_of(config)
    return {
        **written_sizes(config),
        **written_rope(config),
        "hidden_act": "silu",
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(config.dense_layers),
        "num_experts": experts.count,
        "num_experts_per_tok": experts.per_token,
        "moe_intermediate_size": experts.intermediate_size,
        "norm_topk_prob": experts.normalise,
    }


def _layer(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    yield from attention_tensors(config, layer)
    yield from mlp_or_experts(config, layer)
    yield from norm_tensors(
        config, layer, input_layernorm="input_layernorm", post_attention_layernorm="post_attention_layernorm"
    )


def _stored(config: DecoderConfig) -> Iterator[StoredTensor]:
    return in_layers(config, _layer)


QWEN3_MOE = Family(model_type="qwen3_moe", class_name="Qwen3MoeForCausalLM", read=_read, write=_write, stored=_stored)
