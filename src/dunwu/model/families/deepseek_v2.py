"""DeepSeek-V2 and V2-Lite (arXiv:2405.04434): latent attention, shared and routed experts. V3 varies it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from dunwu.core.errors import ModelError
from dunwu.model.config import DecoderConfig, Experts, Latent, RopeScaling
from dunwu.model.families.base import (
    Family,
    StoredTensor,
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
from dunwu.model.families.sparse import experts_of, mlp_or_experts, refuse_quantised, split_experts


def read_latent(values: Mapping[str, Any]) -> dict[str, Any]:
    """All but the experts, for DecoderConfig: sizes, positions and latent attention, the same in V2 and V3."""
    refuse(values, hidden_act="silu", moe_layer_freq=1)
    refuse_quantised(
        values, "take a copy in bfloat16, or convert it with the script that is published beside the weights"
    )
    required(
        values, "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "num_attention_heads",
        "n_routed_experts", "n_shared_experts", "num_experts_per_tok", "moe_intermediate_size", "first_k_dense_replace",
    )  # fmt: skip
    heads = int(values["num_attention_heads"])
    refuse(values, num_key_value_heads=heads)
    q_rank = values.get("q_lora_rank", 1536)
    latent = Latent(
        q_rank=None if q_rank is None else int(q_rank),
        kv_rank=int(values["kv_lora_rank"]),
        rope_dim=int(values["qk_rope_head_dim"]),
        nope_dim=int(values["qk_nope_head_dim"]),
        value_dim=int(values["v_head_dim"]),
    )
    head_dim, bias, turning = latent.nope_dim + latent.rope_dim, bool(values.get("attention_bias")), rope(values)
    return {
        **sizes({**values, "head_dim": head_dim}),
        **turning,
        "latent": latent,
        "attention_scale": _attention_scale(turning["rope_scaling"], head_dim),
        "attention_bias": bias,
        "attention_output_bias": bias,
        "dense_layers": tuple(range(int(values["first_k_dense_replace"]))),
    }


def _attention_scale(scaling: RopeScaling | None, head_dim: int) -> float | None:
    """With YaRN attention is made sharper (arXiv:2309.00071, section 3.4): here the scores' own scale takes the square of
    what V2's and V3's code calls `mscale_all_dim`."""
    if scaling is None or not scaling.mscale_all_dim or scaling.factor <= 1.0:
        return None
    return head_dim**-0.5 * (0.1 * scaling.mscale_all_dim * math.log(scaling.factor) + 1.0) ** 2


def written_latent(config: DecoderConfig) -> dict[str, Any]:
    """What V2 and V3 say alike in config.json."""
    experts, latent = experts_of(config), config.latent
    if latent is None:
        raise ModelError(f"the architecture {config.architecture!r} has latent attention; give model.latent")
    values = {
        **written_sizes(config),
        **written_rope(config),
        "hidden_act": "silu",
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "q_lora_rank": latent.q_rank,
        "kv_lora_rank": latent.kv_rank,
        "qk_nope_head_dim": latent.nope_dim,
        "qk_rope_head_dim": latent.rope_dim,
        "v_head_dim": latent.value_dim,
        "first_k_dense_replace": len(config.dense_layers),
        "moe_layer_freq": 1,
        "n_routed_experts": experts.count,
        "num_experts_per_tok": experts.per_token,
        "moe_intermediate_size": experts.intermediate_size,
        "n_shared_experts": experts.shared_intermediate_size // experts.intermediate_size,
        "routed_scaling_factor": experts.scale,
        "norm_topk_prob": experts.normalise,
        "n_group": experts.groups,
        "topk_group": experts.groups_per_token,
    }
    del values["head_dim"]  # to transformers the rotated channels alone, which it takes from above
    return values


def shared_size(values: Mapping[str, Any]) -> int:
    """Width of the MLP that all tokens share: as wide as so many experts."""
    return int(values["n_shared_experts"]) * int(values["moe_intermediate_size"])


def _read(values: Mapping[str, Any]) -> DecoderConfig:
    refuse(values, scoring_func="softmax", norm_topk_prob=False)
    common = read_latent(values)
    method = values.get("topk_method") or "greedy"
    if method not in ("greedy", "group_limited_greedy"):
        raise ModelError(
            f"config.json has topk_method={method!r}, which dunwu does not have for deepseek_v2 (only 'greedy' and "
            "'group_limited_greedy'); choose a model without it"
        )
    grouped = method == "group_limited_greedy"
    if grouped:
        required(values, "n_group", "topk_group")
    return DecoderConfig(
        architecture="deepseek_v2",
        **common,
        rope_interleaved=True,
        mlp_bias=bool(values.get("mlp_bias")),
        experts=Experts(
            count=int(values["n_routed_experts"]),
            per_token=int(values["num_experts_per_tok"]),
            intermediate_size=int(values["moe_intermediate_size"]),
            shared_intermediate_size=shared_size(values),
            scale=float(values.get("routed_scaling_factor") or 1.0),
            groups=int(values["n_group"]) if grouped else 1,
            groups_per_token=int(values["topk_group"]) if grouped else 1,
            router_float32=True,
        ),
    )


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {
        **written_latent(config),
        "mlp_bias": config.mlp_bias,
        "scoring_func": "softmax",
        "topk_method": "group_limited_greedy" if experts_of(config).groups > 1 else "greedy",
    }


def latent_tensors(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    """Latent attention's matrices and norms, which have the same names here and there."""
    at, latent = f"model.layers.{layer}.self_attn", config.latent
    assert latent is not None
    heads, width = config.num_attention_heads, config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {}
    if latent.q_rank is None:
        shapes["q_proj.weight"] = (heads * config.head_dim, width)
    else:
        shapes["q_a_proj.weight"] = (latent.q_rank, width)
        if config.attention_bias:
            shapes["q_a_proj.bias"] = (latent.q_rank,)
        shapes["q_a_layernorm.weight"] = (latent.q_rank,)
        shapes["q_b_proj.weight"] = (heads * config.head_dim, latent.q_rank)
    shapes["kv_a_proj_with_mqa.weight"] = (latent.kv_rank + latent.rope_dim, width)
    if config.attention_bias:
        shapes["kv_a_proj_with_mqa.bias"] = (latent.kv_rank + latent.rope_dim,)
    shapes["kv_a_layernorm.weight"] = (latent.kv_rank,)
    shapes["kv_b_proj.weight"] = (heads * (latent.nope_dim + latent.value_dim), latent.kv_rank)
    shapes["o_proj.weight"] = (width, heads * latent.value_dim)
    if config.attention_output_bias:
        shapes["o_proj.bias"] = (width,)
    for name, shape in shapes.items():
        yield one(f"{at}.{name}", f"{at}.{name}", *shape)


def _routed(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    at, experts = f"model.layers.{layer}.mlp", experts_of(config)
    yield from split_experts(config, layer)
    if experts.shared_intermediate_size:
        yield from gated_mlp_tensors(config, f"{at}.shared_experts", f"{at}.shared", experts.shared_intermediate_size)


def _layer(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    yield from latent_tensors(config, layer)
    yield from mlp_or_experts(config, layer, _routed)
    yield from norm_tensors(
        config, layer, input_layernorm="input_layernorm", post_attention_layernorm="post_attention_layernorm"
    )


def deepseek_tensors(config: DecoderConfig) -> Iterator[StoredTensor]:
    """A checkpoint laid out as V2's and V3's."""
    return in_layers(config, _layer)


DEEPSEEK_V2 = Family(
    model_type="deepseek_v2",
    class_name="DeepseekV2ForCausalLM",
    read=_read,
    write=_write,
    stored=deepseek_tensors,
)
