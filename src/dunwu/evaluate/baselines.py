"""What a model must beat on the same held-out text: a general compressor and an n-gram model trained on the same training text.

`xz -9` learns from the held-out text alone; given the training text first it also copies from that. The n-gram model is
interpolated modified Kneser–Ney (Chen and Goodman 1998, TR-10-98) with five symbols of context, over bytes and over
characters (the fairer one for Chinese, whose characters are three bytes).
"""

import lzma
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dunwu.core.records import Document, Score
from dunwu.evaluate.heldout import ChosenText, by_document, choose_text
from dunwu.evaluate.stats import ratio_interval

Symbols = npt.NDArray[np.integer]
Places = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

XZ_WINDOW_BYTES = 64 * 2**20  # the dictionary of `xz -9`: it can't copy from further back
XZ_TRAIN_BYTES = 16_000_000  # of training text given to xz: it takes about half a second a megabyte
TRAIN_PIECE_BYTES = 64_000
UNICODE_SCALARS = 0x110000 - 0x800


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A baseline's score, and how many bytes of the training text it was given. `document_bits` are the bits of each scored
    document in reading order, where they can be told apart."""

    key: str
    score: Score
    train_bytes: int
    train_bytes_total: int
    document_bits: tuple[float, ...] = ()


# --------------------------------------------------------------------------------------------------------------- xz


def xz_bits_per_byte(texts: Sequence[str]) -> float:
    """Bits per byte of `xz -9` on the texts joined, container included: what `cat texts | xz -9 | wc -c` gives."""
    data = _utf8(texts)
    return 8 * len(lzma.compress(data, preset=9)) / len(data)


def xz_bits_per_byte_given(train_texts: Iterable[str], texts: Sequence[str], *, max_train_bytes: int) -> float:
    """Bits per byte that the texts add to `xz -9` of the training text: size(train + texts) - size(train).

    Only the first `max_train_bytes` of the training text are given, and never more than its 64 MiB window can hold.
    """
    data = _utf8(texts)
    room = min(max_train_bytes, XZ_WINDOW_BYTES - len(data))
    train = _utf8(take_bytes(train_texts, room))
    added = len(lzma.compress(train + data, preset=9)) - len(lzma.compress(train, preset=9))
    return 8 * added / len(data)


def take_bytes(texts: Iterable[str], max_bytes: int) -> list[str]:
    """Whole texts from the front while they fit into `max_bytes`; the one that doesn't fit is cut, and the rest is not read."""
    taken: list[str] = []
    for text in texts:
        size = len(text.encode("utf-8"))
        if size >= max_bytes:
            taken.append(text.encode("utf-8")[: max(0, max_bytes)].decode("utf-8", errors="ignore"))
            break
        taken.append(text)
        max_bytes -= size
    return taken


def _utf8(texts: Iterable[str]) -> bytes:
    return "".join(texts).encode("utf-8")


# ----------------------------------------------------------------------------------------------------------- n-gram


@dataclass(frozen=True, slots=True)
class _Level:
    """All n-grams of one length. A row's place is the n-gram's number; key = number of its context × alphabet + last symbol."""

    key: Ints  # ascending
    count: Ints  # occurrences at the greatest length; distinct left neighbours below (Kneser–Ney's continuation counts)
    discounts: Floats  # taken off a count of 0, 1, 2, and 3 or more
    total: Ints  # by number of context: sum of counts
    backoff: Floats  # by number of context: the share of probability that the discounts leave to the shorter context


class NgramModel:
    """Interpolated modified Kneser–Ney over symbols 0 … alphabet-1 with `order` symbols of context.

    Every conditional distribution sums to 1 over the alphabet. N-grams do not cross the borders of documents.
    """

    def __init__(self, documents: Sequence[Symbols], *, alphabet: int, order: int = 5) -> None:
        """Count `documents`, each a vector of symbols. Sorting dominates: about 0.4 s and 50 bytes a symbol, at 24 million symbols 10 s."""
        self.alphabet, self.order = alphabet, order
        self._levels: list[_Level] = []
        symbols, room = _lay_out(documents)
        numbers = np.zeros(symbols.size, dtype=np.int32)  # of the n-gram that ends at each position
        previous: tuple[Ints, int] | None = None  # its keys and the number of its contexts
        contexts, occurrences = 1, np.zeros(0, dtype=np.int64)
        for length in range(1, order + 2):
            at = np.flatnonzero(room >= length - 1).astype(np.int32)
            key = symbols[at].astype(np.int64)
            if length > 1:
                key += np.multiply(numbers[at - 1], alphabet, dtype=np.int64)
            key, first, place, occurrences = _number(key)
            if previous is not None:
                neighbours = np.bincount(numbers[at[first]], minlength=previous[0].size)
                self._levels.append(_smooth(previous[0], neighbours, previous[1], alphabet))
            previous, contexts = (key, contexts), key.size
            numbers = np.full(symbols.size, -1, dtype=np.int32)
            numbers[at] = place
        assert previous is not None
        self._levels.append(_smooth(previous[0], occurrences, previous[1], alphabet))

    def bits(self, document: Symbols) -> Floats:
        """-log2 of the probability of each symbol given those before it in the document, `[T]`."""
        laid_out, room = _lay_out([document])
        symbols = laid_out.astype(np.int64)
        probability = np.full(symbols.size, 1 / self.alphabet)
        numbers = np.zeros(symbols.size, dtype=np.int64)
        for length, level in enumerate(self._levels, 1):
            context = np.concatenate([[-1], numbers[:-1]]) if length > 1 else np.zeros_like(numbers)
            known = (context >= 0) & (room >= length - 1)
            place, count = _look_up(level, context * self.alphabet + symbols, known)
            numbers = np.where(place >= 0, place, -1)
            known[known] = level.total[context[known]] > 0
            c, above = count[known], context[known]
            kept = c - level.discounts[np.minimum(c, 3)]
            probability[known] = kept / level.total[above] + level.backoff[above] * probability[known]
        return -np.log2(probability)


def _lay_out(documents: Sequence[Symbols]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """All symbols in a row, and for each the number of symbols before it in its document."""
    symbols = np.concatenate([np.zeros(0, dtype=np.int32), *documents], dtype=np.int32, casting="unsafe")
    room = [np.arange(document.size, dtype=np.int32) for document in documents]
    return symbols, np.concatenate([np.zeros(0, dtype=np.int32), *room])


def _number(key: Ints) -> tuple[Ints, Places, Places, Ints]:
    """np.unique with (values, first place, number of each, occurrences), several times faster: key and place sort as one word.

    `key` is overwritten.
    """
    bits = max(1, int(key.size).bit_length())
    if key.size and int(key.max()) < 1 << (63 - bits):
        key <<= bits
        key |= np.arange(key.size, dtype=np.int32)
        key.sort()
        place = np.bitwise_and(key, (1 << bits) - 1, dtype=np.int64).astype(np.int32)
        key >>= bits
    else:
        place = np.argsort(key, kind="stable").astype(np.int32)
        key = key[place]
    fresh = np.ones(key.size, dtype=np.bool_)
    np.not_equal(key[1:], key[:-1], out=fresh[1:])
    border = np.flatnonzero(fresh)
    number = np.empty(key.size, dtype=np.int32)
    number[place] = np.cumsum(fresh, dtype=np.int32) - 1
    return key[border], place[border], number, np.diff(border, append=key.size)


def _smooth(key: Ints, count: Ints, contexts: int, alphabet: int) -> _Level:
    context = key // alphabet
    discounts = _discounts(count)
    total = np.bincount(context, weights=count, minlength=contexts)
    left = np.bincount(context, weights=discounts[np.minimum(count, 3)], minlength=contexts)
    backoff = np.divide(left, total, out=np.ones(contexts), where=total > 0)
    return _Level(key, count.astype(np.int64), discounts, total.astype(np.int64), backoff)


def _discounts(count: Ints) -> Floats:
    """Chen and Goodman's D1, D2, D3+ from how many n-grams occur once, twice, three and four times; halves where those are few."""
    n1, n2, n3, n4 = (int(np.count_nonzero(count == c)) for c in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) == 0:
        return np.array([0.0, 0.5, 0.5, 0.5])
    share = n1 / (n1 + 2 * n2)
    raw = np.array([0.0, 1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3])
    return np.clip(raw, [0, 0.05, 0.05, 0.05], [0, 1, 2, 3])


def _look_up(level: _Level, key: Ints, wanted: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """The number of each n-gram, -1 where it was never seen, and its count."""
    place = np.full(key.size, -1, dtype=np.int64)
    count = np.zeros(key.size, dtype=np.int64)
    if level.key.size:
        guess = np.minimum(np.searchsorted(level.key, key), level.key.size - 1)
        found = wanted & (level.key[guess] == key)
        place[found], count[found] = guess[found], level.count[guess[found]]
    return place, count


def byte_ngram_bits(train_texts: Sequence[str], texts: Sequence[str], *, order: int = 5) -> list[float]:
    """Bits of each text under an n-gram model of the training texts' UTF-8 bytes."""
    model = NgramModel([_bytes(text) for text in train_texts], alphabet=256, order=order)
    return [float(model.bits(_bytes(text)).sum()) for text in texts]


def character_ngram_bits(train_texts: Sequence[str], texts: Sequence[str], *, order: int = 5) -> list[float]:
    """Bits of each text under an n-gram model of the training texts' characters.

    A character that training never showed costs the probability of an "unknown" symbol, then one of all other characters of
    Unicode with equal probability: the code is complete.
    """
    points = [_points(text) for text in train_texts]
    known = np.unique(np.concatenate([np.zeros(0, dtype=np.uint32), *points]))
    table = np.full(0x110000, known.size, dtype=np.int32)
    table[known] = np.arange(known.size)
    model = NgramModel([table[point] for point in points], alphabet=known.size + 1, order=order)
    spelled = math.log2(UNICODE_SCALARS - known.size)
    coded = [table[_points(text)] for text in texts]
    return [float(model.bits(code).sum() + spelled * np.count_nonzero(code == known.size)) for code in coded]


def _bytes(text: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)


def _points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


# ---------------------------------------------------------------------------------------------------------- together


def run_baselines(
    train: Iterable[Document], heldout: ChosenText, *, order: int = 5, max_train_bytes: int = 24_000_000
) -> list[Baseline]:
    """All baselines on the held-out pieces, best last reading order: xz alone, xz given training text, n-grams of bytes and characters.

    `max_train_bytes` of the training documents are used, spread evenly; each baseline says how much it was given.
    """
    chosen = choose_text(train, max_bytes=max_train_bytes, piece_bytes=TRAIN_PIECE_BYTES)
    texts, train_texts = heldout.texts, chosen.texts
    by_bytes = byte_ngram_bits(train_texts, texts, order=order)
    by_characters = character_ngram_bits(train_texts, texts, order=order)
    total = chosen.bytes_total
    return [
        _whole("xz", xz_bits_per_byte(texts), 0, total),
        _whole(
            "xz_given_train",
            xz_bits_per_byte_given(train_texts, texts, max_train_bytes=XZ_TRAIN_BYTES),
            min(chosen.bytes, XZ_TRAIN_BYTES),
            total,
        ),
        _by_document("ngram_bytes", by_bytes, heldout, chosen.bytes, total),
        _by_document("ngram_characters", by_characters, heldout, chosen.bytes, total),
    ]


def _whole(key: str, value: float, train_bytes: int, total: int) -> Baseline:
    """A figure of one compressed stream has no independent parts, so it has no interval."""
    score = Score(name=key, value=value, low=math.nan, high=math.nan, n=1, unit="bits/byte")
    return Baseline(key=key, score=score, train_bytes=train_bytes, train_bytes_total=total)


def _by_document(key: str, piece_bits: Sequence[float], heldout: ChosenText, train_bytes: int, total: int) -> Baseline:
    bits, sizes = by_document(heldout, piece_bits)
    score = Score(name=key, unit="bits/byte", **ratio_interval(bits, sizes)._asdict())
    return Baseline(key=key, score=score, train_bytes=train_bytes, train_bytes_total=total, document_bits=tuple(bits))
