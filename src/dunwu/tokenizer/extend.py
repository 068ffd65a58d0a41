"""More tokens for a finished byte-level BPE: its merges go on where they stopped, on the text of a new language or domain.

Every old id and every old merge stays, and new merges come after all old ones: a text is cut as before, and then merged
further where new merges apply. New ids begin after all old ones, those of special tokens included.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from dunwu.core.errors import TokenizerError
from dunwu.core.files import read_json, write_json
from dunwu.tokenizer.bpe import MAX_TOKEN_BYTES, byte_of_character
from dunwu.tokenizer.open import complete_spec, optional_json

PIECE_CHARACTERS = 20_000  # text handed to the pre-tokeniser at a time
LEAST_COUNT = 2  # a pair merged occurs at least so often, as in a vocabulary learned from nothing
EXTENSION_FILE = "extension.json"
_END, _GONE = -1, -2  # symbols between words, and in places that a merge swallowed
_RIGHT_BITS = 31

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Extension:
    """What was added: ids from `first_id` on, one for each entry of `pieces`, which lists the old ids that spell it."""

    first_id: int
    pieces: tuple[tuple[int, ...], ...]

    @property
    def end(self) -> int:
        """The number of ids, old and new."""
        return self.first_id + len(self.pieces)


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Two neighbours that become `id`, spelled `name` in GPT-2's characters."""

    left: int
    right: int
    id: int
    name: str


def extend_tokenizer(base: Path, texts: Iterable[str], *, extend_by: int, out: Path) -> Extension:
    """Learn at most `extend_by` tokens from `texts` on top of the tokenizer in folder `base`; write the result to `out`.

    A small corpus yields fewer. `out` holds `tokenizer.json`, its kin and `extension.json`. Raises TokenizerError when the
    base is not a byte-level BPE.
    """
    path = base / "tokenizer.json"
    spec = read_json(path)
    _require_byte_level(spec, path)
    spec = complete_spec(spec, optional_json(base / "tokenizer_config.json"), path)
    old = tokenizers.Tokenizer.from_str(path.read_text("utf-8"))
    words = count_words(old, texts)
    names = _names(spec)
    first_id = max(names) + 1
    merges = learn_merges(
        [_ids(old, word) for word in words], list(words.values()), names, number=extend_by, first_id=first_id
    )
    _append(spec, merges)
    write_json(out / "tokenizer.json", spec)
    _write_kin(base, out, {token["id"]: token["content"] for token in spec["added_tokens"]})
    extension = Extension(first_id=first_id, pieces=tuple(_spelled(merges)))
    write_json(out / EXTENSION_FILE, asdict(extension))
    return extension


def read_extension(folder: Path) -> Extension | None:
    """What `extend_tokenizer` added in `folder`; None where nothing was."""
    path = folder / EXTENSION_FILE
    if not path.is_file():
        return None
    data = read_json(path)
    return Extension(first_id=data["first_id"], pieces=tuple(tuple(ids) for ids in data["pieces"]))


def count_words(tokenizer: tokenizers.Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """How often each pre-token occurs, in GPT-2's characters, in the order of first occurrence."""
    cut, normaliser = tokenizer.pre_tokenizer, tokenizer.normalizer
    words: Counter[str] = Counter()
    for text in texts:
        for piece in _pieces(text.encode("utf-8", "replace").decode("utf-8")):
            shaped = piece if normaliser is None else normaliser.normalize_str(piece)
            words.update(word for word, _ in cut.pre_tokenize_str(shaped))
    return words


def learn_merges(
    words: Sequence[Sequence[int]],
    counts: Sequence[int],
    names: Mapping[int, str],
    *,
    number: int,
    first_id: int,
) -> list[Merge]:
    """The `number` most frequent merges, one after the other, of words already cut by the old merges.

    A pair's occurrences all arise in the one merge that makes the younger of its two symbols, and only vanish later. So a
    count in the queue is never too small: it is taken again when the pair comes up, and the pair put back if others are now
    more frequent. Ties go to the pair that arose first, then to lower ids. No merge spells an existing token or exceeds 32 bytes.
    """
    chain = _Chain(words, counts)
    known = dict(names)
    taken = set(names.values())
    queue: list[tuple[int, int, int, int, Places]] = []
    serial = 0

    def offer(places: Places) -> None:
        nonlocal serial
        for left, right, count, found in chain.pairs(places):
            if len(known[left]) + len(known[right]) <= MAX_TOKEN_BYTES:
                heapq.heappush(queue, (-count, serial, left, right, found))
                serial += 1

    offer(np.arange(len(chain.symbols), dtype=np.int64))
    merges: list[Merge] = []
    while queue and len(merges) < number:
        promised, rank, left, right, found = heapq.heappop(queue)
        name = known[left] + known[right]
        found = chain.still(left, right, found)
        count = int(chain.weights[found].sum())
        if count < LEAST_COUNT or name in taken:
            continue
        if count < -promised:
            heapq.heappush(queue, (-count, rank, left, right, found))
            continue
        merge = Merge(left=left, right=right, id=first_id + len(merges), name=name)
        merges.append(merge)
        known[merge.id] = name
        taken.add(name)
        offer(chain.merge(found, merge.id))
    return merges


class _Chain:
    """All words as one chain of symbols with an end between them, each place linked with its neighbours."""

    def __init__(self, words: Sequence[Sequence[int]], counts: Sequence[int]) -> None:
        lengths = np.fromiter((len(word) for word in words), np.int64, len(words))
        ends = np.cumsum(lengths + 1)
        size = int(ends[-1]) + 1 if len(words) else 1
        self.symbols = np.full(size, _END, np.int64)
        inside = np.ones(size, bool)
        inside[0] = False
        inside[ends] = False
        self.symbols[inside] = np.fromiter((symbol for word in words for symbol in word), np.int64, int(lengths.sum()))
        self.weights = np.zeros(size, np.int64)
        self.weights[inside] = np.repeat(np.asarray(counts, np.int64), lengths)
        self.after = np.minimum(np.arange(1, size + 1, dtype=np.int64), size - 1)
        self.before = np.maximum(np.arange(-1, size - 1, dtype=np.int64), 0)

    def pairs(self, places: Places) -> Iterator[tuple[int, int, int, Places]]:
        """The pairs that begin at `places`: left, right, how often (at most), and where; those that occur too rarely left out."""
        left, right = self.symbols[places], self.symbols[self.after[places]]
        real = (left >= 0) & (right >= 0)
        places, keys = places[real], left[real] << _RIGHT_BITS | right[real]
        if not len(places):
            return
        order = np.argsort(keys, kind="stable")
        places, keys = places[order], keys[order]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        sums = np.add.reduceat(self.weights[places], starts)
        ends = np.append(starts[1:], len(keys))
        for i in np.flatnonzero(sums >= LEAST_COUNT).tolist():
            key = int(keys[starts[i]])
            yield key >> _RIGHT_BITS, key & (1 << _RIGHT_BITS) - 1, int(sums[i]), places[starts[i] : ends[i]]

    def still(self, left: int, right: int, places: Places) -> Places:
        """Of `places`, those where the pair still stands; of overlapping ones (`aaa`) every other, from the left."""
        after = self.after[places]
        places = places[(self.symbols[places] == left) & (self.symbols[after] == right)]
        if left != right or len(places) < 2:
            return places
        goes_on = np.concatenate([[False], self.after[places[:-1]] == places[1:]])
        index = np.arange(len(places))
        begins = np.maximum.accumulate(np.where(goes_on, 0, index))
        return places[(index - begins) % 2 == 0]

    def merge(self, places: Places, symbol: int) -> Places:
        """Put `symbol` for the pairs at `places`; returns where the pairs that this makes begin."""
        swallowed = self.after[places]
        following = self.after[swallowed]
        self.symbols[places], self.symbols[swallowed] = symbol, _GONE
        self.after[places], self.before[following] = following, places
        return np.union1d(places, self.before[places])


def _pieces(text: str) -> Iterator[str]:
    """`text` in pieces, cut after a line's end where there is one."""
    start = 0
    while start < len(text):
        end = start + PIECE_CHARACTERS
        if end < len(text):
            line_end = text.rfind("\n", start + PIECE_CHARACTERS // 2, end)
            end = line_end + 1 if line_end > 0 else end
        yield text[start:end]
        start = end


def _ids(tokenizer: tokenizers.Tokenizer, word: str) -> list[int]:
    return [token.id for token in tokenizer.model.tokenize(word)]


def _names(spec: Mapping[str, Any]) -> dict[int, str]:
    """Every old id and how it is written."""
    special = {token["id"]: token["content"] for token in spec.get("added_tokens", [])}
    return {number: token for token, number in spec["model"]["vocab"].items()} | special


def _append(spec: dict[str, Any], merges: Sequence[Merge]) -> None:
    """Put the merges into the specification, in place.

    The special tokens enter the vocabulary too: those outside it are numbered by its size when the file is read.
    """
    model = spec["model"]
    names = _names(spec)
    model["vocab"] |= {token["content"]: token["id"] for token in spec.get("added_tokens", [])}
    as_lists = bool(model["merges"]) and isinstance(model["merges"][0], list)
    for merge in merges:
        pair = [names[merge.left], names[merge.right]]
        model["merges"].append(pair if as_lists else " ".join(pair))
        model["vocab"][merge.name] = merge.id
        names[merge.id] = merge.name


def _spelled(merges: Sequence[Merge]) -> Iterator[tuple[int, ...]]:
    """The old ids that each merge stands for."""
    spelled: dict[int, tuple[int, ...]] = {}
    for merge in merges:
        left, right = (spelled.get(part, (part,)) for part in (merge.left, merge.right))
        spelled[merge.id] = left + right
        yield spelled[merge.id]


def _write_kin(base: Path, out: Path, added: Mapping[int, str]) -> None:
    """The files beside `tokenizer.json`; the class becomes the one that reads that file as it is.

    `added`: the added tokens of that file. Others that tokenizer_config.json gives an id would now be taken for new tokens.
    """
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (base / name).is_file():
            values = read_json(base / name)
            if name == "tokenizer_config.json":
                values["tokenizer_class"] = "PreTrainedTokenizerFast"
                if known := values.get("added_tokens_decoder"):
                    values["added_tokens_decoder"] = {
                        number: token for number, token in known.items() if added.get(int(number)) == token["content"]
                    }
            write_json(out / name, values)


def _require_byte_level(spec: Mapping[str, Any], path: Path) -> None:
    """Raise TokenizerError unless text becomes bytes and bytes are merged."""
    model = spec.get("model", {})
    kind = model.get("type") or "unknown"
    steps = spec.get("pre_tokenizer") or {}
    steps = [steps, *steps.get("pretokenizers", [])]
    to_bytes = any(step.get("type") == "ByteLevel" for step in steps)
    vocab = model.get("vocab", {})
    plain = kind == "BPE" and not any(
        model.get(key) for key in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "dropout")
    )
    if not (plain and to_bytes and all(character in vocab for character in byte_of_character())):
        found = kind if kind != "BPE" else "a BPE that does not work on bytes"
        raise TokenizerError(
            f"{path} is {found}; new tokens can be added to a byte-level BPE only (GPT-2, Llama 3, Qwen, dunwu's own): "
            "choose such a base, or leave tokenizer.extend_by at 0"
        )
