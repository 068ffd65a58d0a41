"""The tokenizer of a folder: ours where the file is ours, otherwise an open model's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dunwu.core.errors import TokenizerError
from dunwu.tokenizer.bpe import SPECIAL_TOKENS, Tokenizer
from dunwu.tokenizer.open import OpenTokenizer, optional_json, read_templates
from dunwu.tokenizer.template import CHAT_TEMPLATE

_SLOW_FILES = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt", "tiktoken.model")


def load_tokenizer(folder: Path | str) -> Tokenizer | OpenTokenizer:
    """Read `folder/tokenizer.json` and what stands beside it. No code of the folder is run.

    Raises TokenizerError when it is missing, damaged, or lacks the end-of-text ids that the model's configuration names.
    """
    folder = Path(folder)
    if not (folder / "tokenizer.json").is_file():
        raise TokenizerError(_what_is_missing(folder))
    spec, config = optional_json(folder / "tokenizer.json"), optional_json(folder / "tokenizer_config.json")
    tokenizer = Tokenizer.load(folder) if _is_ours(spec, read_templates(folder, config)) else OpenTokenizer.load(folder)
    _require_named_ids(tokenizer, folder)
    return tokenizer


def _is_ours(spec: Mapping[str, Any], templates: Mapping[str, str]) -> bool:
    """Our special tokens and nothing else, with the first ids, and no other chat template than ours."""
    try:
        added = [(token["id"], token["content"]) for token in spec["added_tokens"]]
    except (KeyError, TypeError):
        return False
    return added == list(enumerate(SPECIAL_TOKENS)) and set(templates.items()) <= {("default", CHAT_TEMPLATE)}


def _what_is_missing(folder: Path) -> str:
    path = folder / "tokenizer.json"
    if not folder.is_dir():
        return f"{folder} does not exist; give the folder that holds a model or a tokenizer"
    config = optional_json(folder / "tokenizer_config.json")
    if config.get("auto_map"):
        return (
            f"{path} does not exist, and tokenizer_config.json asks to run the model's own code (auto_map), "
            "which dunwu never does; take a version of the model with a tokenizer.json"
        )
    found = next((name for name in _SLOW_FILES if (folder / name).is_file()), None)
    if found:
        return (
            f"{path} does not exist, only {found}, which dunwu does not read; make one with transformers: "
            f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )
    return f"{path} does not exist; give the folder that holds a model or a tokenizer"


def _require_named_ids(tokenizer: Tokenizer | OpenTokenizer, folder: Path) -> None:
    value = optional_json(folder / "config.json").get("eos_token_id")
    unused = set(tokenizer.unused_ids)
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, int) and not (0 <= number < tokenizer.vocab_size and number not in unused):
            raise TokenizerError(
                f"config.json in {folder} says that id {number} ends a text, and the tokenizer beside it has "
                f"{tokenizer.vocab_size} ids without that one; take both files from the same model"
            )
