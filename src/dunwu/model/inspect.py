"""What a model is, from `config.json` alone; what its weights, tokenizer and papers add where they lie beside it.

Nothing is loaded: of weights the headers are read. What the files say of themselves is untrusted text.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dunwu.core.errors import ModelError
from dunwu.model.config import DecoderConfig
from dunwu.model.count import active_parameters, kv_bytes_per_token, parameters
from dunwu.model.families import family_of
from dunwu.model.folder import INDEX, WEIGHTS, config_values, file_of, read_settings
from dunwu.model.hub import StoredWeights, load_config, require_vocabulary

BITS = {"float32": 32.0, "bfloat16": 16.0, "int8": 8.5, "int4": 4.5}
"""Bits of a number in a matrix. The integers are in blocks of 32 with a 16-bit scale each, as GGUF's Q8_0 and Q4_0."""
CONTEXTS = (1024, 4096, 16_384, 65_536, 262_144, 1_048_576)
_NAMED_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
_LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "LICENCE.md")
_PAPER_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The weights on disk."""

    files: int
    bytes: int
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What the tokenizer's files say. `special`: name of the role to the token's text; `template`: the file that holds it."""

    kind: str | None
    size: int | None
    special: Mapping[str, str]
    template: str | None


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """All that `dunwu inspect` shows. `memory_bytes` by dtype: the weights alone; `cache_bytes` by context length: keys and
    values of one sequence in bfloat16. `problems`: what would keep dunwu from using the folder."""

    folder: str
    architecture: str
    class_name: str
    shape: Mapping[str, Any]
    parameters: int
    active_parameters: int
    embedding_parameters: int
    context_length: int
    original_context_length: int | None
    rope: str | None
    sliding_window: int | None
    memory_bytes: Mapping[str, int]
    cache_bytes: Mapping[int, int]
    stored: Stored | None
    vocabulary: Vocabulary
    licence: str | None
    name: str | None
    instruction_tuned: bool | None
    source: str | None
    problems: tuple[str, ...]

    @property
    def embedding_share(self) -> float:
        """The part of all parameters that are embeddings and head."""
        return self.embedding_parameters / self.parameters


def inspect_model(folder: Path) -> ModelFacts:
    """Look at a folder. Raises ModelError when `config.json` is missing, damaged or of an architecture that we do not have."""
    config = load_config(folder)
    stored, problems = _stored(folder, config)
    vocabulary, added_ids = _vocabulary(folder)
    about = read_settings(folder, "dunwu.json") or {}
    scaling = config.rope_scaling
    total = parameters(config)
    heads = 1 if config.tie_word_embeddings else 2
    return ModelFacts(
        folder=str(folder),
        architecture=config.architecture,
        class_name=family_of(config.architecture).class_name,
        shape=_shape(config),
        parameters=total,
        active_parameters=active_parameters(config),
        embedding_parameters=heads * config.vocab_size * config.hidden_size,
        context_length=config.max_position_embeddings,
        original_context_length=scaling.original_max_position_embeddings if scaling else None,
        rope=f"{scaling.kind}, {scaling.factor:g} times" if scaling else None,
        sliding_window=config.sliding_window if config.sliding_layers else None,
        memory_bytes=_memory(config),
        cache_bytes=_cache(config),
        stored=stored,
        vocabulary=vocabulary,
        licence=_licence(folder) or _text(about.get("licence")),
        name=_text(about.get("name")),
        instruction_tuned=about.get("instruction_tuned") if isinstance(about.get("instruction_tuned"), bool) else None,
        source=_source(about),
        problems=(*problems, *_vocabulary_problems(config, vocabulary, added_ids, folder), *_config_problems(folder)),
    )


def _shape(config: DecoderConfig) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "key_value_heads": config.num_key_value_heads,
        "head_channels": config.head_dim,
        "mlp_width": config.intermediate_size,
        "vocabulary": config.vocab_size,
        "tied_head": config.tie_word_embeddings,
    }
    if config.experts is not None:
        shape |= {
            "experts": config.experts.count,
            "experts_per_token": config.experts.per_token,
            "expert_width": config.experts.intermediate_size,
            "shared_expert_width": config.experts.shared_intermediate_size,
        }
    if config.latent is not None:
        shape |= {"latent_channels": config.latent.kv_rank + config.latent.rope_dim}
    return shape


def _memory(config: DecoderConfig) -> dict[str, int]:
    """Matrices in each dtype; what is no matrix (norms, biases) stays in float32 beside integers."""
    sizes = [tensor.shape for tensor in family_of(config.architecture).stored(config)]
    matrices = sum(math.prod(shape) for shape in sizes if len(shape) > 1)
    rest = sum(math.prod(shape) for shape in sizes if len(shape) < 2)
    return {
        name: math.ceil(matrices * bits / 8) + rest * (2 if name == "bfloat16" else 4) for name, bits in BITS.items()
    }


def _cache(config: DecoderConfig) -> dict[int, int]:
    lengths = [length for length in CONTEXTS if length < config.max_position_embeddings]
    a_token = kv_bytes_per_token(config, dtype_bytes=2)
    return {length: length * a_token for length in (*lengths, config.max_position_embeddings)}


def _stored(folder: Path, config: DecoderConfig) -> tuple[Stored | None, list[str]]:
    if not any(file_of(folder, name).exists() for name in (WEIGHTS, INDEX)):
        return None, []
    try:
        weights = StoredWeights(folder, config)
    except ModelError as error:
        return None, [str(error)]
    dtype = str(weights.dtype).removeprefix("torch.")
    return Stored(files=weights.files, bytes=weights.bytes, dtype=dtype), []


def _vocabulary(folder: Path) -> tuple[Vocabulary, set[int]]:
    """What the files say, and the ids of added tokens."""
    spec = read_settings(folder, "tokenizer.json") or {}
    settings = read_settings(folder, "tokenizer_config.json") or {}
    named = (read_settings(folder, "special_tokens_map.json") or {}) | settings
    model = spec.get("model")
    added = {token.get("id", -1) for token in spec.get("added_tokens") or () if isinstance(token, Mapping)}
    size = None
    if isinstance(model, Mapping):
        pieces = model.get("vocab") or ()
        ids = pieces.values() if isinstance(pieces, Mapping) else range(len(pieces))
        size = 1 + max((number for number in (*ids, *added) if isinstance(number, int)), default=-1)
    special = {role: _token_text(named.get(role)) for role in _NAMED_TOKENS}
    vocabulary = Vocabulary(
        kind=_text(model.get("type")) if isinstance(model, Mapping) else None,
        size=size,
        special={role: text for role, text in special.items() if text is not None},
        template=_template(folder, settings),
    )
    return vocabulary, added


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    for name in ("chat_template.jinja", "chat_template.json"):
        if file_of(folder, name).exists():
            return name
    return "tokenizer_config.json" if settings.get("chat_template") else None


def _token_text(value: Any) -> str | None:
    return _text(value.get("content") if isinstance(value, Mapping) else value)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _vocabulary_problems(config: DecoderConfig, vocabulary: Vocabulary, added_ids: set[int], folder: Path) -> list[str]:
    if vocabulary.size is None:
        return ["there is no tokenizer.json, so that text cannot be read or written"]
    try:
        require_vocabulary(config, vocabulary.size, added_ids, folder)
    except ModelError as error:
        return [str(error)]
    return []


def _config_problems(folder: Path) -> list[str]:
    quantised = config_values(folder).get("quantization_config")
    if not quantised:
        return []
    method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
    return [f"the weights are quantised ({method}), and dunwu reads float32, float16 and bfloat16"]


def _licence(folder: Path) -> str | None:
    """What the model card's header says, else the first line of the licence itself."""
    card = _head(folder, "README.md")
    header = card.removeprefix("---\n").partition("\n---")[0] if card.startswith("---\n") else ""
    said = dict(line.split(":", 1) for line in header.splitlines() if line.startswith("license") and ":" in line)
    stated = {key.strip(): value.strip().strip("'\"") for key, value in said.items()}
    if stated.get("license"):
        more = [stated[key] for key in ("license_name", "license_link") if stated.get(key)]
        return stated["license"] + (f" ({', '.join(more)})" if more else "")
    for name in _LICENCE_FILES:
        lines = [line.strip(" #*\t") for line in _head(folder, name).splitlines()]
        if first := next(filter(None, lines), None):
            return first[:120]
    return None


def _head(folder: Path, name: str) -> str:
    path = file_of(folder, name)
    if not path.exists():
        return ""
    with path.open("rb") as file:
        return file.read(_PAPER_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")


def _source(about: Mapping[str, Any]) -> str | None:
    lineage = about.get("lineage")
    imported = lineage.get("imported") if isinstance(lineage, Mapping) else None
    return _text(imported.get("source")) if isinstance(imported, Mapping) else None
