"""Text as arrays: kinds of characters counted, and words hashed, without a Python loop over them.

A *lexeme* is a run of letters and digits, or one character of a script written without spaces (Han, kana, …): so the
same five lexemes are "5 words" in English and "5 characters" in Chinese, in a text that mixes them too.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

# Kinds of characters.
OTHER, SPACE, LATIN, LETTER, DIGIT, HAN, KANA, HANGUL, MARK, HAN_MARK, BROKEN = range(11)
_KINDS = 11
_LIMIT = 0x30000  # code points above are counted as OTHER (emoji are below)

_MULTIPLIER = 0x9E3779B97F4A7C15
_BLOCK_CHARS = 1 << 14  # arrays of this length stay in the cache


@cache
def _kind_table() -> npt.NDArray[np.uint8]:
    """Kind of each code point below `_LIMIT`."""
    table = np.full(_LIMIT + 1, OTHER, np.uint8)
    for code in range(0x3000):
        char = chr(code)
        if char.isspace():
            table[code] = SPACE
        elif char.isdecimal():
            table[code] = DIGIT
        elif char.isalpha() or (0x300 <= code < 0x370):
            table[code] = LATIN if code < 0x250 else LETTER
        elif char.isprintable():
            table[code] = MARK
    table[0x3000] = SPACE
    table[0x3001:0x3020] = HAN_MARK
    table[0x3041:0x3100] = KANA
    table[0x31F0:0x3200] = KANA
    table[0x3400:0x4DC0] = HAN
    table[0x4E00:0xA000] = HAN
    table[0xA000:0xAC00] = LETTER
    table[0xAC00:0xD7B0] = HANGUL
    table[0xE000:0xF900] = BROKEN  # private use: the mark of a PDF font without a map
    table[0xF900:0xFB00] = HAN
    table[0xFB00:0xFE00] = LETTER
    table[0xFE30:0xFE50] = HAN_MARK
    table[0xFF01:0xFF66] = HAN_MARK
    table[0xFF10:0xFF1A] = DIGIT
    table[0xFF21:0xFF3B] = LATIN
    table[0xFF41:0xFF5B] = LATIN
    table[0xFF66:0xFFA0] = KANA
    table[0xFFFD] = BROKEN
    table[0x20000:0x30000] = HAN
    for code in map(ord, "“”‘’—…·"):
        table[code] = MARK
    return table


@cache
def _lexeme_table() -> npt.NDArray[np.uint8]:
    """0 between lexemes, 1 inside a word, 2 a lexeme by itself; for each kind."""
    table = np.zeros(_KINDS, np.uint8)
    table[[LATIN, LETTER, DIGIT, HANGUL]] = 1
    table[[HAN, KANA]] = 2
    return table[_kind_table()]


@cache
def _powers() -> tuple[Hashes, Hashes]:
    """Powers of the multiplier and of its inverse modulo 2**64, for the positions of a block."""
    powers = np.empty(_BLOCK_CHARS * 2, np.uint64)
    inverses = np.empty_like(powers)
    power = inverse = 1
    step = pow(_MULTIPLIER, -1, 1 << 64)
    for index in range(len(powers)):
        powers[index], inverses[index] = power, inverse
        power, inverse = power * _MULTIPLIER % (1 << 64), inverse * step % (1 << 64)
    return powers, inverses


# Marks that other rooms look for: one look at a text tells where a slower pattern is worth trying.
TOKEN, NUMERAL, ASSIGNS, UNSEEN = 1, 2, 4, 8
_UNSEEN_RANGES = (
    *((0, 8), (0x0B, 0x0B), (0x0E, 0x1F), (0x7F, 0x84), (0x86, 0x9F), (0xAD, 0xAD), (0x200B, 0x200B)),
    *(
        (0x200E, 0x200F),
        (0x202A, 0x202E),
        (0x2060, 0x2060),
        (0x2066, 0x2069),
        (0xD800, 0xDFFF),
        (0xFEFF, 0xFEFF),
        (0xFFFE, 0xFFFF),
    ),
)


@cache
def _mark_table() -> npt.NDArray[np.uint8]:
    """TOKEN: a letter, digit, hyphen or underscore of ASCII; NUMERAL: 0 to 9; ASSIGNS: `:` or `=`, of either width; UNSEEN: controls,
    zero-width and direction marks, lone surrogates."""
    table = np.zeros(_LIMIT + 1, np.uint8)
    for code in range(128):
        char = chr(code)
        table[code] = TOKEN * (char.isalnum() or char in "_-") + NUMERAL * char.isdigit() + ASSIGNS * (char in ":=")
    table[[0xFF1A, 0xFF1D]] = ASSIGNS
    for first, last in _UNSEEN_RANGES:
        table[first : last + 1] = UNSEEN
    return table


@cache
def _ascii_marks() -> bytes:
    return _mark_table()[:256].tobytes()


def marks(text: str) -> npt.NDArray[np.uint8]:
    """The marks of each character, `[len(text)]`."""
    if text.isascii():
        return np.frombuffer(text.encode().translate(_ascii_marks()), np.uint8)
    return _mark_table()[code_points(text)]


def code_points(text: str) -> npt.NDArray[np.uint32]:
    """The code points of a text, `[len(text)]`, clipped to the end of the tables."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    if codes.size and int(codes.max()) >= _LIMIT:
        codes = np.minimum(codes, _LIMIT)
    return codes


def count_kinds(text: str) -> npt.NDArray[np.int64]:
    """How many characters of each kind, `[_KINDS]`."""
    if text.isascii():
        counts = np.bincount(np.frombuffer(text.encode(), np.uint8), minlength=128)
        return np.bincount(_kind_table()[:128], weights=counts[:128], minlength=_KINDS).astype(np.int64)
    return np.bincount(_kind_table()[code_points(text)], minlength=_KINDS)


@dataclass(frozen=True, slots=True)
class Lexemes:
    """Hash of each lexeme, `[n]`, where it starts and ends in the text (characters), and whether it stands by itself."""

    hashes: Hashes
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    single: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.hashes)


@lru_cache(maxsize=2)  # the rules and the fingerprint look at the same text
def lexemes(text: str) -> Lexemes:
    """Cut a text into lexemes; case does not matter to their hashes. The same on every machine and in every process."""
    lowered = text.lower()
    if len(lowered) != len(text):  # a few letters change their length, and would shift the positions
        lowered = "".join(char.lower() if len(char.lower()) == 1 else char for char in text)
    codes = code_points(lowered)
    parts: list[Lexemes] = []
    start = 0
    while start < len(codes):
        part, start = _block(codes, start)
        parts.append(part)
    if not parts:
        return Lexemes(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.bool_))
    if len(parts) == 1:
        return parts[0]
    columns = ((part.hashes, part.starts, part.ends, part.single) for part in parts)
    return Lexemes(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def _block(codes: npt.NDArray[np.uint32], start: int) -> tuple[Lexemes, int]:
    """The lexemes from `start` on, of about one block of characters, and where the next block begins."""
    stop = min(len(codes), start + _BLOCK_CHARS)
    roles = _lexeme_table()[codes[start:stop]]
    if stop < len(codes) and roles[-1] == 1:  # leave a word that may go on to the next block
        gaps = np.flatnonzero(roles != 1)
        if gaps.size:
            stop = start + int(gaps[-1]) + 1
            roles = roles[: stop - start]
    single = roles == 2
    inside = roles == 1
    opens = single.copy()
    closes = single.copy()
    opens[1:] |= inside[1:] & ~inside[:-1]
    closes[:-1] |= inside[:-1] & ~inside[1:]
    if len(roles):
        opens[0] |= inside[0]
        closes[-1] |= inside[-1]
    first, last = np.flatnonzero(opens), np.flatnonzero(closes) + 1
    powers, inverses = _powers()
    sums = np.zeros(len(roles) + 1, np.uint64)
    np.cumsum((codes[start:stop] + np.uint64(1)) * powers[: len(roles)], out=sums[1:])
    hashes = (sums[last] - sums[first]) * inverses[first]
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(32)
    return Lexemes(hashes, first + start, last + start, single[first]), stop


def shingles(hashes: Hashes, length: int) -> Hashes:
    """Hash of each run of `length` lexemes, `[n - length + 1]`; of the whole where there are fewer; empty for none.

    Put together from runs of 1, 2, 4, … by the binary digits of the length, so it takes some log2(length) steps.
    """
    if not len(hashes):
        return hashes
    length = min(length, len(hashes))
    count = len(hashes) - length + 1
    run, run_length = hashes, 1
    mixed: Hashes | None = None
    start = 0
    while True:
        if length & run_length:
            part = run[start : start + count]
            step = np.uint64(pow(_MULTIPLIER, run_length, 1 << 64))
            mixed = part.copy() if mixed is None else mixed * step + part
            start += run_length
        if 2 * run_length > length:
            break
        step = np.uint64(pow(_MULTIPLIER, run_length, 1 << 64))
        run = run[:-run_length] * step + run[run_length:]
        run_length *= 2
    assert mixed is not None
    return mixed ^ (mixed >> np.uint64(31))
