"""llama.cpp's names for the rules by which text is cut before merges (`tokenizer.ggml.pre`), told from a tokenizer.json.

llama.cpp knows a closed list (src/llama-vocab.cpp) and holds each rule by hand; a tokenizer that cuts in another way gets other
ids there, silently. So a rule that is not on the list is refused rather than guessed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_AFTER = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED_CONTRACTIONS = rf"{_CONTRACTIONS}?"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"


def _by_case(digits: str, ending: str) -> str:
    """GPT-4o's rule: words are cut where lower case turns to upper."""
    return (
        rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+{ending}|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*{ending}"
        rf"|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_AFTER}"
QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_AFTER}"
GPT4O = _by_case(r"\p{N}{1,3}", _CASED_CONTRACTIONS)
TEKKEN = _by_case(r"\p{N}", "")
DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)

NAMES: Mapping[tuple[tuple[str, ...], bool], str] = {
    ((GPT2,), False): "gpt-2",
    ((r"\p{N}", GPT2), False): "smollm",
    ((QWEN2,), False): "qwen2",
    ((QWEN35,), False): "qwen35",
    ((LLAMA3,), False): "smaug-bpe",
    ((LLAMA3,), True): "llama-bpe",
    ((GPT4O,), False): "gpt-4o",
    ((TEKKEN,), True): "tekken",
    (DEEPSEEK3, False): "deepseek-v3",
}
"""Rules in order, and whether a whole word that is in the vocabulary is taken without merging."""


def rules_of(pre_tokenizer: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The regular expressions of a tokenizer.json's `pre_tokenizer`, in order; what we cannot read stands by its type."""
    steps: Sequence[Mapping[str, Any]] = (
        () if not pre_tokenizer else pre_tokenizer.get("pretokenizers") or (pre_tokenizer,)
    )
    rules: list[str] = []
    for step in steps:
        match step:
            case {"type": "Split", "pattern": {"Regex": str(rule)}, "behavior": "Isolated"} if not step.get("invert"):
                rules.append(rule)
            case {"type": "Split", "pattern": {"Regex": str(rule)}, "behavior": "Removed", "invert": True}:
                rules.append(rule)  # what matches is kept: the same cuts, as these rules match everything
            case {"type": "Digits", "individual_digits": True}:
                rules.append(r"\p{N}")
            case {"type": "ByteLevel"}:
                if step.get("use_regex", True):
                    rules.append(GPT2)
            case _:
                rules.append(f"<{step.get('type')}>")
    return tuple(rules)


def name_of(spec: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for how this tokenizer.json cuts text, or None where it has none."""
    ignore_merges = bool(spec.get("model", {}).get("ignore_merges"))
    rules = rules_of(spec.get("pre_tokenizer"))
    return NAMES.get((rules, ignore_merges))


def rules_named(name: str) -> tuple[tuple[str, ...], bool] | None:
    """The rules that llama.cpp holds under `name` or one of its other names, and whether whole words skip merging."""
    name = _ALIASES.get(name, name)
    return next((rules for rules, known in NAMES.items() if known == name), None)


_ALIASES: Mapping[str, str] = {
    "llama3": "llama-bpe", "llama-v3": "llama-bpe", "falcon3": "llama-bpe", "dbrx": "smaug-bpe", "chatglm-bpe": "smaug-bpe",
    "glm4": "smaug-bpe", "deepseek-r1-qwen": "qwen2", "phi-2": "gpt-2", "olmo": "gpt-2", "llama4": "gpt-4o",
    "stablelm2": "qwen2", "starcoder": "smollm",
}  # fmt: skip
