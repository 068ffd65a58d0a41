"""A byte-level BPE: trained by Hugging Face `tokenizers`, applied by tiktoken (faster, same ids), stored for both.

Ids: the special tokens first (0, 1, 2), then the 256 bytes, then merges in the order in which they were learned.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from dunwu.core.errors import TokenizerError
from dunwu.core.files import read_json, write_json, write_text
from dunwu.tokenizer.like import Ids
from dunwu.tokenizer.pattern import PATTERN, safe_pieces
from dunwu.tokenizer.spelling import byte_of_character, well_formed
from dunwu.tokenizer.template import CHAT_TEMPLATE

END_OF_TEXT, TURN_START, TURN_END = SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 256
MAX_TOKEN_BYTES = 32  # keeps a small corpus from learning whole sentences by heart
PIECE_CHARACTERS = 1 << 19


class Tokenizer:
    """Text ↔ ids. Any string round-trips; names of special tokens inside a text are plain text, never parsed.

    A lone surrogate, which no UTF-8 text can hold, becomes U+FFFD.
    """

    def __init__(self, folder: Path, ranks: dict[bytes, int], special: dict[str, int], pattern: str) -> None:
        self.folder = folder
        self.special_ids = special
        self.eos_id, self.im_start_id, self.im_end_id = (special[name] for name in SPECIAL_TOKENS)
        self._bytes = {rank: piece for piece, rank in ranks.items()}
        self._names = {number: name for name, number in special.items()}
        # Special tokens are never allowed inside a text. They are named because tiktoken looks for them all the same, and looking
        # for none costs a step a byte.
        self._encoding = tiktoken.Encoding("dunwu", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
        self._may_cut = pattern == PATTERN

    spells_bytes = True
    unused_ids: tuple[int, ...] = ()
    chat_template = CHAT_TEMPLATE

    @property
    def start_ids(self) -> tuple[int, ...]:
        """In pre-training the end of a document opens the next."""
        return (self.eos_id,)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return (self.eos_id, self.im_end_id)

    @property
    def rows_needed(self) -> int:
        return self.vocab_size

    def __reduce__(self) -> tuple[Any, ...]:
        return (Tokenizer.load, (self.folder,))

    @classmethod
    def load(cls, folder: Path | str) -> "Tokenizer":
        """Read `folder/tokenizer.json`. Raises TokenizerError when it is not a byte-level BPE with our special tokens."""
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise TokenizerError(f"{path} does not exist; give the folder that holds a model or a tokenizer")
        spec = read_json(path)
        special = {token["content"]: token["id"] for token in spec.get("added_tokens", [])}
        missing = [name for name in SPECIAL_TOKENS if name not in special]
        if missing:
            raise TokenizerError(f"{path} lacks the special tokens {missing}; dunwu needs {list(SPECIAL_TOKENS)}")
        return cls(Path(folder), _read_ranks(spec, special, path), special, _read_pattern(spec, path))

    @property
    def vocab_size(self) -> int:
        """How many ids there are, special tokens included; ids run from 0 to `vocab_size` - 1."""
        return len(self._bytes) + len(self._names)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`."""
        return self.encode_array(text).tolist()

    def encode_array(self, text: str) -> Ids:
        """The ids of `text`, [T] int32. A long text is encoded piecewise, with the same ids, to bound memory."""
        text = well_formed(text)
        if len(text) <= PIECE_CHARACTERS or not self._may_cut:
            return self._encode_piece(text)
        return np.concatenate([self._encode_piece(piece) for piece in safe_pieces(text, PIECE_CHARACTERS)])

    def encode_batch(self, texts: Sequence[str], *, threads: int = 1) -> list[Ids]:
        """The ids of each text, int32. With `threads` > 1 several texts are encoded at a time, outside Python's lock."""
        if threads <= 1 or len(texts) <= 1:
            return [self.encode_array(text) for text in texts]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self.encode_array, texts))

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD. Special tokens are left out or written by name."""
        return b"".join(self._visible_bytes(ids, skip_special)).decode("utf-8", errors="replace")

    def id_bytes(self, number: int) -> bytes:
        """The bytes that an id stands for; a special token stands for its name. Raises TokenizerError out of range."""
        piece = self._bytes.get(number)
        if piece is not None:
            return piece
        if number in self._names:
            return self._names[number].encode()
        raise TokenizerError(
            f"id {number} is outside this vocabulary of {self.vocab_size}; use 0 to {self.vocab_size - 1}"
        )

    def bytes_per_token(self, texts: Iterable[str]) -> float:
        """UTF-8 bytes of `texts` divided by their tokens; 0.0 for no tokens."""
        size = count = 0
        for text in texts:
            size += len(well_formed(text).encode())
            count += len(self.encode_array(text))
        return size / count if count else 0.0

    def _encode_piece(self, text: str) -> Ids:
        return self._encoding.encode_to_numpy(text, disallowed_special=()).view(np.int32)

    def _visible_bytes(self, ids: Iterable[int], skip_special: bool) -> Iterator[bytes]:
        for number in ids:
            if not (skip_special and number in self._names):
                yield self.id_bytes(int(number))


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, out: Path) -> Tokenizer:
    """Learn a vocabulary of at most `vocab_size` ids from a stream of texts, write it to folder `out`, return it.

    A small corpus yields fewer ids: see `Tokenizer.vocab_size`. Every pair merged occurs at least twice.
    Raises TokenizerError when `vocab_size` cannot hold the bytes and the special tokens.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise TokenizerError(
            f"vocab_size={vocab_size} cannot hold 256 bytes and {len(SPECIAL_TOKENS)} special tokens; "
            f"use at least {SMALLEST_VOCABULARY}"
        )
    trained = _untrained()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[tokenizers.AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=MAX_TOKEN_BYTES,
    )
    pieces = (piece for text in texts for piece in safe_pieces(well_formed(text), PIECE_CHARACTERS))
    trained.train_from_iterator(pieces, trainer=trainer)
    return _save(trained, out)


def _untrained() -> tokenizers.Tokenizer:
    untrained = tokenizers.Tokenizer(models.BPE(unk_token=None, byte_fallback=False))
    cut = pre_tokenizers.Split(tokenizers.Regex(PATTERN), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    untrained.pre_tokenizer = pre_tokenizers.Sequence([cut, to_bytes])  # pyright: ignore[reportAttributeAccessIssue]
    untrained.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return untrained


def _save(trained: tokenizers.Tokenizer, out: Path) -> Tokenizer:
    write_text(out / "tokenizer.json", trained.to_str(pretty=True))
    names = {"eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "bos_token": None,
        "unk_token": None,
        "additional_special_tokens": [TURN_START, TURN_END],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000,
        "chat_template": CHAT_TEMPLATE,
    }
    write_json(out / "tokenizer_config.json", config)
    write_json(out / "special_tokens_map.json", {**names, "additional_special_tokens": [TURN_START, TURN_END]})
    return Tokenizer.load(out)


def _read_ranks(spec: dict[str, Any], special: dict[str, int], path: Path) -> dict[bytes, int]:
    model = spec.get("model", {})
    if model.get("type") != "BPE" or model.get("byte_fallback") or spec.get("normalizer"):
        raise TokenizerError(f"{path} is not a plain byte-level BPE without a normaliser; dunwu reads no other kind")
    characters = byte_of_character()
    try:
        ranks = {
            bytes(characters[character] for character in token): number
            for token, number in model["vocab"].items()
            if token not in special
        }
    except KeyError as error:
        raise TokenizerError(f"{path} has a token with the character {error}, which stands for no byte") from error
    if len(ranks) < 256 or set(ranks.values()) | set(special.values()) != set(range(len(ranks) + len(special))):
        raise TokenizerError(f"{path}: the ids are not 0 to n-1 or some bytes have none; train it again")
    return ranks


def _read_pattern(spec: dict[str, Any], path: Path) -> str:
    steps = (spec.get("pre_tokenizer") or {}).get("pretokenizers", [])
    match steps:
        case [
            {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            return pattern
        case _:
            raise TokenizerError(
                f"{path} does not cut text by one pattern and then into bytes; dunwu reads no other kind"
            )
