"""A tokenizer as keys of a GGUF header: `tokenizer.json` and what stands beside it, in llama.cpp's form.

Two kinds: "gpt2", a byte-level BPE with its merges, and "llama", SentencePiece's, whose merges go by score. A tokenizer.json of
the second kind has merges in place of scores; a token's score is minus the place of the first merge that makes it, which
orders merges as the list does.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dunwu.core.errors import ModelError, TokenizerError
from dunwu.core.modelfiles import GENERATION_TAG
from dunwu.model.folder import file_of, read_settings
from dunwu.model.gguf.container import Value
from dunwu.model.gguf.patterns import name_of, rules_of

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.h: enum llama_token_type
SPACE = "▁"  # SentencePiece's mark for a space
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_GENERATION = re.compile(GENERATION_TAG)
_NEVER = -1e9  # the score of a token that no merge makes


@dataclass(frozen=True)
class TokenizerFiles:
    """What a model's folder says about its tokenizer: the files as they were parsed."""

    spec: Mapping[str, Any]
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    template: str | None

    @classmethod
    def read(cls, folder: Path) -> "TokenizerFiles":
        """Raises TokenizerError where there is no tokenizer.json, ModelError where a file is damaged."""
        spec = read_settings(folder, "tokenizer.json")
        if spec is None or not isinstance(spec.get("model"), dict):
            raise TokenizerError(
                f"{folder / 'tokenizer.json'} is missing or has no model; a GGUF file carries its tokenizer: put the file there"
            )
        config = read_settings(folder, "tokenizer_config.json") or {}
        return cls(spec, config, read_settings(folder, "generation_config.json") or {}, _template(folder, config))


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    path = file_of(folder, "chat_template.jinja")
    if path.exists():
        return path.read_text("utf-8")
    older = read_settings(folder, "chat_template.json") or {}
    template = older.get("chat_template") or config.get("chat_template")
    if isinstance(template, list):  # several by name, of which "default" is for chat
        template = next((one["template"] for one in template if one.get("name") == "default"), None)
    return template


def key_values(files: TokenizerFiles, vocab_size: int, *, rules: Mapping[str, str]) -> dict[str, Value]:
    """The keys of a tokenizer for a model of `vocab_size` ids; `rules` are names of cutting rules beyond the known ones.

    Raises TokenizerError for a tokenizer that llama.cpp could not apply with the same ids.
    """
    spec = files.spec
    if spec["model"].get("type") != "BPE":
        raise TokenizerError(
            f"tokenizer.json is a {spec['model'].get('type')!r}; a GGUF file can carry BPE only: export to Hugging Face"
        )
    tokens, types = _tokens(spec, vocab_size)
    keys = _byte_level(spec, rules) if _is_byte_level(spec) else _sentencepiece(spec, tokens, types)
    keys |= {
        "tokenizer.ggml.tokens": Value("str", tokens),
        "tokenizer.ggml.token_type": Value("i32", types),
        **_special_ids(files),
    }
    if files.template:
        keys["tokenizer.chat_template"] = Value("str", without_generation(files.template))
    return keys


def without_generation(template: str) -> str:
    """The template without Hugging Face's `{% generation %}` markers, which other engines cannot parse: the same text."""

    def plain(found: re.Match[str]) -> str:
        word = "endif" if found[2] else "if true"
        return f"{{%{found[1]} {word} {found[3]}%}}"

    return _GENERATION.sub(plain, template)


def _is_byte_level(spec: Mapping[str, Any]) -> bool:
    step = spec.get("pre_tokenizer") or {}
    return any(one.get("type") == "ByteLevel" for one in (step.get("pretokenizers") or [step]))


def _tokens(spec: Mapping[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    """Token and type of each id. Ids that stand for nothing are named as llama.cpp's converter names them."""
    vocabulary: Mapping[str, int] = spec["model"]["vocab"]
    added: Sequence[Mapping[str, Any]] = spec.get("added_tokens") or []
    largest = max([*vocabulary.values(), *(token["id"] for token in added)], default=-1)
    if largest >= vocab_size:
        raise TokenizerError(
            f"tokenizer.json has the id {largest} and the model {vocab_size} ids; take both from the same folder"
        )
    tokens = [f"[PAD{number}]" for number in range(vocab_size)]
    types = [UNUSED] * vocab_size
    unknown = spec["model"].get("unk_token")
    byte_fallback = bool(spec["model"].get("byte_fallback"))
    for token, number in vocabulary.items():
        is_byte = byte_fallback and _BYTE_TOKEN.fullmatch(token)
        tokens[number], types[number] = token, BYTE if is_byte else UNKNOWN if token == unknown else NORMAL
    for token in added:
        number, text = token["id"], token["content"]
        if types[number] in (UNKNOWN, BYTE):
            continue
        is_control = token.get("special") or _looks_special(text)
        types[number] = CONTROL if is_control else USER_DEFINED
        tokens[number] = text if is_control else text.replace(SPACE, " ")
    return tokens, types


def _looks_special(token: str) -> bool:
    """Some published tokenizers forget to mark these; llama.cpp's converter takes them for control tokens as well."""
    return (
        token in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (token.startswith("<|") and token.endswith("|>"))
        or (token.startswith("<｜") and token.endswith("｜>"))
        or (token.startswith("<unused") and token.endswith(">"))
    )


def _byte_level(spec: Mapping[str, Any], rules: Mapping[str, str]) -> dict[str, Value]:
    cuts = rules_of(spec.get("pre_tokenizer"))
    name = name_of(spec) or (rules.get(cuts[0]) if len(cuts) == 1 else None)
    if name is None:
        raise TokenizerError(
            f"tokenizer.json cuts text by {' then '.join(cuts) or 'nothing'!r}, which is none of the rules that llama.cpp knows; "
            "in GGUF the model would get other tokens than it learned. Export to Hugging Face instead: --to hf"
        )
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in spec["model"].get("merges", ())]
    return {
        "tokenizer.ggml.model": Value("str", "gpt2"),
        "tokenizer.ggml.pre": Value("str", name),
        "tokenizer.ggml.merges": Value("str", merges),
    }


def _sentencepiece(spec: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> dict[str, Value]:
    """Raises TokenizerError where the tokenizer.json does not say what SentencePiece does."""
    if not spec["model"].get("byte_fallback"):
        raise TokenizerError(
            "tokenizer.json is a BPE over neither bytes nor SentencePiece's pieces; a GGUF file cannot carry it: export to "
            "Hugging Face instead: --to hf"
        )
    score: dict[str, float] = {}
    for place, merge in enumerate(spec["model"].get("merges", ())):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        score.setdefault(left + right, -float(place + 1))
    scores = [
        0.0 if kind in (BYTE, UNKNOWN, CONTROL) or len(token) == 1 else score.get(token, _NEVER)
        for token, kind in zip(tokens, types, strict=True)
    ]
    return {
        "tokenizer.ggml.model": Value("str", "llama"),
        "tokenizer.ggml.pre": Value("str", "default"),
        "tokenizer.ggml.scores": Value("f32", scores),
        "tokenizer.ggml.add_space_prefix": Value("bool", _prepends_space(spec)),
    }


def _prepends_space(spec: Mapping[str, Any]) -> bool:
    normaliser = spec.get("normalizer") or {}
    if any(one.get("type") == "Prepend" for one in (normaliser.get("normalizers") or [normaliser])):
        return True
    step = spec.get("pre_tokenizer") or {}
    for one in step.get("pretokenizers") or [step]:
        if one.get("type") == "Metaspace":
            return one.get("prepend_scheme", "always") != "never" and one.get("add_prefix_space", True)
    return False


def _special_ids(files: TokenizerFiles) -> dict[str, Value]:
    number_of = {token["content"]: token["id"] for token in files.spec.get("added_tokens") or []}
    number_of = {**files.spec["model"]["vocab"], **number_of}
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    keys: dict[str, Value] = {}
    for theirs, ours in names.items():
        token = files.config.get(theirs)
        text = token.get("content") if isinstance(token, dict) else token
        if text in number_of:
            keys[f"tokenizer.ggml.{ours}_token_id"] = Value("u32", number_of[text])
    eos = keys.get("tokenizer.ggml.eos_token_id")
    for number in _ids(files.generation.get("eos_token_id")):
        if eos is None:
            eos = keys["tokenizer.ggml.eos_token_id"] = Value("u32", number)
        elif number != eos.value:
            keys.setdefault("tokenizer.ggml.eot_token_id", Value("u32", number))
    before, after = added_around(files.spec)
    keys["tokenizer.ggml.add_bos_token"] = Value("bool", before)
    keys["tokenizer.ggml.add_eos_token"] = Value("bool", after)
    return keys


def _ids(value: Any) -> Iterable[int]:
    return value if isinstance(value, list) else () if value is None else (value,)


def added_around(spec: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether a special token is put before a text, and after it: what the post-processor says."""
    processor = spec.get("post_processor") or {}
    for one in processor.get("processors") or [processor]:
        if one.get("type") == "TemplateProcessing":
            kinds = ["Sequence" in piece for piece in one.get("single", ())]
            return not kinds[0], not kinds[-1]
    return False, False


def require_tokens(metadata: Mapping[str, Any], path: Path) -> list[str]:
    """The tokens of a file. Raises ModelError where it has none."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], str):
        raise ModelError(f"{path} carries no tokenizer; take a GGUF file that does")
    return tokens
