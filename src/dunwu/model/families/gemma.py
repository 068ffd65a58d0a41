"""Gemma 2 and the text side of Gemma 3 (arXiv:2408.00118, 2503.19786): norms before and after, soft caps or normalised queries
and keys, and windows in all but every second or sixth layer."""

from collections.abc import Iterator, Mapping
from typing import Any

from dunwu.core.errors import ModelError
from dunwu.model.config import DecoderConfig
from dunwu.model.families.base import (
    Family,
    StoredTensor,
    attention_tensors,
    gated_mlp_tensors,
    in_layers,
    norm_tensors,
    refuse,
    rope,
    rope_scaling,
    sizes,
    sliding_by_type,
    usual_name,
    whole_heads,
    written_rope,
    written_scaling,
    written_sizes,
    written_types,
)

_DEFAULTS = {"tie_word_embeddings": True, "head_dim": 256, "num_key_value_heads": 4, "max_position_embeddings": 8192}
_DEFAULTS_3 = {
    "vocab_size": 262_208, "num_attention_heads": 8, "max_position_embeddings": 131_072,
    "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
"""What the text_config of those that see leaves out."""
_GLOBAL_THETA, _LOCAL_THETA = 1_000_000.0, 10_000.0


def _shared(values: Mapping[str, Any], *, full_every: int) -> dict[str, Any]:
    """What both have. Where `layer_types` is not given, every so-many-th layer sees everything."""
    refuse(values, hidden_activation="gelu_pytorch_tanh", use_bidirectional_attention=False)
    sized = sizes({**_DEFAULTS, **values})
    bias = bool(values.get("attention_bias"))
    layers, window = sliding_by_type(values), values.get("sliding_window", 4096)
    if layers is None:
        layers = tuple(layer for layer in range(sized["num_hidden_layers"]) if (layer + 1) % full_every)
    return {
        **sized,
        "sliding_window": int(window) if layers and window is not None else None,
        "sliding_layers": layers,
        "norm_offset": 1.0,
        "norm_placement": "both",
        "attention_bias": bias,
        "attention_output_bias": bias,
        "attention_scale": int(values.get("query_pre_attn_scalar") or 256) ** -0.5,
        "activation": "gelu_tanh",
        "embedding_scale": sized["hidden_size"] ** 0.5,
    }


def _written_shared(config: DecoderConfig) -> dict[str, Any]:
    whole_heads(config)
    return {
        **written_sizes(config),
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "query_pre_attn_scalar": round(config.score_scale**-2),
        "sliding_window": config.sliding_window,
        "layer_types": written_types(config),
        "final_logit_softcapping": config.logits_softcap,
    }


def _read_gemma2(values: Mapping[str, Any]) -> DecoderConfig:
    return DecoderConfig(
        architecture="gemma2",
        **_shared(values, full_every=2),
        **rope(values),
        logits_softcap=values.get("final_logit_softcapping", 30.0),
        attention_softcap=values.get("attn_logit_softcapping", 50.0),
    )


def _write_gemma2(config: DecoderConfig) -> dict[str, Any]:
    return {
        **_written_shared(config),
        **written_rope(config),
        "attn_logit_softcapping": config.attention_softcap,
    }


def _read_gemma3(values: Mapping[str, Any]) -> DecoderConfig:
    refuse(values, attn_logit_softcapping=None)
    values = {**_DEFAULTS_3, **values}
    shared = _shared(values, full_every=int(values.get("sliding_window_pattern") or 6))
    nested = values.get("rope_parameters") or {}
    of_full = {**(nested.get("full_attention") or {}), **(values.get("rope_scaling") or {})}
    of_sliding = nested.get("sliding_attention") or {}
    refuse(of_sliding, rope_type="default")
    theta = of_full.get("rope_theta") or values.get("rope_theta") or _GLOBAL_THETA
    local_theta = of_sliding.get("rope_theta") or values.get("rope_local_base_freq") or _LOCAL_THETA
    return DecoderConfig(
        architecture="gemma3_text",
        **shared,
        rope_theta=float(theta),
        rope_scaling=rope_scaling(values, of_full),
        local_rope_theta=float(local_theta),
        qk_norm="head",
        logits_softcap=values.get("final_logit_softcapping"),
    )


def _write_gemma3(config: DecoderConfig) -> dict[str, Any]:
    fields = written_scaling(config.rope_scaling)
    return {
        **_written_shared(config),
        "rope_theta": config.rope_theta,
        "rope_local_base_freq": config.local_rope_theta,
        "rope_scaling": fields or None,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", **fields, "rope_theta": config.rope_theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": config.local_rope_theta},
        },
    }


def _read_with_eyes(values: Mapping[str, Any]) -> DecoderConfig:
    """The language model inside one that also sees. Special tokens a level higher are those of the chat, and count."""
    text = values.get("text_config")
    if not isinstance(text, Mapping):
        raise ModelError("config.json of a gemma3 model lacks text_config; take the file from the model's own folder")
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    above = {name: values[name] for name in names if values.get(name) is not None}
    return _read_gemma3({**text, **above})


def _text_name(name: str) -> str | None:
    """Names of the language model wherever it stands, and None for what sees."""
    if name.startswith(
        ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
    ):
        return None
    for prefix, ours in (("language_model.lm_head.", "lm_head."), ("language_model.model.", "model.")):
        if name.startswith(prefix):
            return usual_name(ours + name.removeprefix(prefix))
    return usual_name(name.replace("model.language_model.", "model.", 1))


def _layer(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    at = f"model.layers.{layer}.mlp"
    yield from attention_tensors(config, layer)
    yield from gated_mlp_tensors(config, at, at, config.intermediate_size)
    yield from norm_tensors(
        config,
        layer,
        input_layernorm="input_layernorm",
        post_attention_layernorm="attention_output_norm",
        pre_feedforward_layernorm="post_attention_layernorm",
        post_feedforward_layernorm="mlp_output_norm",
    )


def _stored(config: DecoderConfig) -> Iterator[StoredTensor]:
    return in_layers(config, _layer)


GEMMA2 = Family(
    model_type="gemma2", class_name="Gemma2ForCausalLM", read=_read_gemma2, write=_write_gemma2, stored=_stored
)
GEMMA3_TEXT = Family(
    model_type="gemma3_text",
    class_name="Gemma3ForCausalLM",
    read=_read_gemma3,
    write=_write_gemma3,
    stored=_stored,
    rename=_text_name,
)
GEMMA3 = Family(
    model_type="gemma3",
    class_name="Gemma3ForCausalLM",
    read=_read_with_eyes,
    write=_write_gemma3,
    stored=_stored,
    rename=_text_name,
)
"""Read only: what comes of it is a `gemma3_text`, and is written as one."""
