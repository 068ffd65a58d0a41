"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, biases everywhere; matrices lie transposed on disk."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from dunwu.core.errors import ModelError
from dunwu.model.config import Activation, DecoderConfig
from dunwu.model.families.base import Family, Piece, StoredTensor, one, refuse, required, rows, token_ids, usual_name

_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu": "gelu", "silu": "silu"
}  # fmt: skip
"""Theirs to ours; of two names of one function the last is written."""


def _read(values: Mapping[str, Any]) -> DecoderConfig:
    refuse(values, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    required(values, "vocab_size", "n_embd", "n_layer", "n_head")
    width, heads = int(values["n_embd"]), int(values["n_head"])
    name = values.get("activation_function", "gelu_new")
    if name not in _ACTIVATIONS:
        raise ModelError(f"config.json has activation_function={name!r}; dunwu has {', '.join(_ACTIVATIONS)}")
    return DecoderConfig(
        architecture="gpt2",
        vocab_size=int(values["vocab_size"]),
        hidden_size=width,
        intermediate_size=int(values.get("n_inner") or 4 * width),
        num_hidden_layers=int(values["n_layer"]),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
        max_position_embeddings=int(values.get("n_positions") or 1024),
        positions="learned",
        norm="layer",
        rms_norm_eps=float(values.get("layer_norm_epsilon") or 1e-5),
        attention_bias=True,
        attention_output_bias=True,
        attention_scale=None if values.get("scale_attn_weights", True) else 1.0,
        mlp="plain",
        mlp_bias=True,
        activation=_ACTIVATIONS[name],
        tie_word_embeddings=bool(values.get("tie_word_embeddings", True)),
        **token_ids(values),
    )


def _write(config: DecoderConfig) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    eos = config.eos_token_id
    return {
        "vocab_size": config.vocab_size,
        "n_embd": config.hidden_size,
        "n_inner": config.intermediate_size,
        "n_layer": config.num_hidden_layers,
        "n_head": config.num_attention_heads,
        "n_positions": config.max_position_embeddings,
        "layer_norm_epsilon": config.rms_norm_eps,
        "activation_function": names.get(config.activation, "gelu_new"),
        "scale_attn_weights": config.attention_scale is None,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
        "pad_token_id": config.pad_token_id,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }


def _transposed(stored: Tensor) -> Tensor:
    return stored.mT


def _columns(start: int, end: int) -> Callable[[Tensor], Tensor]:
    """A view of some columns of a fused matrix, as rows."""
    return lambda stored: stored[:, start:end].mT


def _layer(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    theirs, ours = f"transformer.h.{layer}", f"model.layers.{layer}"
    width, size = config.hidden_size, config.intermediate_size
    cuts = [(f"{ours}.self_attn.{name}_proj", n * width, (n + 1) * width) for n, name in enumerate("qkv")]
    yield from _norm(f"{theirs}.ln_1", f"{ours}.input_layernorm", width)
    weights = tuple(Piece(f"{name}.weight", _columns(start, end)) for name, start, end in cuts)
    yield StoredTensor(f"{theirs}.attn.c_attn.weight", (width, 3 * width), weights)
    biases = tuple(Piece(f"{name}.bias", rows(start, end)) for name, start, end in cuts)
    yield StoredTensor(f"{theirs}.attn.c_attn.bias", (3 * width,), biases)
    yield from _linear(f"{theirs}.attn.c_proj", f"{ours}.self_attn.o_proj", width, width)
    yield from _norm(f"{theirs}.ln_2", f"{ours}.post_attention_layernorm", width)
    yield from _linear(f"{theirs}.mlp.c_fc", f"{ours}.mlp.up_proj", width, size)
    yield from _linear(f"{theirs}.mlp.c_proj", f"{ours}.mlp.down_proj", size, width)


def _linear(theirs: str, ours: str, inputs: int, outputs: int) -> Iterator[StoredTensor]:
    yield StoredTensor(f"{theirs}.weight", (inputs, outputs), (Piece(f"{ours}.weight", _transposed),))
    yield one(f"{theirs}.bias", f"{ours}.bias", outputs)


def _norm(theirs: str, ours: str, width: int) -> Iterator[StoredTensor]:
    yield one(f"{theirs}.weight", f"{ours}.weight", width)
    yield one(f"{theirs}.bias", f"{ours}.bias", width)


def _stored(config: DecoderConfig) -> Iterator[StoredTensor]:
    vocabulary, width = config.vocab_size, config.hidden_size
    yield one("transformer.wte.weight", "model.embed_tokens.weight", vocabulary, width)
    yield one("transformer.wpe.weight", "model.embed_positions.weight", config.max_position_embeddings, width)
    for layer in range(config.num_hidden_layers):
        yield from _layer(config, layer)
    yield from _norm("transformer.ln_f", "model.norm", width)
    if not config.tie_word_embeddings:
        yield one("lm_head.weight", "lm_head.weight", vocabulary, width)


def _name(name: str) -> str | None:
    """The first checkpoints have no `transformer.` before their names, and carry causal masks."""
    if name.endswith((".attn.bias", ".attn.masked_bias")):
        return None
    return usual_name(name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}")


GPT2 = Family(model_type="gpt2", class_name="GPT2LMHeadModel", read=_read, write=_write, stored=_stored, rename=_name)
