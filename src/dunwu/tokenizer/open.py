"""The tokenizer of an open model, of any kind that `tokenizer.json` can hold, with the ids that transformers gives.

Text that somebody typed must not become a control token. Telling the library to leave special tokens alone is not enough: it
still parses added tokens that are not called special (DeepSeek's `<｜User｜>`, Qwen's `<tool_call>`), and a Unigram vocabulary
holds `<s>` as an ordinary piece. So we read the file with each control token renamed to a string that nobody can type; the
chat template's own tokens are translated into these names, and all the rest is text.
"""

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers

from dunwu.core.errors import DataError, TokenizerError
from dunwu.core.files import read_json
from dunwu.tokenizer.like import Ids
from dunwu.tokenizer.spelling import byte_of_character, well_formed

# What closes a turn, as published templates have it. Only those of the model's own vocabulary count.
TURN_ENDS = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<turn|>", "<|return|>", "<|call|>",
    "<|EOT|>", "<|endofturn|>", "<|end_of_turn|>", "<|end_of_role|>",
)  # fmt: skip
# What closes a document in pre-training, where the tokenizer's own `eos_token` is one of TURN_ENDS.
TEXT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "<|end▁of▁sentence|>", "<｜end▁of▁sentence｜>", "</s>", "<eos>")
LONG_CHARACTERS = 10_000
"""From here on the library reads a text as a batch of one: only with batches does it let other threads run meanwhile."""
_CONTROL_SHAPE = re.compile(r"<[|｜].+[|｜]>", re.DOTALL)
_BRACKETED = re.compile(r"[<\[].+[>\]]", re.DOTALL)
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Encoded(NamedTuple):
    """Ids, [T], and where in the text the characters of each begin and end."""

    ids: list[int]
    spans: list[tuple[int, int]]


class OpenTokenizer:
    """Text ↔ ids by Hugging Face's `tokenizers`, as `tokenizer.json` says.

    transformers 5 reads no more than the vocabulary of that file for the class LlamaTokenizer (Llama 2), and then opens a text
    after `<s>`, or one that begins with a space, without the space that sentencepiece and the file put there; we follow the file.
    `decode` is the library's own, without `clean_up_tokenization_spaces`: that old switch of transformers loses spaces.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "tokenizer.json"
        self._config = optional_json(folder / "tokenizer_config.json")
        spec = complete_spec(_json_object(path), self._config, path)
        self._backend = _backend(spec, path)
        self.templates = read_templates(folder, self._config)
        names = [token["content"] for token in spec["added_tokens"]]
        ids = ((name, self._backend.token_to_id(name)) for name in names)
        self._added: dict[str, int] = {name: number for name, number in ids if number is not None}
        self.special_ids: dict[str, int] = {
            token["content"]: self._added[token["content"]]
            for token in spec["added_tokens"]
            if token.get("special") and token["content"] in self._added
        }
        self.control_ids: dict[str, int] = {
            name: number for name, number in self._added.items() if self._is_control(name)
        }
        self._named = _named_tokens(self._config, optional_json(folder / "special_tokens_map.json"))
        self._read_vocabulary(path)
        self.eos_id = self._read_eos(path)
        self.start_ids: tuple[int, ...] = self._read_start()
        self.stop_ids: tuple[int, ...] = self._read_stops()
        self.spells_bytes = _decoder_kinds(spec) == {"ByteLevel"}
        self._byte_fallback = bool(spec["model"].get("byte_fallback"))
        self._metaspace = "▁" in json.dumps([spec.get("decoder"), spec.get("normalizer")], ensure_ascii=False)
        self._typed, self._hidden, self._true_ids = _without_control(spec, self.control_ids, self._added, path)

    def __reduce__(self) -> tuple[Any, ...]:
        return (OpenTokenizer, (self.folder,))

    @classmethod
    def load(cls, folder: Path | str) -> "OpenTokenizer":
        """Read a folder with `tokenizer.json` and what may stand beside it. Raises TokenizerError when it cannot be used."""
        return cls(Path(folder))

    @property
    def chat_template(self) -> str | None:
        return self.templates.get("default")

    def template_for(self, *, tools: bool) -> str | None:
        """The template for a conversation; models that have one of their own for tools name it "tool_use"."""
        return self.templates.get("tool_use", self.chat_template) if tools else self.chat_template

    @property
    def template_tokens(self) -> Mapping[str, str]:
        """What templates call `bos_token`, `eos_token` and so on."""
        return self._named

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """Finds names of control tokens, the longest first, as the library does."""
        names = sorted(self.control_ids, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def is_markup(self, name: str) -> bool:
        """Whether the model itself may write this control token within an answer, as `<think>` and `<tool_call>`."""
        return name not in self.special_ids and not _CONTROL_SHAPE.fullmatch(name)

    def hidden(self, name: str) -> str:
        """The name under which `encode_spans` knows a control token."""
        return self._hidden[name]

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without anything before or after; names of control tokens are plain text."""
        if len(text) < LONG_CHARACTERS:
            return self._translate(self._typed.encode(well_formed(text), add_special_tokens=False).ids)
        return self._translate(self._typed.encode_batch_fast([well_formed(text)], add_special_tokens=False)[0].ids)

    def encode_array(self, text: str) -> Ids:
        """The ids of `text`, [T] int32."""
        return np.array(self.encode(text), dtype=np.int32)

    def encode_batch(self, texts: Sequence[str], *, threads: int = 1) -> list[Ids]:
        """The ids of each text, int32. With `threads` > 1 the library encodes several at a time, on the cores it finds."""
        if threads <= 1 or len(texts) <= 1:
            return [self.encode_array(text) for text in texts]
        encodings = self._typed.encode_batch_fast([well_formed(text) for text in texts], add_special_tokens=False)
        return [np.array(self._translate(encoding.ids), dtype=np.int32) for encoding in encodings]

    def encode_spans(self, text: str) -> Encoded:
        """The ids of a text in which control tokens are written as `hidden`, and which characters each came from."""
        if len(text) < LONG_CHARACTERS:
            encoding = self._typed.encode(well_formed(text), add_special_tokens=False)
        else:
            encoding = self._typed.encode_batch([well_formed(text)], add_special_tokens=False)[0]
        return Encoded(self._translate(encoding.ids), encoding.offsets)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The library's text of `ids`. Raises TokenizerError for ids out of range; `unused_ids` are left out."""
        numbers = [int(number) for number in ids]
        if wrong := next((number for number in numbers if not 0 <= number < self.vocab_size), None):
            self._require_known(wrong)
        if len(numbers) < LONG_CHARACTERS:
            return self._backend.decode(numbers, skip_special_tokens=skip_special)
        return self._backend.decode_batch([numbers], skip_special_tokens=skip_special)[0]

    def id_bytes(self, number: int) -> bytes:
        """The bytes that an id stands for; an added token stands for its name. Raises TokenizerError out of range."""
        self._require_known(number)
        token = self._backend.id_to_token(number)
        if token is None:
            return b""
        if self.spells_bytes:
            return token_bytes(token)
        if token in self._added:
            return token.encode()
        if self._byte_fallback and (found := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(found[1], 16)])
        return (token.replace("▁", " ") if self._metaspace else token).encode()

    def is_byte(self, number: int) -> bool:
        """Whether an id is one raw byte, which may be a part of a character."""
        token = self._backend.id_to_token(number)
        return self._byte_fallback and token is not None and _BYTE_TOKEN.fullmatch(token) is not None

    def bytes_per_token(self, texts: Iterable[str]) -> float:
        """UTF-8 bytes of `texts` divided by their tokens; 0.0 for no tokens."""
        size = count = 0
        for text in texts:
            size += len(well_formed(text).encode())
            count += len(self.encode(text))
        return size / count if count else 0.0

    def _translate(self, ids: list[int]) -> list[int]:
        if not self._true_ids:
            return ids
        return [self._true_ids.get(number, number) for number in ids]

    def _require_known(self, number: int) -> None:
        if not 0 <= number < self.vocab_size:
            raise TokenizerError(
                f"id {number} is outside this vocabulary of {self.vocab_size}; use 0 to {self.vocab_size - 1}"
            )

    def _is_control(self, name: str) -> bool:
        """Special, or shaped like `<|…|>`, or a bracketed name that a chat template writes."""
        if name in self.special_ids or _CONTROL_SHAPE.fullmatch(name):
            return True
        written = _BRACKETED.fullmatch(name) and any(name in template for template in self.templates.values())
        return bool(written)

    def _read_vocabulary(self, path: Path) -> None:
        numbers = set(self._backend.get_vocab(with_added_tokens=True).values())
        if not numbers:
            raise TokenizerError(f"{path} has no vocabulary; fetch it again")
        self.vocab_size = max(numbers) + 1
        names = set(self.control_ids) - {self._named.get("unk_token")}
        self.rows_needed = 1 + max(numbers - {self.control_ids[name] for name in names}, default=-1)
        self.unused_ids = tuple(sorted(set(range(self.vocab_size)) - numbers))

    def _read_eos(self, path: Path) -> int:
        name = self._named.get("eos_token") or self._named.get("sep_token")
        if name in TURN_ENDS or name is None:
            name = next((end for end in TEXT_ENDS if end in self._added), name)
        number = None if name is None else self._backend.token_to_id(name)
        if number is not None:
            return number
        stops = self._configured_stops()
        if stops:
            return stops[-1]
        raise TokenizerError(
            f'{path} and what lies beside it name no end-of-text token; add "eos_token" to tokenizer_config.json'
        )

    def _read_start(self) -> tuple[int, ...]:
        bos = self._named.get("bos_token")
        number = None if bos is None else self._backend.token_to_id(bos)
        wanted = self._config.get("add_bos_token")
        if wanted is not None and number is not None:
            return (number,) if wanted else ()
        encoding = self._backend.encode("a", add_special_tokens=True)
        text = next((place for place, special in enumerate(encoding.special_tokens_mask) if not special), 0)
        return tuple(encoding.ids[:text])

    def _configured_stops(self) -> list[int]:
        stops: list[int] = []
        for name in ("generation_config.json", "config.json"):
            value = optional_json(self.folder / name).get("eos_token_id")
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int) and self._backend.id_to_token(number) is not None:
                    stops.append(number)
        return stops

    def _read_stops(self) -> tuple[int, ...]:
        """From generation_config.json and config.json, the tokenizer's own, and each end of a turn that a template writes."""
        stops = [self.eos_id, *self._configured_stops()]
        if (name := self._named.get("eos_token")) and (number := self._backend.token_to_id(name)) is not None:
            stops.append(number)
        written = "".join(self.templates.values())
        stops += [self._added[end] for end in TURN_ENDS if end in self._added and end in written]
        return tuple(dict.fromkeys(stops))


def token_bytes(token: str) -> bytes:
    """The bytes of a byte-level token; a name that does not spell bytes stands for itself, as in the library."""
    characters = byte_of_character()
    if all(character in characters for character in token):
        return bytes(characters[character] for character in token)
    return token.encode()


def optional_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file. Raises TokenizerError when it is damaged."""
    return _json_object(path) if path.is_file() else {}


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except DataError as error:
        raise TokenizerError(str(error)) from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} holds a {type(value).__name__} where an object is due; fetch it again")
    return value


def complete_spec(spec: dict[str, Any], config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """`tokenizer.json` without cutting and padding, and with the added tokens that only tokenizer_config.json knows."""
    stored = spec.get("added_tokens")
    added: list[Any] = [*stored] if isinstance(stored, list) else [] if stored is None else [stored]
    if not isinstance(spec.get("model"), dict) or not all(
        isinstance(token, dict) and isinstance(token.get("content"), str) for token in added
    ):
        raise TokenizerError(f"{path} has no model of a vocabulary, or added tokens without names; fetch it again")
    known = {token["content"] for token in added}
    extra: Mapping[str, Any] = config.get("added_tokens_decoder") or {}
    for number, token in sorted(extra.items(), key=lambda item: int(item[0])):
        if token["content"] not in known:
            flags = {
                name: bool(token.get(name)) for name in ("single_word", "lstrip", "rstrip", "normalized", "special")
            }
            added.append({"id": int(number), "content": token["content"], **flags})
    return {**spec, "added_tokens": added, "truncation": None, "padding": None}


def _backend(spec: Mapping[str, Any], path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(
            f"{path} cannot be read by tokenizers {tokenizers.__version__} ({error}); fetch it again, or update tokenizers"
        ) from error


def read_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name. A file stands above what tokenizer_config.json says, as in transformers."""
    stored = config.get("chat_template")
    templates: dict[str, str] = {}
    if isinstance(stored, str):
        templates["default"] = stored
    elif isinstance(stored, list):
        templates = {entry["name"]: entry["template"] for entry in stored}
    old = optional_json(folder / "chat_template.json").get("chat_template")
    if isinstance(old, str):
        templates["default"] = old
    files = {"default": folder / "chat_template.jinja"}
    files |= {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    for name, path in files.items():
        if path.is_file():
            try:
                templates[name] = path.read_text("utf-8")
            except UnicodeDecodeError as error:
                raise TokenizerError(f"{path} is not UTF-8 text ({error}); fetch it again") from error
    return templates


def _named_tokens(config: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for source in (named, config):
        for role, value in source.items():
            text = value.get("content") if isinstance(value, dict) else value
            if role.endswith("_token") and isinstance(text, str):
                tokens[role] = text
    return tokens


def _decoder_kinds(spec: Mapping[str, Any]) -> set[str]:
    decoder = spec.get("decoder") or {}
    steps = decoder.get("decoders", [decoder])
    return {step.get("type", "") for step in steps}


def _without_control(
    spec: dict[str, Any], control: Mapping[str, int], added: Mapping[str, int], path: Path
) -> tuple[tokenizers.Tokenizer, dict[str, str], dict[int, int]]:
    """The tokenizer with control tokens under names that nobody can type, these names, and its ids that are not the true ones."""
    secret = secrets.token_hex(12)
    hidden = {name: f"<|{secret}{place:06d}|>" for place, name in enumerate(control)}
    tokens = [{**token, "content": hidden.get(token["content"], token["content"])} for token in spec["added_tokens"]]
    model = _rename_pieces(spec["model"], hidden)
    typed = _backend({**spec, "model": model, "added_tokens": tokens, "post_processor": None}, path)
    for name, number in added.items():
        if name not in control and typed.token_to_id(name) != number:
            raise TokenizerError(f"{path}: the added token {name!r} has no fixed id; save it again with transformers")
    ids = ((typed.token_to_id(hidden[name]), number) for name, number in control.items())
    return typed, hidden, {known: true for known, true in ids if known is not None and known != true}


def _rename_pieces(model: dict[str, Any], hidden: Mapping[str, str]) -> dict[str, Any]:
    """A model's vocabulary in which no text can become a control token. Pieces that merges make keep their names."""
    vocab = model.get("vocab")
    merges = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model.get("merges") or ())
    made = {left + right for left, right in merges}
    names = {name: secret for name, secret in hidden.items() if name not in made}
    if isinstance(vocab, dict):
        vocab = {names.get(piece, piece): number for piece, number in vocab.items()}
    elif isinstance(vocab, list):
        vocab = [[names.get(piece, piece), score] for piece, score in vocab]
    unknown = model.get("unk_token")
    return {**model, "vocab": vocab, **({"unk_token": names.get(unknown, unknown)} if unknown else {})}
