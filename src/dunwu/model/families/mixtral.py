"""Mixtral (arXiv:2401.04088): Mistral with experts."""

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
    window_everywhere,
    written_rope,
    written_sizes,
)
from dunwu.model.families.sparse import experts_of, refuse_quantised, split_experts


def _read(values: Mapping[str, Any]) -> DecoderConfig:
    refuse(values, hidden_act="silu")
    refuse_quantised(values)
    required(values, "num_local_experts", "num_experts_per_tok", "intermediate_size")
    return DecoderConfig(
        architecture="mixtral",
        **sizes({"rms_norm_eps": 1e-5, **values}),
        **rope(values, default_theta=1_000_000.0),
        **window_everywhere(values, default=None),
        experts=Experts(
            count=int(values["num_local_experts"]),
            per_token=int(values["num_experts_per_tok"]),
            intermediate_size=int(values["intermediate_size"]),
            scores="softmax_after",
        ),
    )


def _write(config: DecoderConfig) -> dict[str, Any]:
    experts = experts_of(config)
    return {
        **written_sizes(config),
        **written_rope(config),
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "sliding_window": config.sliding_window,
        "num_local_experts": experts.count,
        "num_experts_per_tok": experts.per_token,
    }


def _layer(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    yield from attention_tensors(config, layer)
    yield from split_experts(config, layer, at="block_sparse_moe", names=("w1", "w3", "w2"))
    yield from norm_tensors(
        config, layer, input_layernorm="input_layernorm", post_attention_layernorm="post_attention_layernorm"
    )


def _stored(config: DecoderConfig) -> Iterator[StoredTensor]:
    return in_layers(config, _layer)


MIXTRAL = Family(model_type="mixtral", class_name="MixtralForCausalLM", read=_read, write=_write, stored=_stored)
