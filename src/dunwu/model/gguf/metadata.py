"""A model's shape as keys of a GGUF header, and back to the values of a `config.json`.

Keys: llama.cpp's src/llama-arch.cpp. Floats are float32 in the file; the shortest decimal that gives the same float32 is taken
for the value that was meant.
"""

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dunwu.core.errors import ModelError
from dunwu.model.blocks.rotary import attention_factor, yarn_mscale
from dunwu.model.config import DecoderConfig, RopeScaling
from dunwu.model.families.base import written_share
from dunwu.model.gguf.container import Value
from dunwu.model.gguf.keys import Reader, shortest
from dunwu.model.gguf.special import SIGMOID, SPECIAL_KEYS, SPECIAL_VALUES

GGUF_NAME: Mapping[str, str] = {
    "llama": "llama", "mistral": "llama", "mixtral": "llama", "smollm3": "smollm3", "qwen2": "qwen2", "qwen3": "qwen3",
    "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "gpt_oss": "gpt-oss", "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2", "gemma2": "gemma2", "gemma3_text": "gemma3", "olmo2": "olmo2", "phi3": "phi3", "glm4": "glm4",
    "gpt2": "gpt2",
}  # fmt: skip
"""Hugging Face's `model_type` to llama.cpp's architecture."""

WINDOWED = {"gemma2", "gemma3", "gpt-oss"}
"""Architectures in which llama.cpp has sliding windows (Phi-3's are switched off there, Mistral's were never in)."""


def key_values(config: DecoderConfig) -> dict[str, Value]:
    """The keys that describe the network. Raises ModelError for what llama.cpp's network of that name does not have."""
    arch = GGUF_NAME[config.architecture]
    context = config.max_position_embeddings
    if config.sliding_window and arch not in WINDOWED:
        context = min(context, config.sliding_window)  # within the window both networks are the same
    norm = "layer_norm_epsilon" if config.norm == "layer" else "layer_norm_rms_epsilon"
    values: dict[str, Value] = {
        "vocab_size": Value("u32", config.vocab_size),
        "context_length": Value("u32", context),
        "embedding_length": Value("u32", config.hidden_size),
        "block_count": Value("u32", config.num_hidden_layers),
        "feed_forward_length": Value("u32", config.intermediate_size),
        "attention.head_count": Value("u32", config.num_attention_heads),
        "attention.head_count_kv": Value("u32", config.num_key_value_heads),
        f"attention.{norm}": Value("f32", config.rms_norm_eps),
        "attention.key_length": Value("u32", config.head_dim),
        "attention.value_length": Value("u32", config.head_dim),
    }
    if config.positions == "rotary":
        values["rope.dimension_count"] = Value("u32", config.rotated_channels)
        values["rope.freq_base"] = Value("f32", config.rope_theta)
        values |= _scaling_keys(config.rope_scaling)
    if arch in WINDOWED and config.sliding_window:
        pattern = [layer in config.sliding_layers for layer in range(config.num_hidden_layers)]
        values["attention.sliding_window"] = Value("u32", config.sliding_window)
        values["attention.sliding_window_pattern"] = Value("bool", pattern)
    if config.local_rope_theta:
        values["rope.freq_base_swa"] = Value("f32", config.local_rope_theta)
    if config.attention_softcap:
        values["attn_logit_softcapping"] = Value("f32", config.attention_softcap)
    if config.logits_softcap:
        values["final_logit_softcapping"] = Value("f32", config.logits_softcap)
    if config.experts:
        values["expert_count"] = Value("u32", config.experts.count)
        values["expert_used_count"] = Value("u32", config.experts.per_token)
        values["expert_feed_forward_length"] = Value("u32", config.experts.intermediate_size)
    special = SPECIAL_KEYS.get(config.architecture)
    values |= special(config) if special else {}
    return {"general.architecture": Value("str", arch)} | {f"{arch}.{key}": value for key, value in values.items()}


def _scaling_keys(scaling: RopeScaling | None) -> dict[str, Value]:
    if scaling is None or scaling.kind == "llama3":  # llama3's is a tensor: see `rope_factors`
        return {}
    if scaling.kind == "dynamic":
        raise ModelError("llama.cpp has no dynamic NTK scaling of rotary positions; export to Hugging Face: --to hf")
    values: dict[str, Value] = {}
    if scaling.original_max_position_embeddings:
        values["rope.scaling.original_context_length"] = Value("u32", scaling.original_max_position_embeddings)
    if scaling.kind == "longrope":  # its factors are tensors; a factor here would be applied on top of them
        return values | {"rope.scaling.attn_factor": Value("f32", attention_factor(scaling))}
    values |= {"rope.scaling.type": Value("str", scaling.kind), "rope.scaling.factor": Value("f32", scaling.factor)}
    if scaling.kind == "yarn":
        values["rope.scaling.yarn_beta_fast"] = Value("f32", scaling.beta_fast)
        values["rope.scaling.yarn_beta_slow"] = Value("f32", scaling.beta_slow)
        if scaling.mscale_all_dim:  # as old files have it: a tenth, and only of DeepSeek's
            values["rope.scaling.yarn_log_multiplier"] = Value("f32", 0.1 * scaling.mscale_all_dim)
        if scaling.attention_factor is not None:  # llama.cpp multiplies by YaRN's own factor besides
            own = yarn_mscale(scaling.factor, 1.0)
            values["rope.scaling.attn_factor"] = Value("f32", scaling.attention_factor / own)
    return values


FACTOR_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def rope_factors(config: DecoderConfig) -> dict[str, npt.NDArray[np.float32]]:
    """Tensors of divisors of the rotary frequencies, [C/2], where the scaling has such."""
    scaling = config.rope_scaling
    if scaling is None:
        return {}
    if scaling.kind == "llama3":
        return {"rope_freqs.weight": _llama3_factors(config.rotated_channels, config.rope_theta, scaling)}
    if scaling.kind == "longrope":  # which of them counts llama.cpp decides by the context that it is given
        lists = {"long": scaling.long_factor, "short": scaling.short_factor}
        return {f"rope_factors_{name}.weight": np.asarray(list_, np.float32) for name, list_ in lists.items()}
    return {}


def _llama3_factors(channels: int, theta: float, scaling: RopeScaling) -> npt.NDArray[np.float32]:
    """What Llama 3.1 divides its frequencies by: 1 for short waves, `factor` for long ones, a smooth passage between them."""
    original = scaling.original_max_position_embeddings or 8192
    waves = 2 * math.pi * theta ** (np.arange(0, channels, 2, dtype=np.float64) / channels)
    passage = (original / waves - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    share = np.clip(passage, 0.0, 1.0)
    return (1.0 / ((1 - share) / scaling.factor + share)).astype(np.float32)


def config_values(
    metadata: Mapping[str, Any], tensors: Collection[str], factors: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """What `config.json` would hold, from a header, the tensors' names, and those of `FACTOR_TENSORS` that there are.

    Raises ModelError for an architecture that we do not read (the nearest is named) and for keys that are missing.
    """
    arch = metadata.get("general.architecture")
    model_type = _model_type(arch, metadata)
    read = Reader(str(arch), metadata)
    heads, width = read.count("attention.head_count"), read.count("embedding_length")
    head_dim = read.count("attention.key_length", width // heads)
    epsilon = read.number("attention.layer_norm_rms_epsilon", read.number("attention.layer_norm_epsilon", 1e-6))
    values: dict[str, Any] = {
        "model_type": model_type,
        "vocab_size": read.count("vocab_size", len(metadata.get("tokenizer.ggml.tokens", ())) or None),
        "hidden_size": width,
        "intermediate_size": read.count("feed_forward_length"),
        "num_hidden_layers": read.count("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": read.count("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": read.count("context_length"),
        "rms_norm_eps": epsilon,
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
        "sliding_window": None,
        **_token_ids(metadata),
    }
    values |= _rope_values(read, head_dim, factors)
    special = SPECIAL_VALUES.get(model_type)
    return values | (special(read, values) if special else {})


def _model_type(arch: Any, metadata: Mapping[str, Any]) -> str:
    if arch == "llama" and metadata.get("llama.expert_count"):
        return "mixtral"
    if arch == "deepseek2" and metadata.get("deepseek2.expert_gating_func") == SIGMOID:
        return "deepseek_v3"
    for model_type, name in GGUF_NAME.items():
        if name == arch:
            return model_type
    known = sorted(set(GGUF_NAME.values()))
    near = difflib.get_close_matches(str(arch), known, n=1, cutoff=0.5)
    hint = f", nearest {near[0]!r}" if near else ""
    raise ModelError(
        f"the GGUF file is of the architecture {arch!r}, which dunwu does not read{hint}; it reads {', '.join(known)}"
    )


def _token_ids(metadata: Mapping[str, Any]) -> dict[str, Any]:
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    turn = metadata.get("tokenizer.ggml.eot_token_id")
    if turn is not None and turn != ids["eos_token_id"]:
        ids["eos_token_id"] = turn if ids["eos_token_id"] is None else [ids["eos_token_id"], turn]
    return ids


def _rope_values(read: Reader, head_dim: int, factors: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    theta = read.number("rope.freq_base", 10_000.0)
    kind = read.get("rope.scaling.type")
    if factors.get("rope_freqs.weight"):
        scaling = _llama3_values(theta, head_dim, factors["rope_freqs.weight"])
    elif factors.get("rope_factors_long.weight"):
        scaling = _longrope_values(read, factors)
    elif kind in ("linear", "yarn"):
        scaling = _stretch_values(read, str(kind))
    elif kind in (None, "none"):
        scaling = {}
    else:
        raise ModelError(f"the GGUF file stretches positions by {kind!r}, which dunwu does not read from GGUF")
    rope = {"rope_type": "default", **scaling, "rope_theta": theta}
    values: dict[str, Any] = {"rope_theta": theta, "rope_parameters": rope, "rope_scaling": scaling or None}
    turned = read.count("rope.dimension_count", head_dim)
    if turned != head_dim:
        values["partial_rotary_factor"] = rope["partial_rotary_factor"] = written_share(turned, head_dim)
    return values


def _stretch_values(read: Reader, kind: str) -> dict[str, Any]:
    values: dict[str, Any] = {"rope_type": kind, "factor": read.number("rope.scaling.factor", 1.0)}
    if read.get("rope.scaling.original_context_length"):
        values["original_max_position_embeddings"] = read.count("rope.scaling.original_context_length")
    if kind == "yarn":
        values["beta_fast"] = read.number("rope.scaling.yarn_beta_fast", 32.0)
        values["beta_slow"] = read.number("rope.scaling.yarn_beta_slow", 1.0)
        if read.get("rope.scaling.yarn_log_multiplier") is not None:
            both = shortest(10.0 * read.number("rope.scaling.yarn_log_multiplier", 0.0))
            values |= {"mscale": both, "mscale_all_dim": both}
        if read.get("rope.scaling.attn_factor") is not None:
            own = yarn_mscale(values["factor"], 1.0)
            values["attention_factor"] = shortest(read.number("rope.scaling.attn_factor", 1.0) * own)
    return values


def _longrope_values(read: Reader, factors: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    lists = {
        f"{name}_factor": [shortest(one) for one in factors[f"rope_factors_{name}.weight"]]
        for name in ("long", "short")
    }
    original = read.count("rope.scaling.original_context_length")
    values = {"rope_type": "longrope", "original_max_position_embeddings": original, **lists}
    factor = read.count("context_length") / original
    given = read.number("rope.scaling.attn_factor", 1.0)
    own = attention_factor(RopeScaling(kind="longrope", factor=factor, original_max_position_embeddings=original))
    return values if math.isclose(given, own, rel_tol=1e-6) else values | {"attention_factor": given}


def _llama3_values(theta: float, channels: int, factors: Sequence[float]) -> dict[str, Any]:
    """The parameters behind llama3's divisors. The file does not keep them: those published are tried."""
    factor = shortest(max(factors))
    for original in (8192, 4096, 16384, 32768, 2048, 1024, 512, 256, 128, 64, 32, 16):
        scaling = RopeScaling(kind="llama3", factor=factor, original_max_position_embeddings=original)
        guess = _llama3_factors(2 * len(factors), theta, scaling)
        if 2 * len(factors) == channels and np.allclose(guess, factors, rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            }
    raise ModelError(
        "the GGUF file's rope_freqs are not those of Llama 3's rule with low_freq_factor 1 and high_freq_factor 4; "
        "take the model from its Hugging Face folder"
    )
