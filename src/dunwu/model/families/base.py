"""What an architecture of Hugging Face's is to us: how its `config.json` and its checkpoint map to ours.

Shapes: `D` model width, `V` vocabulary, `E` experts.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dunwu.core.errors import ModelError
from dunwu.model.config import DecoderConfig, RopeKind, RopeScaling


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


def usual_name(name: str) -> str | None:
    """A checkpoint's own name for a tensor as `Family.stored` spells it; None: a buffer that old checkpoints repeat."""
    return None if name.endswith("rotary_emb.inv_freq") else name


@dataclass(frozen=True, kw_only=True)
class Family:
    """An architecture. `read` and `write` translate `config.json`; `stored` lists every tensor of a checkpoint, in order.

    `read` raises ModelError on a feature that we do not have; it may take for granted that `architectures` fits.
    `rename` gives the name in `stored` of a tensor found in a checkpoint, which may be of another vintage, or None where the
    tensor is to be passed over.
    """

    model_type: str
    class_name: str
    read: Callable[[Mapping[str, Any]], DecoderConfig]
    write: Callable[[DecoderConfig], dict[str, Any]]
    stored: Callable[[DecoderConfig], Iterator[StoredTensor]]
    rename: Callable[[str], str | None] = usual_name


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


_SCALING_FIELDS: Mapping[RopeKind, tuple[str, ...]] = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": (
        "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
        "mscale_all_dim", "truncate",
    ),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "longrope": ("factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"),
}  # fmt: skip


def rope(values: Mapping[str, Any], *, default_theta: float = 10_000.0) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` for DecoderConfig, from transformers 5's `rope_parameters` or the older pair.

    Where both are given `rope_scaling` counts, as in transformers. Raises ModelError for a kind that we do not have, and
    for positions that differ by layer.
    """
    given = dict(values.get("rope_scaling") or values.get("rope_parameters") or {})
    by_layer = [item for item in given.values() if isinstance(item, Mapping)]
    if by_layer:
        if any(item != by_layer[0] for item in by_layer):
            raise ModelError(
                f"config.json has rope_parameters={given!r} that differ by layer, which dunwu does not have for "
                f"{values.get('model_type')}; choose a model without it"
            )
        given = dict(by_layer[0])
    theta = float(given.get("rope_theta") or values.get("rope_theta") or default_theta)
    return {"rope_theta": theta, "rope_scaling": rope_scaling(values, given)}


def rope_scaling(values: Mapping[str, Any], given: Mapping[str, Any]) -> RopeScaling | None:
    """How positions are stretched, of the `given` rope parameters. Raises ModelError when it is a kind that we do not have."""
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind == "default":
        return None
    if kind not in _SCALING_FIELDS:
        raise ModelError(
            f"config.json has rope type={kind!r}, which dunwu does not have (only default, {', '.join(_SCALING_FIELDS)}); "
            "choose a model without it"
        )
    fields = {name: given[name] for name in _SCALING_FIELDS[kind] if given.get(name) is not None}
    reach = int(values.get("max_position_embeddings") or 2048)
    if "original_max_position_embeddings" in _SCALING_FIELDS[kind]:
        original = fields.setdefault("original_max_position_embeddings", reach)
        if kind in ("yarn", "longrope"):
            fields.setdefault("factor", reach / original)
    required(fields, "factor", *(("short_factor", "long_factor") if kind == "longrope" else ()))
    for name in ("short_factor", "long_factor"):
        if name in fields:
            fields[name] = tuple(float(item) for item in fields[name])
    return RopeScaling(kind=kind, **fields)


def rotary_dim(values: Mapping[str, Any], head_dim: int, *, default: float = 1.0) -> int | None:
    """How many channels of a head turn, from `partial_rotary_factor` in its old place or its new one; None is all."""
    places = (values.get("rope_scaling"), values.get("rope_parameters"), values)
    found = (place.get("partial_rotary_factor") for place in places if place)
    share = next((float(item) for item in found if item is not None), default)
    channels = int(head_dim * share)
    return None if channels == head_dim else channels


def written_rope(config: DecoderConfig) -> dict[str, Any]:
    """`rope_parameters` for transformers 5, with `rope_theta` and `rope_scaling` beside it for transformers 4."""
    fields = written_scaling(config.rope_scaling)
    parameters = {"rope_type": "default", **fields, "rope_theta": config.rope_theta}
    values: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_parameters": parameters}
    if fields:
        values["rope_scaling"] = fields
    if config.rotary_dim is not None:
        share = written_share(config.rotary_dim, config.head_dim)
        values["partial_rotary_factor"] = parameters["partial_rotary_factor"] = share
    return values


def written_scaling(scaling: RopeScaling | None) -> dict[str, Any]:
    """`rope_scaling` for config.json; empty when there is none."""
    if scaling is None:
        return {}
    fields = {name: getattr(scaling, name) for name in _SCALING_FIELDS[scaling.kind]}
    given = {name: list(item) if isinstance(item, tuple) else item for name, item in fields.items() if item is not None}
    return {"rope_type": scaling.kind, **given}


def written_share(part: int, all_of_it: int) -> float:
    """The fraction of which `int(all_of_it * fraction)` is `part`."""
    share = part / all_of_it
    return share if int(all_of_it * share) == part else math.nextafter(share, 1.0)


def sliding_by_type(values: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Which layers have a sliding window by `layer_types`; None where config.json has none.

    Raises ModelError when a layer is of another kind than full and sliding attention.
    """
    types = values.get("layer_types")
    if types is None:
        return None
    for kind in types:
        if kind not in ("full_attention", "sliding_attention"):
            raise ModelError(
                f"config.json has a layer type {kind!r}, which dunwu does not have (only full_attention and "
                "sliding_attention); choose a model without it"
            )
    return tuple(layer for layer, kind in enumerate(types) if kind == "sliding_attention")


def written_types(config: DecoderConfig) -> list[str]:
    """`layer_types` for config.json."""
    layers = range(config.num_hidden_layers)
    return ["sliding_attention" if layer in config.sliding_layers else "full_attention" for layer in layers]


def optional_window(values: Mapping[str, Any]) -> dict[str, Any]:
    """Qwen's sliding windows for DecoderConfig: off unless `use_sliding_window`, and by default from one layer onwards."""
    window = values.get("sliding_window", 4096)
    if not values.get("use_sliding_window") or window is None:
        return {}
    layers = sliding_by_type(values)
    if layers is None:
        layers = tuple(range(int(values.get("max_window_layers", 28)), int(values["num_hidden_layers"])))
    return {"sliding_window": int(window), "sliding_layers": layers} if layers else {}


def written_optional_window(config: DecoderConfig) -> dict[str, Any]:
    """Qwen's sliding windows for config.json; transformers 4 reads `max_window_layers`, where it can say which layers."""
    return {
        "use_sliding_window": bool(config.sliding_layers),
        "sliding_window": config.sliding_window,
        "max_window_layers": min(config.sliding_layers, default=config.num_hidden_layers),
        "layer_types": written_types(config),
    }


def window_everywhere(values: Mapping[str, Any], *, default: int | None) -> dict[str, Any]:
    """A sliding window in all layers, for DecoderConfig; `default` counts where config.json does not name it at all."""
    window = values.get("sliding_window", default)
    if window is None:
        return {}
    return {"sliding_window": int(window), "sliding_layers": tuple(range(int(values["num_hidden_layers"])))}


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


def rows(start: int, end: int) -> Callable[[Tensor], Tensor]:
    """A view of some rows of a fused matrix, or of some entries of a fused bias."""
    return lambda stored: stored[start:end]


def whole_heads(config: DecoderConfig) -> None:
    """Raise ModelError where transformers wants the width to be a multiple of the heads, even if `head_dim` is given."""
    if config.hidden_size % config.num_attention_heads:
        raise ModelError(
            f"the architecture {config.architecture!r} cannot have hidden_size={config.hidden_size} with "
            f"num_attention_heads={config.num_attention_heads}: the one must be a multiple of the other; qwen3 can"
        )


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
    yield from output_tensors(config, layer)
    if config.qk_norm != "none":
        whole_size = config.qk_norm == "all"
        yield one(f"{at}.q_norm.weight", f"{at}.q_norm.weight", query if whole_size else config.head_dim)
        yield one(f"{at}.k_norm.weight", f"{at}.k_norm.weight", key_value if whole_size else config.head_dim)


def output_tensors(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    """What leads from the heads back to the stream."""
    at = f"model.layers.{layer}.self_attn.o_proj"
    yield one(f"{at}.weight", f"{at}.weight", config.hidden_size, config.query_size)
    if config.attention_output_bias:
        yield one(f"{at}.bias", f"{at}.bias", config.hidden_size)


def fused_attention_tensors(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    """Phi's attention: one matrix for queries, keys and values."""
    at = f"model.layers.{layer}.self_attn"
    query, key_value = config.query_size, config.key_value_size
    cuts = (
        ("q_proj", 0, query),
        ("k_proj", query, query + key_value),
        ("v_proj", query + key_value, query + 2 * key_value),
    )
    pieces = tuple(Piece(f"{at}.{name}.weight", rows(start, end)) for name, start, end in cuts)
    yield StoredTensor(f"{at}.qkv_proj.weight", (query + 2 * key_value, config.hidden_size), pieces)
    yield from output_tensors(config, layer)


def fused_mlp_tensors(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    """Phi's and GLM's MLP: one matrix for gate and up."""
    at, size = f"model.layers.{layer}.mlp", config.intermediate_size
    pieces = Piece(f"{at}.gate_proj.weight", rows(0, size)), Piece(f"{at}.up_proj.weight", rows(size, 2 * size))
    yield StoredTensor(f"{at}.gate_up_proj.weight", (2 * size, config.hidden_size), pieces)
    yield one(f"{at}.down_proj.weight", f"{at}.down_proj.weight", config.hidden_size, size)


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


def in_layers(
    config: DecoderConfig, of_layer: Callable[[DecoderConfig, int], Iterator[StoredTensor]]
) -> Iterator[StoredTensor]:
    """The embedding, the tensors of each layer, the final norm and the head."""
    embedding, after = ends(config)
    yield embedding
    for layer in range(config.num_hidden_layers):
        yield from of_layer(config, layer)
    yield from after


def _llama_layer(config: DecoderConfig, layer: int) -> Iterator[StoredTensor]:
    at = f"model.layers.{layer}.mlp"
    yield from attention_tensors(config, layer)
    yield from gated_mlp_tensors(config, at, at, config.intermediate_size)
    yield from norm_tensors(
        config, layer, input_layernorm="input_layernorm", post_attention_layernorm="post_attention_layernorm"
    )


def llama_tensors(config: DecoderConfig) -> Iterator[StoredTensor]:
    """A checkpoint laid out as Llama's."""
    return in_layers(config, _llama_layer)
