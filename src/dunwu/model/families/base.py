"""What an architecture of Hugging Face's is to us: how its `config.json` and its checkpoint map to ours.

Shapes: `D` model width, `V` vocabulary, `E` experts.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dunwu.core.errors import ModelError
from dunwu.model.config import DecoderConfig, RopeScaling


def whole(stored: Tensor) -> Tensor:
    """The stored tensor as it is."""
    return stored


@dataclass(frozen=True)
class Piece:
    """One of our parameters inside a stored tensor.

    `theirs` gives a VIEW of the stored tensor with the layout of `ours` (or of its place `index`, an expert): reading copies
    from the view, writing copies into it, so one definition serves both ways.
    """

    ours: str
    theirs: Callable[[Tensor], Tensor] = whole
    index: int | None = None


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of their checkpoint: name, shape, and which of our parameters lie in it."""

    name: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True)
class Family:
    """An architecture. `read` and `write` translate `config.json`; `stored` lists every tensor of a checkpoint, in order.

    `read` raises ModelError on a feature that we do not have; it may take for granted that `architectures` fits.
    """

    model_type: str
    class_name: str
    read: Callable[[Mapping[str, Any]], DecoderConfig]
    write: Callable[[DecoderConfig], dict[str, Any]]
    stored: Callable[[DecoderConfig], Iterator[StoredTensor]]


def required(values: Mapping[str, Any], *names: str) -> None:
    """Raise ModelError naming those of `names` that config.json lacks."""
    missing = sorted(name for name in names if values.get(name) is None)
    if missing:
        raise ModelError(f"config.json lacks {', '.join(missing)}; take the file from the model's own folder")


def refuse(values: Mapping[str, Any], **wanted: Any) -> None:
    """Raise ModelError unless each of these keys is absent, null, or as `wanted`."""
    for name, value in wanted.items():
        if values.get(name) is not None and values[name] != value:
            raise ModelError(
                f"config.json has {name}={values[name]!r}, which dunwu does not have (only {value!r}); "
                "choose a model without it"
            )


def token_ids(values: Mapping[str, Any]) -> dict[str, Any]:
    """The ids of special tokens, for DecoderConfig."""
    return {name: values.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def sizes(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that almost all architectures call the same, for DecoderConfig. Raises ModelError when one is missing."""
    required(values, "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    heads = int(values["num_attention_heads"])
    return {
        "vocab_size": int(values["vocab_size"]),
        "hidden_size": int(values["hidden_size"]),
        "intermediate_size": int(values["intermediate_size"]),
        "num_hidden_layers": int(values["num_hidden_layers"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(values.get("num_key_value_heads") or heads),
        "head_dim": int(values.get("head_dim") or int(values["hidden_size"]) // heads),
        "max_position_embeddings": int(values.get("max_position_embeddings") or 2048),
        "rms_norm_eps": float(values.get("rms_norm_eps") or 1e-6),
        "tie_word_embeddings": bool(values.get("tie_word_embeddings", False)),
        **token_ids(values),
    }


def rope(values: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` for DecoderConfig, from transformers 5's `rope_parameters` or the older pair.

    Raises ModelError for a kind that we do not have.
    """
    given = dict(values.get("rope_parameters") or values.get("rope_scaling") or {})
    theta = float(given.pop("rope_theta", None) or values.get("rope_theta") or 10_000.0)
    kind = given.pop("rope_type", None) or given.pop("type", None) or "default"
    if kind != "default":
        raise ModelError(f"config.json has rope type={kind!r}, which dunwu does not have; choose a model without it")
    return {"rope_theta": theta, "rope_scaling": None}


def written_rope(config: DecoderConfig) -> dict[str, Any]:
    """`rope_parameters` for transformers 5, with `rope_theta` and `rope_scaling` beside it for transformers 4."""
    scaling: RopeScaling | None = config.rope_scaling
    assert scaling is None
    return {
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
    }


def written_sizes(config: DecoderConfig) -> dict[str, Any]:
    """The fields that almost all architectures call the same, for config.json."""
    eos = list(config.eos_token_id) if isinstance(config.eos_token_id, tuple) else config.eos_token_id
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos,
        "pad_token_id": config.pad_token_id,
    }


def one(name: str, ours: str, *shape: int) -> StoredTensor:
    """A tensor stored as we hold it, under another name or the same."""
    return StoredTensor(name, shape, (Piece(ours),))


def ends(config: DecoderConfig, *, prefix: str = "model") -> tuple[StoredTensor, list[StoredTensor]]:
    """The embedding, and the final norm with an untied head: what stands before and after the blocks."""
    embedding = one(f"{prefix}.embed_tokens.weight", "model.embed_tokens.weight", config.vocab_size, config.hidden_size)
    after = [one(f"{prefix}.norm.weight", "model.norm.weight", config.hidden_size)]
    if not config.tie_word_embeddings:
        after.append(one("lm_head.weight", "lm_head.weight", config.vocab_size, config.hidden_size))
    return embedding, after


def attention_tensors(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    """Llama's attention: separate projections, with biases and norms of queries and keys where there are any."""
    at = f"model.layers.{layer}.self_attn"
    width, query, key_value = config.hidden_size, config.query_size, config.key_value_size
    for name, rows in (("q_proj", query), ("k_proj", key_value), ("v_proj", key_value)):
        yield one(f"{at}.{name}.weight", f"{at}.{name}.weight", rows, width)
        if config.attention_bias:
            yield one(f"{at}.{name}.bias", f"{at}.{name}.bias", rows)
    yield one(f"{at}.o_proj.weight", f"{at}.o_proj.weight", width, query)
    if config.attention_output_bias:
        yield one(f"{at}.o_proj.bias", f"{at}.o_proj.bias", width)
    if config.qk_norm != "none":
        whole_size = config.qk_norm == "all"
        yield one(f"{at}.q_norm.weight", f"{at}.q_norm.weight", query if whole_size else config.head_dim)
        yield one(f"{at}.k_norm.weight", f"{at}.k_norm.weight", key_value if whole_size else config.head_dim)


def gated_mlp_tensors(config: DecoderConfig, at: str, ours: str, size: int) -> Iterator[StoredTensor]:
    """Llama's MLP below `at`: gate, up and down."""
    for name in ("gate_proj", "up_proj", "down_proj"):
        rows, columns = (config.hidden_size, size) if name == "down_proj" else (size, config.hidden_size)
        yield one(f"{at}.{name}.weight", f"{ours}.{name}.weight", rows, columns)
        if config.mlp_bias:
            yield one(f"{at}.{name}.bias", f"{ours}.{name}.bias", rows)


def norm_tensors(config: DecoderConfig, layer: int, **names: str) -> Iterator[StoredTensor]:
    """RMSNorms of a block, given as theirs=ours."""
    for theirs, ours in names.items():
        yield one(f"model.layers.{layer}.{theirs}.weight", f"model.layers.{layer}.{ours}.weight", config.hidden_size)


def llama_tensors(config: DecoderConfig) -> Iterator[StoredTensor]:
    """A checkpoint laid out as Llama's."""
    embedding, after = ends(config)
    yield embedding
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}"
        yield from attention_tensors(config, layer)
        yield from gated_mlp_tensors(config, f"{at}.mlp", f"{at}.mlp", config.intermediate_size)
        yield from norm_tensors(
            config, layer, input_layernorm="input_layernorm", post_attention_layernorm="post_attention_layernorm"
        )
    yield from after
