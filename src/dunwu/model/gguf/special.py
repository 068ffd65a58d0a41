"""What single architectures say beyond what all say: keys of the header, and values of config.json read from them."""

from collections.abc import Callable, Mapping
from typing import Any

from dunwu.core.errors import ModelError
from dunwu.model.config import DecoderConfig
from dunwu.model.gguf.container import Value
from dunwu.model.gguf.keys import Reader

SOFTMAX, SIGMOID = 1, 2  # llama.cpp's enum llama_expert_gating_func_type
_WITHOUT_QUERY_RANK = (
    26,
    27,
)  # layers by which llama.cpp tells DeepSeek's lite models, whose queries have no bottleneck


def _qwen2_moe_keys(config: DecoderConfig) -> dict[str, Value]:
    assert config.experts is not None
    return {"expert_shared_feed_forward_length": Value("u32", config.experts.shared_intermediate_size)}


def _deepseek_keys(config: DecoderConfig) -> dict[str, Value]:
    """Latent attention is told as what it computes: one head of keys as wide as the latent vector with its position."""
    latent, experts = config.latent, config.experts
    assert latent is not None
    assert experts is not None
    if latent.q_rank is None and config.num_hidden_layers not in _WITHOUT_QUERY_RANK:
        raise ModelError(
            f"llama.cpp takes a DeepSeek of {config.num_hidden_layers} layers for one with a bottleneck of the queries; this one "
            "has q_lora_rank null. Export to Hugging Face instead: --to hf"
        )
    if config.architecture == "deepseek_v2" and experts.groups > 1:
        raise ModelError(
            "llama.cpp chooses groups of experts by their best two, DeepSeek-V2 by their best one: it would route otherwise. "
            "Export to Hugging Face instead: --to hf"
        )
    keys = {
        "attention.head_count_kv": Value("u32", 1),
        "attention.kv_lora_rank": Value("u32", latent.kv_rank),
        "attention.key_length": Value("u32", latent.kv_rank + latent.rope_dim),
        "attention.value_length": Value("u32", latent.kv_rank),
        "attention.key_length_mla": Value("u32", latent.nope_dim + latent.rope_dim),
        "attention.value_length_mla": Value("u32", latent.value_dim),
        "leading_dense_block_count": Value("u32", len(config.dense_layers)),
        "expert_shared_count": Value("u32", experts.shared_intermediate_size // experts.intermediate_size),
        "expert_weights_scale": Value("f32", experts.scale),
        "expert_weights_norm": Value("bool", experts.normalise),
        "expert_gating_func": Value("u32", SIGMOID if experts.scores == "sigmoid" else SOFTMAX),
    }
    if latent.q_rank is not None:
        keys["attention.q_lora_rank"] = Value("u32", latent.q_rank)
    if experts.groups > 1:
        keys["expert_group_count"] = Value("u32", experts.groups)
        keys["expert_group_used_count"] = Value("u32", experts.groups_per_token)
    return keys


SPECIAL_KEYS: Mapping[str, Callable[[DecoderConfig], dict[str, Value]]] = {
    "qwen2_moe": _qwen2_moe_keys,
    "deepseek_v2": _deepseek_keys,
    "deepseek_v3": _deepseek_keys,
}


def _mixtral(read: Reader, _values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "num_local_experts": read.count("expert_count"),
        "num_experts_per_tok": read.count("expert_used_count"),
        "sliding_window": None,
    }


def _qwen3_moe(read: Reader, _values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "num_experts": read.count("expert_count"),
        "num_experts_per_tok": read.count("expert_used_count"),
        "moe_intermediate_size": read.count("expert_feed_forward_length"),
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _gemma(read: Reader, values: Mapping[str, Any]) -> dict[str, Any]:
    """llama.cpp tells the 27B models, whose scale is another, by their number of layers."""
    layers = values["num_hidden_layers"]
    largest = layers == (46 if values["model_type"] == "gemma2" else 62)
    scale = values["hidden_size"] // values["num_attention_heads"] if largest else values["head_dim"]
    window = read.count("attention.sliding_window") if read.get("attention.sliding_window") else None
    pattern = read.get("attention.sliding_window_pattern")
    every = pattern if isinstance(pattern, int) else 2 if values["model_type"] == "gemma2" else 6
    if not isinstance(pattern, list):
        pattern = [bool((layer + 1) % every) for layer in range(layers)]
    types = ["sliding_attention" if window and layer else "full_attention" for layer in pattern]
    caps = {
        "attn_logit_softcapping": read.get("attn_logit_softcapping") and read.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": read.get("final_logit_softcapping") and read.number("final_logit_softcapping", 30.0),
    }
    rope = values["rope_parameters"]
    local = {"rope_type": "default", "rope_theta": read.number("rope.freq_base_swa", 10_000.0)}
    nested = {"full_attention": rope, "sliding_attention": local}
    return {
        "query_pre_attn_scalar": scale,
        "sliding_window": window,
        "layer_types": types,
        **caps,
        **({"rope_parameters": nested} if values["model_type"] == "gemma3_text" else {}),
    }


def _gpt2(_read: Reader, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "n_embd": values["hidden_size"],
        "n_inner": values["intermediate_size"],
        "n_layer": values["num_hidden_layers"],
        "n_head": values["num_attention_heads"],
        "n_positions": values["max_position_embeddings"],
        "layer_norm_epsilon": values["rms_norm_eps"],
        "activation_function": "gelu_new",
    }


def _qwen2_moe(read: Reader, _values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "num_experts": read.count("expert_count"),
        "num_experts_per_tok": read.count("expert_used_count"),
        "moe_intermediate_size": read.count("expert_feed_forward_length"),
        "shared_expert_intermediate_size": read.count("expert_shared_feed_forward_length"),
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _gpt_oss(read: Reader, values: Mapping[str, Any]) -> dict[str, Any]:
    layers = values["num_hidden_layers"]
    pattern = read.get("attention.sliding_window_pattern")
    if not isinstance(pattern, list):
        pattern = [layer % 2 == 0 for layer in range(layers)]
    rope = values["rope_parameters"]
    if rope["rope_type"] == "yarn":  # as published; llama.cpp rounds the borders of the blend
        rope = {**rope, "truncate": False}
    return {
        "sliding_window": read.count("attention.sliding_window"),
        "layer_types": ["sliding_attention" if sees_little else "full_attention" for sees_little in pattern],
        "num_local_experts": read.count("expert_count"),
        "num_experts_per_tok": read.count("expert_used_count"),
        "intermediate_size": read.count("expert_feed_forward_length"),
        "swiglu_limit": 7.0,
        "rope_parameters": rope,
        "rope_scaling": None,
    }


def _deepseek(read: Reader, values: Mapping[str, Any]) -> dict[str, Any]:
    head, rotated = read.count("attention.key_length_mla"), read.count("rope.dimension_count")
    groups = read.count("expert_group_count", 1)
    sigmoid = read.get("expert_gating_func") == SIGMOID
    return {
        "num_key_value_heads": values["num_attention_heads"],
        "head_dim": None,
        "partial_rotary_factor": None,
        "rope_parameters": {
            key: value for key, value in values["rope_parameters"].items() if key != "partial_rotary_factor"
        },
        "q_lora_rank": read.count("attention.q_lora_rank") if read.get("attention.q_lora_rank") else None,
        "kv_lora_rank": read.count("attention.kv_lora_rank"),
        "qk_rope_head_dim": rotated,
        "qk_nope_head_dim": head - rotated,
        "v_head_dim": read.count("attention.value_length_mla"),
        "first_k_dense_replace": read.get("leading_dense_block_count") or 0,
        "n_routed_experts": read.count("expert_count"),
        "num_experts_per_tok": read.count("expert_used_count"),
        "moe_intermediate_size": read.count("expert_feed_forward_length"),
        "n_shared_experts": read.get("expert_shared_count") or 0,
        "routed_scaling_factor": read.number("expert_weights_scale", 1.0),
        "norm_topk_prob": bool(read.get("expert_weights_norm")),
        "n_group": groups,
        "topk_group": read.count("expert_group_used_count", 1),
        "scoring_func": "sigmoid" if sigmoid else "softmax",
        "topk_method": "noaux_tc" if sigmoid else "greedy",
        "rope_interleave": True,
    }


SPECIAL_VALUES: Mapping[str, Callable[[Reader, Mapping[str, Any]], dict[str, Any]]] = {
    "mixtral": _mixtral,
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": _qwen3_moe,
    "gemma2": _gemma,
    "gemma3_text": _gemma,
    "gpt2": _gpt2,
    "gpt_oss": _gpt_oss,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
}
