"""What the quality rules look at, counted once for a text (for a long one, on four samples of it)."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from dunwu.corpus.measure import (
    BROKEN,
    DIGIT,
    HAN,
    HAN_MARK,
    HANGUL,
    KANA,
    LATIN,
    LETTER,
    MARK,
    SPACE,
    Lexemes,
    count_kinds,
    lexemes,
    shingles,
)

_SAMPLE_CHARS = 12_000
_SAMPLES = 4
_BULLETS = ("•", "●", "○", "■", "□", "▪", "‣", "·", "- ", "* ", "– ", "— ")
_END_MARKS = frozenset(".!?\"')]:;…。”’」』】\uff01\uff1f\uff09\uff1a\uff1b")
_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_LONG_WORD = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Counts in characters, words (lexemes) or lines; shares are of the characters in lexemes or lines."""

    visible: int
    letters: int
    han: int
    digits: int
    marks: int
    broken: int
    words: int
    mean_word_length: float
    long_word_chars: int
    symbols: int
    stop_words: int
    lines: int
    bullet_lines: int
    ellipsis_lines: int
    ended_lines: int
    short_lines: int
    mean_line_length: float
    longest_line: int
    repeated_line_share: float
    repeated_paragraph_share: float
    top_ngram_shares: tuple[float, float, float]
    repeated_10gram_share: float


def shape_of(text: str) -> Shape:
    """Measure a text."""
    sample = _sample(text)
    kinds = count_kinds(sample)
    found = lexemes(sample)
    lengths = found.ends - found.starts
    lines = [line for line in map(str.strip, sample.split("\n")) if line]
    return Shape(
        visible=int(kinds.sum() - kinds[SPACE]),
        letters=int(kinds[[LATIN, LETTER, HAN, KANA, HANGUL]].sum()),
        han=int(kinds[HAN]),
        digits=int(kinds[DIGIT]),
        marks=int(kinds[MARK] + kinds[HAN_MARK]),
        broken=int(kinds[BROKEN]),
        words=len(found),
        mean_word_length=float(lengths[~found.single].mean()) if (~found.single).any() else 0.0,
        long_word_chars=int(lengths[lengths > _LONG_WORD].sum()),
        symbols=sample.count("...") + sample.count("…") + sample.count("#") - _heading_marks(sample),
        stop_words=_stop_words(sample),
        lines=len(lines),
        bullet_lines=sum(line.startswith(_BULLETS) for line in lines),
        ellipsis_lines=sum(line.endswith(("...", "…")) for line in lines),
        ended_lines=sum(line[-1] in _END_MARKS for line in lines),
        short_lines=sum(len(line) < 30 for line in lines),
        mean_line_length=sum(map(len, lines)) / max(1, len(lines)),
        longest_line=max(map(len, lines), default=0),
        repeated_line_share=_repeated_share([line for line in lines if _weight(line) >= 20]),
        repeated_paragraph_share=_repeated_share([part for part in sample.split("\n\n") if _weight(part) >= 20]),
        top_ngram_shares=_top_ngram_shares(found),
        repeated_10gram_share=_repeated_ngram_share(found, 10),
    )


def _sample(text: str) -> str:
    """The whole, or four windows spread over it; repetition inside a long text shows in each of them."""
    if len(text) <= _SAMPLES * _SAMPLE_CHARS:
        return text
    step = (len(text) - _SAMPLE_CHARS) // (_SAMPLES - 1)
    return "\n\n".join(text[start : start + _SAMPLE_CHARS] for start in range(0, _SAMPLES * step, step))


def _heading_marks(sample: str) -> int:
    return sum(sample.count("\n" + "#" * level + " ") * level for level in range(1, 7)) + (
        len(sample) - len(sample.lstrip("#"))
    )


def _stop_words(sample: str) -> int:
    lowered = sample.lower()
    return sum(f" {word} " in lowered or lowered.startswith(f"{word} ") for word in _STOP_WORDS)


def _weight(text: str) -> int:
    """Length in characters, Chinese counting double: half of its bytes and a little more."""
    return len(text) if text.isascii() else max(len(text), len(text.encode("utf-8", "replace")) * 2 // 3)


def _repeated_share(parts: list[str]) -> float:
    """Share of the characters in parts that were there before."""
    total = sum(map(len, parts))
    if not total:
        return 0.0
    return 1 - sum(map(len, set(parts))) / total


def _top_ngram_shares(found: Lexemes) -> tuple[float, float, float]:
    """For n of 2, 3 and 4: the share of characters in the n-gram that covers most of them."""
    total = int((found.ends - found.starts).sum())
    shares = []
    for length in (2, 3, 4):
        if len(found) < 2 * length:
            shares.append(0.0)
            continue
        counts = Counter(shingles(found.hashes, length).tolist())
        _, count = counts.most_common(1)[0]
        shares.append(_ngram_chars(found, length, counts, count) / max(1, total))
    return shares[0], shares[1], shares[2]


def _ngram_chars(found: Lexemes, length: int, counts: Counter[int], count: int) -> int:
    """Characters of the most frequent n-gram, all its occurrences together; nothing where none repeats."""
    if count < 2:
        return 0
    top = counts.most_common(1)[0][0]
    first = int(np.flatnonzero(shingles(found.hashes, length) == np.uint64(top))[0])
    size = int((found.ends[first : first + length] - found.starts[first : first + length]).sum())
    return size * count


def _repeated_ngram_share(found: Lexemes, length: int) -> float:
    """Share of characters inside n-grams that occurred before, each character counted once."""
    if len(found) < 2 * length:
        return 0.0
    grams = shingles(found.hashes, length)
    order = np.argsort(grams, kind="stable")
    repeated = np.zeros(len(found) + 1, np.int64)
    later = order[1:][grams[order][1:] == grams[order][:-1]]
    np.add.at(repeated, later, 1)
    np.add.at(repeated, later + length, -1)
    covered = np.cumsum(repeated)[:-1] > 0
    sizes = found.ends - found.starts
    return float(sizes[covered].sum() / max(1, sizes.sum()))
