"""A GGUF header's tokenizer as `tokenizer.json`, `tokenizer_config.json` and the chat template."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from dunwu.core.errors import TokenizerError
from dunwu.model.gguf.patterns import rules_named
from dunwu.model.gguf.vocabulary import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED

Spec = dict[str, Any]
T = TypeVar("T")


def tokenizer_files(metadata: Mapping[str, Any], tokens: list[str], *, rules: Mapping[str, str]) -> tuple[Spec, Spec]:
    """`tokenizer.json` and `tokenizer_config.json`; `rules` are cutting rules by the names that stand for them beyond the known.

    Raises TokenizerError for a kind of tokenizer that we do not read.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        spec = _byte_level(metadata, tokens, rules)
    elif kind == "llama":
        spec = _sentencepiece(metadata, tokens)
    else:
        raise TokenizerError(
            f"the GGUF file has a tokenizer of the kind {kind!r}; dunwu reads 'gpt2' (byte-level BPE) and 'llama' "
            "(SentencePiece): take the model from its Hugging Face folder"
        )
    spec["added_tokens"] = _added(metadata, tokens)
    config = _config(metadata, tokens)
    if metadata.get("tokenizer.ggml.add_bos_token", kind == "llama") and config["bos_token"]:
        spec["post_processor"] = _start_with(config["bos_token"], metadata["tokenizer.ggml.bos_token_id"])
    return spec, config


def _listed(metadata: Mapping[str, Any], key: str, kind: type[T]) -> list[T]:
    values = metadata.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise TokenizerError(f"the GGUF key {key} is no list of {kind.__name__}; the file is damaged")
    return values


def _types(metadata: Mapping[str, Any], tokens: list[str]) -> list[int]:
    types = _listed(metadata, "tokenizer.ggml.token_type", int) or [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise TokenizerError(f"the GGUF file has {len(tokens)} tokens and {len(types)} types of them; it is damaged")
    return types


def _vocabulary(metadata: Mapping[str, Any], tokens: list[str], *, without: tuple[int, ...]) -> dict[str, int]:
    types = _types(metadata, tokens)
    vocabulary: dict[str, int] = {}
    for number, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind not in without and vocabulary.setdefault(token, number) != number:
            raise TokenizerError(f"the GGUF file has the token {token!r} twice: {vocabulary[token]} and {number}")
    return vocabulary


def _added(metadata: Mapping[str, Any], tokens: list[str]) -> list[Spec]:
    return [
        {
            "id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": kind != USER_DEFINED,
        }
        for number, (token, kind) in enumerate(zip(tokens, _types(metadata, tokens), strict=True))
        if kind in (CONTROL, USER_DEFINED, UNKNOWN)
    ]  # fmt: skip


def _spec(model: Spec, normalizer: Spec | None, pre_tokenizer: Spec | None, decoder: Spec) -> Spec:
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": None, "decoder": decoder, "model": model,
    }  # fmt: skip


def _bpe(vocabulary: dict[str, int], merges: list[list[str]], **options: Any) -> Spec:
    return {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocabulary, "merges": merges,
    } | options  # fmt: skip


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], rules: Mapping[str, str]) -> Spec:
    name = str(metadata.get("tokenizer.ggml.pre"))
    known = ((rules[name],), False) if name in rules else rules_named(name)
    if known is None:
        raise TokenizerError(
            f"the GGUF file's tokenizer cuts text by llama.cpp's rule {name!r}, which dunwu does not know; take the tokenizer "
            "from the model's Hugging Face folder"
        )
    cuts, ignore_merges = known
    merges = [merge.split(" ", 1) for merge in _listed(metadata, "tokenizer.ggml.merges", str)]
    if any(len(merge) != 2 for merge in merges):
        raise TokenizerError("a merge in the GGUF file is not two tokens with a space between; the file is damaged")
    split = [{"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": False} for cut in cuts]
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return _spec(
        _bpe(_vocabulary(metadata, tokens, without=(UNUSED,)), merges, ignore_merges=ignore_merges),
        None,
        {"type": "Sequence", "pretokenizers": [*split, to_bytes]},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    )


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str]) -> Spec:
    vocabulary = _vocabulary(metadata, tokens, without=(UNUSED,))
    types = _types(metadata, tokens)
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    has_bytes = BYTE in types
    prefix = [{"type": "Prepend", "prepend": SPACE}] if metadata.get("tokenizer.ggml.add_space_prefix", True) else []
    to_marks = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    decoders: list[Spec] = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}]
    decoders += [{"type": "ByteFallback"}] if has_bytes else []
    decoders += [{"type": "Fuse"}]
    decoders += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    merges = _merges(vocabulary, _listed(metadata, "tokenizer.ggml.scores", float), types)
    return _spec(
        _bpe(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=has_bytes),
        {"type": "Sequence", "normalizers": [*prefix, to_marks]},
        None,
        {"type": "Sequence", "decoders": decoders},
    )


def _merges(vocabulary: Mapping[str, int], scores: Sequence[float], types: Sequence[int]) -> list[list[str]]:
    """Every pair of tokens that makes a token, the best score first: SentencePiece's order as a list of merges."""
    if len(scores) != len(types):
        raise TokenizerError(f"the GGUF file has {len(types)} tokens and {len(scores)} scores; it is damaged")
    found: list[tuple[float, int, int, list[str]]] = []
    for token, number in vocabulary.items():
        if types[number] not in (BYTE, CONTROL, UNKNOWN, USER_DEFINED):
            for place in range(1, len(token)):
                left, right = token[:place], token[place:]
                if left in vocabulary and right in vocabulary:
                    found.append((-scores[number], number, place, [left, right]))
    return [pair for _, _, _, pair in sorted(found)]


def _start_with(token: str, number: int) -> Spec:
    first = {"SpecialToken": {"id": token, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    other = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, first, other],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }


def _config(metadata: Mapping[str, Any], tokens: list[str]) -> Spec:
    def token(name: str) -> str | None:
        number = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if number is None:
            return None
        if not isinstance(number, int) or not 0 <= number < len(tokens):
            raise TokenizerError(
                f"the GGUF file has {name}_token_id={number!r} and {len(tokens)} tokens; it is damaged"
            )
        return tokens[number]

    config: Spec = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "unk_token": token("unknown"),
        "pad_token": token("padding"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata.get(f"{metadata.get('general.architecture')}.context_length", 1_000_000_000),
    }
    if metadata.get("tokenizer.chat_template"):
        config["chat_template"] = metadata["tokenizer.chat_template"]
    return config
