"""The shape of a decoder, in Hugging Face's field names."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, cast, get_args

from dunwu.core.errors import ModelError

Architecture = Literal["llama", "qwen3"]
ARCHITECTURES: tuple[str, ...] = get_args(Architecture)
_CLASS_NAMES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A dense pre-norm decoder: "llama", or "qwen3", which also normalises queries and keys by head.

    Raises ModelError when the numbers do not fit together.
    """

    architecture: Architecture = "qwen3"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ModelError(f"model.architecture={self.architecture!r} is not known; use one of {ARCHITECTURES}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" or field.type is int:
                _require_count(field.name, value)
        if self.num_attention_heads % self.num_key_value_heads:
            divisors = [n for n in range(1, self.num_attention_heads + 1) if self.num_attention_heads % n == 0]
            raise ModelError(
                f"model.num_attention_heads={self.num_attention_heads} is not divisible by "
                f"model.num_key_value_heads={self.num_key_value_heads}; use one of {divisors}"
            )
        if self.head_dim % 2:
            raise ModelError(
                f"model.head_dim={self.head_dim} is odd; rotary positions turn pairs of channels: make it even"
            )

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised by head before rotation."""
        return self.architecture == "qwen3"

    @property
    def query_size(self) -> int:
        """Channels of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Channels of all key (or value) heads together."""
        return self.num_key_value_heads * self.head_dim

    def to_hf(self) -> dict[str, Any]:
        """What `config.json` holds, readable by transformers 4 (`rope_theta`) and 5 (`rope_parameters`)."""
        values = asdict(self)
        del values["architecture"]
        if isinstance(self.eos_token_id, tuple):
            values["eos_token_id"] = list(self.eos_token_id)
        return {
            "architectures": [_CLASS_NAMES[self.architecture]],
            "model_type": self.architecture,
            **values,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            **({"mlp_bias": False} if self.architecture == "llama" else {"use_sliding_window": False}),
            "dtype": "float32",
        }

    @classmethod
    def from_hf(cls, values: Mapping[str, Any]) -> "DecoderConfig":
        """Read what `config.json` holds. Raises ModelError on an architecture or a feature that we do not have."""
        kind = values.get("model_type")
        if kind not in ARCHITECTURES:
            raise ModelError(f"config.json has model_type={kind!r}; dunwu reads {' and '.join(ARCHITECTURES)}")
        _refuse_unsupported(values)
        missing = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"} - set(
            values
        )
        if missing:
            raise ModelError(
                f"config.json lacks {', '.join(sorted(missing))}; take the file from the model's own folder"
            )
        heads = int(values["num_attention_heads"])
        eos = values.get("eos_token_id")
        return cls(
            architecture=cast("Architecture", kind),
            vocab_size=int(values["vocab_size"]),
            hidden_size=int(values["hidden_size"]),
            intermediate_size=int(values["intermediate_size"]),
            num_hidden_layers=int(values["num_hidden_layers"]),
            num_attention_heads=heads,
            num_key_value_heads=int(values.get("num_key_value_heads") or heads),
            head_dim=int(values.get("head_dim") or (128 if kind == "qwen3" else int(values["hidden_size"]) // heads)),
            max_position_embeddings=int(values.get("max_position_embeddings", 2048)),
            rope_theta=_rope_theta(values),
            rms_norm_eps=float(values.get("rms_norm_eps", 1e-6)),
            tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
            bos_token_id=values.get("bos_token_id"),
            eos_token_id=tuple(eos) if isinstance(eos, list) else eos,
            pad_token_id=values.get("pad_token_id"),
        )


def _require_count(name: str, value: int) -> None:
    if value < 1:
        raise ModelError(f"model.{name}={value} must be at least 1")


def _rope_theta(values: Mapping[str, Any]) -> float:
    parameters = values.get("rope_parameters") or {}
    return float(parameters.get("rope_theta") or values.get("rope_theta") or 10_000.0)


def _refuse_unsupported(values: Mapping[str, Any]) -> None:
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    refused = {
        "hidden_act": values.get("hidden_act", "silu") != "silu",
        "attention_bias": bool(values.get("attention_bias")),
        "mlp_bias": bool(values.get("mlp_bias")),
        "use_sliding_window": bool(values.get("use_sliding_window")),
        "rope type": rope_type != "default",
    }
    for name, is_refused in refused.items():
        if is_refused:
            shown = rope_type if name == "rope type" else values.get(name)
            raise ModelError(f"config.json has {name}={shown!r}, which dunwu does not have; choose a model without it")
