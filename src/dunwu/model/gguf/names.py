"""Which tensors a GGUF file of each architecture has, and what they are called in Hugging Face's checkpoint.

The names are llama.cpp's (src/llama-arch.cpp). `{n}` counts layers and `{e}` experts; a name that a checkpoint lacks (a bias,
an untied head) is passed over.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dunwu.core.errors import ModelError
from dunwu.model.config import DecoderConfig
from dunwu.model.families import StoredTensor
from dunwu.model.gguf.layouts import (
    AS_IS,
    FLATTENED,
    KEY_ROTATION,
    LATENT,
    PLUS_ONE,
    QUERY_ROTATION,
    STACKED,
    TRANSPOSED,
    TURNED,
    WOVEN,
    WOVEN_TURNED,
    Layout,
)


@dataclass(frozen=True)
class Slot:
    """Tensors of the file and the tensors of the checkpoint that they hold."""

    files: tuple[str, ...]
    theirs: tuple[str, ...]
    layout: Layout = AS_IS


@dataclass(frozen=True)
class Row:
    """A line of a table: one name each, before layers and experts are counted out."""

    file: str
    theirs: str
    layout: Layout = AS_IS
    second: str | None = None
    """Another tensor of the file that the same one becomes a part of."""


def _with_bias(file: str, theirs: str, layout: Layout = AS_IS) -> tuple[Row, Row]:
    return Row(f"{file}.weight", f"{theirs}.weight", layout), Row(f"{file}.bias", f"{theirs}.bias", layout)


_EMBEDDING = Row("token_embd.weight", "model.embed_tokens.weight")
_HEAD = Row("output.weight", "lm_head.weight")
_ENDS = (_EMBEDDING, Row("output_norm.weight", "model.norm.weight"), _HEAD)
_OFFSET_ENDS = (_EMBEDDING, Row("output_norm.weight", "model.norm.weight", PLUS_ONE), _HEAD)

_AT, _IN = "blk.{n}", "model.layers.{n}"


def _attention(query: Layout = AS_IS, key: Layout = AS_IS, norm: Layout = AS_IS) -> tuple[Row, ...]:
    return (
        *_with_bias(f"{_AT}.attn_q", f"{_IN}.self_attn.q_proj", query),
        *_with_bias(f"{_AT}.attn_k", f"{_IN}.self_attn.k_proj", key),
        *_with_bias(f"{_AT}.attn_v", f"{_IN}.self_attn.v_proj"),
        *_with_bias(f"{_AT}.attn_output", f"{_IN}.self_attn.o_proj"),
        Row(f"{_AT}.attn_q_norm.weight", f"{_IN}.self_attn.q_norm.weight", norm),
        Row(f"{_AT}.attn_k_norm.weight", f"{_IN}.self_attn.k_norm.weight", norm),
    )


def _norms(layout: Layout = AS_IS, **names: str) -> tuple[Row, ...]:
    """Given as file=theirs."""
    return tuple(Row(f"{_AT}.{file}.weight", f"{_IN}.{theirs}.weight", layout) for file, theirs in names.items())


_GATED_MLP = (
    *_with_bias(f"{_AT}.ffn_gate", f"{_IN}.mlp.gate_proj"),
    *_with_bias(f"{_AT}.ffn_up", f"{_IN}.mlp.up_proj"),
    *_with_bias(f"{_AT}.ffn_down", f"{_IN}.mlp.down_proj"),
)
_FUSED_MLP = (  # gate and up in one matrix, in this order in both worlds
    Row(f"{_AT}.ffn_up.weight", f"{_IN}.mlp.gate_up_proj.weight"),
    Row(f"{_AT}.ffn_down.weight", f"{_IN}.mlp.down_proj.weight"),
)


def _experts(router: str, gate: str, up: str, down: str) -> tuple[Row, ...]:
    return (
        Row(f"{_AT}.ffn_gate_inp.weight", f"{_IN}.{router}.weight"),
        Row(f"{_AT}.ffn_gate_exps.weight", f"{_IN}.{gate}.weight", STACKED),
        Row(f"{_AT}.ffn_up_exps.weight", f"{_IN}.{up}.weight", STACKED),
        Row(f"{_AT}.ffn_down_exps.weight", f"{_IN}.{down}.weight", STACKED),
    )


_PRE_NORMS = _norms(attn_norm="input_layernorm", ffn_norm="post_attention_layernorm")
_FOUR_OFFSET_NORMS = _norms(
    PLUS_ONE,
    attn_norm="input_layernorm",
    post_attention_norm="post_attention_layernorm",
    ffn_norm="pre_feedforward_layernorm",
    post_ffw_norm="post_feedforward_layernorm",
)
_LLAMA = (*_ENDS, *_attention(QUERY_ROTATION, KEY_ROTATION), *_PRE_NORMS, *_GATED_MLP)
_QWEN = (*_ENDS, *_attention(), *_PRE_NORMS, *_GATED_MLP)
_SPLIT_EXPERTS = "mlp.experts.{e}"
_MIXTRAL_EXPERTS = "block_sparse_moe.experts.{e}"

_SHARED = tuple(
    Row(f"{_AT}.ffn_{name}_shexp.weight", f"{_IN}.mlp.{{shared}}.{name}_proj.weight") for name in ("gate", "up", "down")
)


def _shared(theirs: str) -> tuple[Row, ...]:
    return tuple(Row(row.file, row.theirs.replace("{shared}", theirs)) for row in _SHARED)


_QWEN_EXPERTS = _experts(
    "mlp.gate", f"{_SPLIT_EXPERTS}.gate_proj", f"{_SPLIT_EXPERTS}.up_proj", f"{_SPLIT_EXPERTS}.down_proj"
)
_DEEPSEEK = (
    *_ENDS,
    *_PRE_NORMS,
    *_GATED_MLP,
    *_QWEN_EXPERTS,
    *_shared("shared_experts"),
    Row(f"{_AT}.exp_probs_b.bias", f"{_IN}.mlp.gate.e_score_correction_bias"),
    *(
        Row(f"{_AT}.{file}.weight", f"{_IN}.self_attn.{theirs}.weight")
        for file, theirs in (
            ("attn_q", "q_proj"), ("attn_q_a", "q_a_proj"), ("attn_q_a_norm", "q_a_layernorm"), ("attn_q_b", "q_b_proj"),
            ("attn_kv_a_mqa", "kv_a_proj_with_mqa"), ("attn_kv_a_norm", "kv_a_layernorm"), ("attn_output", "o_proj"),
        )
    ),
    Row(f"{_AT}.attn_k_b.weight", f"{_IN}.self_attn.kv_b_proj.weight", LATENT, f"{_AT}.attn_v_b.weight"),
)  # fmt: skip
_GPT_OSS = (
    *_ENDS,
    *_attention(),
    Row(f"{_AT}.attn_sinks.weight", f"{_IN}.self_attn.sinks"),
    *_norms(attn_norm="input_layernorm", post_attention_norm="post_attention_layernorm"),
    *_with_bias(f"{_AT}.ffn_gate_inp", f"{_IN}.mlp.router"),
    Row(f"{_AT}.ffn_gate_exps.weight", f"{_IN}.mlp.experts.gate_up_proj", WOVEN_TURNED, f"{_AT}.ffn_up_exps.weight"),
    Row(f"{_AT}.ffn_gate_exps.bias", f"{_IN}.mlp.experts.gate_up_proj_bias", WOVEN, f"{_AT}.ffn_up_exps.bias"),
    Row(f"{_AT}.ffn_down_exps.weight", f"{_IN}.mlp.experts.down_proj", TURNED),
    Row(f"{_AT}.ffn_down_exps.bias", f"{_IN}.mlp.experts.down_proj_bias"),
)

TABLES: Mapping[str, tuple[Row, ...]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "smollm3": _LLAMA,
    "mixtral": (
        *_ENDS,
        *_attention(QUERY_ROTATION, KEY_ROTATION),
        *_PRE_NORMS,
        *_experts(
            "block_sparse_moe.gate", f"{_MIXTRAL_EXPERTS}.w1", f"{_MIXTRAL_EXPERTS}.w3", f"{_MIXTRAL_EXPERTS}.w2"
        ),
    ),
    "qwen2": _QWEN,
    "qwen3": _QWEN,
    "qwen2_moe": (
        *_QWEN,
        *_QWEN_EXPERTS,
        *_shared("shared_expert"),
        Row(f"{_AT}.ffn_gate_inp_shexp.weight", f"{_IN}.mlp.shared_expert_gate.weight", FLATTENED),
    ),
    "qwen3_moe": (*_QWEN, *_QWEN_EXPERTS),
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "gpt_oss": _GPT_OSS,
    "gemma2": (*_OFFSET_ENDS, *_attention(), *_FOUR_OFFSET_NORMS, *_GATED_MLP),
    "gemma3_text": (*_OFFSET_ENDS, *_attention(norm=PLUS_ONE), *_FOUR_OFFSET_NORMS, *_GATED_MLP),
    "olmo2": (
        *_ENDS,
        *_attention(),
        *_norms(post_attention_norm="post_attention_layernorm", post_ffw_norm="post_feedforward_layernorm"),
        *_GATED_MLP,
    ),
    "phi3": (
        *_ENDS,
        Row(f"{_AT}.attn_qkv.weight", f"{_IN}.self_attn.qkv_proj.weight"),
        Row(f"{_AT}.attn_output.weight", f"{_IN}.self_attn.o_proj.weight"),
        *_PRE_NORMS,
        *_FUSED_MLP,
    ),
    "glm4": (
        *_ENDS,
        *_attention(),
        *_norms(
            attn_norm="input_layernorm",
            post_attention_norm="post_self_attn_layernorm",
            ffn_norm="post_attention_layernorm",
            post_ffw_norm="post_mlp_layernorm",
        ),
        *_FUSED_MLP,
    ),
    "gpt2": (
        Row("token_embd.weight", "transformer.wte.weight"),
        Row("position_embd.weight", "transformer.wpe.weight"),
        *_with_bias("output_norm", "transformer.ln_f"),
        _HEAD,
        *_with_bias(f"{_AT}.attn_norm", "transformer.h.{n}.ln_1"),
        *_with_bias(f"{_AT}.ffn_norm", "transformer.h.{n}.ln_2"),
        *(
            Row(f"{_AT}.{file}.{part}", f"transformer.h.{{n}}.{theirs}.{part}", layout)
            for file, theirs in (
                ("attn_qkv", "attn.c_attn"), ("attn_output", "attn.c_proj"), ("ffn_up", "mlp.c_fc"), ("ffn_down", "mlp.c_proj"),
            )
            for part, layout in (("weight", TRANSPOSED), ("bias", AS_IS))
        ),
    ),
}  # fmt: skip
"""By Hugging Face's `model_type`."""


def slots(config: DecoderConfig, stored: Mapping[str, StoredTensor]) -> list[Slot]:
    """The tensors of a file for this model, in the order of the checkpoint.

    Raises ModelError for an architecture without a table, and for a tensor of the checkpoint that a table has no place for.
    """
    table = TABLES.get(config.architecture)
    if table is None:
        raise ModelError(
            f"the architecture {config.architecture!r} has no GGUF form in dunwu; it writes and reads "
            f"{', '.join(sorted(TABLES))}. Export to Hugging Face instead: --to hf"
        )
    found = {slot.theirs[0]: slot for row in table for slot in _counted(row, config) if slot.theirs[0] in stored}
    placed = {name for slot in found.values() for name in slot.theirs}
    homeless = [name for name in stored if name not in placed]
    if homeless:
        raise ModelError(
            f"{homeless[0]} ({len(homeless)} such) has no place in a GGUF file of {config.architecture!r}: llama.cpp's network "
            "of that name does not have it. Export to Hugging Face instead: --to hf"
        )
    return [found[name] for name in stored if name in found]


def _counted(row: Row, config: DecoderConfig) -> Iterator[Slot]:
    layers = range(config.num_hidden_layers) if "{n}" in row.file else range(1)
    experts = range(config.experts.count if config.experts else 0) if "{e}" in row.theirs else range(1)
    for n in layers:
        theirs = tuple(row.theirs.format(n=n, e=e) for e in experts)
        if theirs:
            files = (row.file, row.second) if row.second else (row.file,)
            yield Slot(tuple(file.format(n=n) for file in files), theirs, row.layout)
