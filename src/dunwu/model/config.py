"""The shape of a decoder: a few knobs that the blocks read. Fields that Hugging Face has keep its names.

`families/` translate the `config.json` of each architecture into these knobs and back; no block looks at `architecture`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, cast

from dunwu.core.errors import ModelError

T = TypeVar("T")

Activation = Literal["silu", "gelu", "gelu_tanh", "clamped_silu"]
RopeKind = Literal["linear", "dynamic", "yarn", "llama3", "longrope"]


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary positions are stretched beyond the trained context. Which fields count depends on `kind`: see
    `blocks/rotary.py`, where each formula and its source stand."""

    kind: RopeKind
    factor: float = 1.0
    original_max_position_embeddings: int | None = None
    attention_factor: float | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A mixture of experts in place of the MLP: a router picks `per_token` of `count` for each token.

    `scores`: how the router's logits become weights: "softmax" over all and then the best ("softmax_after": over the chosen
    only), or "sigmoid" of each. `normalise`: the chosen weights sum to one. Of `groups` only the best `groups_per_token`
    stand for choice, where a group counts by its best score or by the sum of its best two (`group_score`). `correction`: a
    learned offset to the scores that counts for the choice alone (arXiv:2408.15664). `router_float32`: the router works in
    float32 whatever the model's dtype. `shared_gate`: what all tokens share is weighted by a sigmoid of its own.

    Raises ModelError when the numbers do not fit together.
    """

    count: int
    per_token: int
    intermediate_size: int
    shared_intermediate_size: int = 0
    scores: Literal["softmax", "softmax_after", "sigmoid"] = "softmax"
    normalise: bool = False
    scale: float = 1.0
    groups: int = 1
    groups_per_token: int = 1
    group_score: Literal["best", "best_two"] = "best"
    correction: bool = False
    router_bias: bool = False
    router_float32: bool = False
    bias: bool = False
    shared_gate: bool = False

    def __post_init__(self) -> None:
        for name in ("count", "per_token", "intermediate_size", "groups", "groups_per_token"):
            _require_count(f"experts.{name}", getattr(self, name))
        if self.per_token > self.count:
            raise ModelError(
                f"model.experts.per_token={self.per_token} must lie between 1 and the {self.count} experts"
            )
        if self.count % self.groups:
            raise ModelError(
                f"model.experts.count={self.count} is not divisible by model.experts.groups={self.groups}; "
                "groups must be of one size"
            )
        if self.groups_per_token > self.groups:
            raise ModelError(
                f"model.experts.groups_per_token={self.groups_per_token} is more than the {self.groups} groups; use 1 to {self.groups}"
            )
        if self.per_token > self.groups_per_token * (self.count // self.groups):
            raise ModelError(
                f"model.experts.per_token={self.per_token} is more than the experts of {self.groups_per_token} groups; "
                "let more groups stand for choice, or fewer experts serve a token"
            )
        if self.group_score == "best_two" and self.groups > 1 and self.count // self.groups < 2:
            raise ModelError(
                f"model.experts.groups={self.groups} leave one expert a group, and group_score='best_two' adds up two; "
                "use fewer groups"
            )


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Multi-head latent attention (arXiv:2405.04434): keys and values are made from a vector of `kv_rank` channels, which is
    all that the cache keeps, beside `rope_dim` channels that carry the position. `q_rank` None: queries have no bottleneck."""

    q_rank: int | None
    kv_rank: int
    rope_dim: int
    nope_dim: int
    value_dim: int


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder. The defaults are Llama's: pre-norm, RMSNorm, rotary positions, grouped-query attention, gated MLP.

    `qk_norm`: queries and keys normalised before rotation, each head by itself or all heads together. `norm_offset`: a norm
    multiplies by offset + weight. `norm_placement`: what a block normalises: the input of attention and MLP, their output, or
    both. `rotary_dim`: how many channels of a head turn; None is all. `rope_interleaved`: channel 2i turns with 2i+1 instead
    of i with i+C/2. `nope_layers` have no positions; `sliding_layers` see the last `sliding_window` tokens alone, and
    turn at `local_rope_theta`, unscaled, where that is given. `attention_scale` None is 1/sqrt(head_dim). `sinks`: each head
    may attend to nothing, by a learned logit. `dense_layers` keep a plain MLP beside `experts`.

    Nested parts may be given as the mappings that `dataclasses.asdict` makes of them.
    Raises ModelError when the numbers do not fit together.
    """

    architecture: str = "qwen3"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    positions: Literal["rotary", "learned"] = "rotary"
    rope_theta: float = 10_000.0
    local_rope_theta: float | None = None
    rope_scaling: RopeScaling | None = None
    rotary_dim: int | None = None
    rope_interleaved: bool = False
    nope_layers: tuple[int, ...] = ()
    sliding_window: int | None = None
    sliding_layers: tuple[int, ...] = ()
    norm: Literal["rms", "layer"] = "rms"
    norm_offset: float = 0.0
    norm_placement: Literal["pre", "post", "both"] = "pre"
    rms_norm_eps: float = 1e-6
    qk_norm: Literal["none", "head", "all"] = "none"
    attention_bias: bool = False
    attention_output_bias: bool = False
    attention_scale: float | None = None
    attention_softcap: float | None = None
    sinks: bool = False
    latent: Latent | None = None
    mlp: Literal["gated", "plain"] = "gated"
    mlp_bias: bool = False
    activation: Activation = "silu"
    activation_limit: float | None = None
    experts: Experts | None = None
    dense_layers: tuple[int, ...] = ()
    embedding_scale: float = 1.0
    logits_softcap: float | None = None
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        _restore(self, "rope_scaling", RopeScaling)
        _restore(self, "experts", Experts)
        _restore(self, "latent", Latent)
        for name in ("nope_layers", "sliding_layers", "dense_layers", "eos_token_id"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        for field in fields(self):
            if field.type is int:
                _require_count(field.name, getattr(self, field.name))
        if self.num_attention_heads % self.num_key_value_heads:
            divisors = [n for n in range(1, self.num_attention_heads + 1) if self.num_attention_heads % n == 0]
            raise ModelError(
                f"model.num_attention_heads={self.num_attention_heads} is not divisible by "
                f"model.num_key_value_heads={self.num_key_value_heads}; use one of {divisors}"
            )
        if self.positions == "rotary" and self.rotated_channels % 2:
            raise ModelError(
                f"model.head_dim={self.rotated_channels} is odd; rotary positions turn pairs of channels: make it even"
            )
        if self.rotary_dim == self.head_dim:
            object.__setattr__(self, "rotary_dim", None)
        if not (self.rope_theta > 1 and (self.local_rope_theta is None or self.local_rope_theta > 1)):
            raise ModelError(
                f"model.rope_theta={self.rope_theta} (and local_rope_theta={self.local_rope_theta}) must be above 1; "
                "10000 is usual"
            )
        if self.rope_scaling is not None:
            _require_scaling(self.rope_scaling, self.rotated_channels)
        if self.sliding_layers and not self.sliding_window:
            raise ModelError("model.sliding_layers are given without model.sliding_window; give how far they see")

    @property
    def query_size(self) -> int:
        """Channels of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Channels of all key (or value) heads together."""
        return self.num_key_value_heads * self.head_dim

    @property
    def rotated_channels(self) -> int:
        """Channels of a head that carry the position."""
        if self.latent is not None:
            return self.latent.rope_dim
        return self.rotary_dim or self.head_dim

    @property
    def score_scale(self) -> float:
        """What the products of queries and keys are multiplied by."""
        channels = self.head_dim if self.latent is None else self.latent.nope_dim + self.latent.rope_dim
        return self.attention_scale if self.attention_scale is not None else channels**-0.5

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """What the cache keeps of a token and layer: heads, channels of the first part (keys) and of the second (values)."""
        if self.latent is not None:
            return 1, self.latent.kv_rank, self.latent.rope_dim
        return self.num_key_value_heads, self.head_dim, self.head_dim

    def window(self, layer: int) -> int | None:
        """How many tokens a layer sees, itself included; None is all before it."""
        return self.sliding_window if layer in self.sliding_layers else None

    def has_experts(self, layer: int) -> bool:
        """Whether a layer's MLP is a mixture of experts."""
        return self.experts is not None and layer not in self.dense_layers


def _restore(config: DecoderConfig, name: str, kind: type[T]) -> None:
    value = getattr(config, name)
    if isinstance(value, Mapping):
        values = {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
        object.__setattr__(config, name, kind(**cast("dict[str, Any]", values)))


def _require_scaling(scaling: RopeScaling, channels: int) -> None:
    if not scaling.factor > 0:
        raise ModelError(f"model.rope_scaling.factor={scaling.factor} must be above 0: how many times as far to reach")
    if scaling.kind in ("yarn", "llama3", "longrope") and not scaling.original_max_position_embeddings:
        raise ModelError(
            f"model.rope_scaling of kind {scaling.kind!r} needs original_max_position_embeddings: the length that the model "
            "was first trained at"
        )
    if scaling.kind == "llama3" and scaling.high_freq_factor <= scaling.low_freq_factor:
        raise ModelError(
            f"model.rope_scaling.high_freq_factor={scaling.high_freq_factor} must be above "
            f"low_freq_factor={scaling.low_freq_factor}"
        )
    if scaling.kind == "dynamic" and channels < 4:
        raise ModelError(f"model.rope_scaling of kind 'dynamic' needs 4 rotated channels or more, here are {channels}")
    for name in ("short_factor", "long_factor") if scaling.kind == "longrope" else ():
        if len(getattr(scaling, name)) != channels // 2:
            raise ModelError(
                f"model.rope_scaling.{name} has {len(getattr(scaling, name))} numbers; {channels} rotated channels need "
                f"{channels // 2}"
            )


def _require_count(name: str, value: int) -> None:
    if value < 1:
        raise ModelError(f"model.{name}={value} must be at least 1")


def differing_knobs(one: DecoderConfig, other: DecoderConfig) -> list[str]:
    """Names of the fields in which two configurations differ."""
    return [field.name for field in dataclasses.fields(one) if getattr(one, field.name) != getattr(other, field.name)]
