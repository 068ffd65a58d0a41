"""What the quality rules look at, counted when a rule first asks (for a long text, on four samples of it)."""

from functools import cached_property

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
_WEIGHTY = 20  # characters, a Han one counting double, from which a repeated line tells something


class Shape:
    """Counts in characters, words (lexemes) or lines; shares are of the characters in lexemes or lines."""

    def __init__(self, text: str) -> None:
        self._text = _sample(text)
        kinds = count_kinds(self._text).tolist()
        self.visible: int = sum(kinds) - kinds[SPACE]
        self.letters: int = kinds[LATIN] + kinds[LETTER] + kinds[HAN] + kinds[KANA] + kinds[HANGUL]
        self.han: int = kinds[HAN]
        self.digits: int = kinds[DIGIT]
        self.marks: int = kinds[MARK] + kinds[HAN_MARK]
        self.broken: int = kinds[BROKEN]
        self._lexemes = lexemes(self._text)
        self._sizes = self._lexemes.ends - self._lexemes.starts
        self._lines = [line for line in map(str.strip, self._text.split("\n")) if line]
        self.words = len(self._lexemes)
        self.lines = len(self._lines)

    @cached_property
    def mean_word_length(self) -> float:
        """Of the words; 0 where all lexemes are single characters."""
        words = self._sizes[~self._lexemes.single]
        return float(words.mean()) if len(words) else 0.0

    @cached_property
    def long_word_chars(self) -> int:
        """Characters in words of over 100."""
        return int(self._sizes[self._sizes > _LONG_WORD].sum())

    @cached_property
    def symbols(self) -> int:
        """Ellipses and number signs, but for those of headings."""
        signs = self._text.count("#")
        return self._text.count("...") + self._text.count("…") + (signs - _heading_signs(self._lines) if signs else 0)

    @cached_property
    def stop_words(self) -> int:
        """How many of Gopher's eight are there."""
        lowered = self._text.lower()
        return sum(f" {word} " in lowered or lowered.startswith(f"{word} ") for word in _STOP_WORDS)

    @cached_property
    def bullet_lines(self) -> int:
        """Lines that start with a bullet."""
        return sum([line.startswith(_BULLETS) for line in self._lines])

    @cached_property
    def ellipsis_lines(self) -> int:
        """Lines that end with an ellipsis."""
        if "..." not in self._text and "…" not in self._text:
            return 0
        return sum([line.endswith(("...", "…")) for line in self._lines])

    @cached_property
    def ended_lines(self) -> int:
        """Lines that end with punctuation."""
        return sum([line[-1] in _END_MARKS for line in self._lines])

    @cached_property
    def short_lines(self) -> int:
        """Lines of fewer than 30 characters."""
        return sum([len(line) < 30 for line in self._lines])

    @cached_property
    def mean_line_length(self) -> float:
        """In characters."""
        return sum(map(len, self._lines)) / max(1, self.lines)

    @cached_property
    def longest_line(self) -> int:
        """In characters."""
        return max(map(len, self._lines), default=0)

    @cached_property
    def repeated_line_share(self) -> float:
        """Share of characters in weighty lines that were there before."""
        return _repeated_share([line for line in self._lines if len(line) >= _WEIGHTY or _weighs(line)])

    @cached_property
    def repeated_paragraph_share(self) -> float:
        """The same of paragraphs."""
        return _repeated_share([part for part in self._text.split("\n\n") if len(part) >= _WEIGHTY or _weighs(part)])

    @cached_property
    def top_ngram_shares(self) -> tuple[float, float, float]:
        """For n of 2, 3 and 4: the share of characters in the most frequent n-gram, all its occurrences together.

        Where no pair is frequent enough for a share over 0.16 of 3 or 4, those are given as 0 without being counted.
        """
        share, count = _top_ngram(self._lexemes, 2)
        sums = np.concatenate(([0], np.cumsum(self._sizes)))
        widest = int((sums[4:] - sums[:-4]).max()) if len(sums) > 4 else 0
        if count * widest <= 0.16 * int(sums[-1]):
            return share, 0.0, 0.0
        return share, _top_ngram(self._lexemes, 3)[0], _top_ngram(self._lexemes, 4)[0]

    @cached_property
    def repeated_10gram_share(self) -> float:
        """Share of characters inside 10-grams that occurred before, each character counted once."""
        return _repeated_ngram_share(self._lexemes, 10)


def shape_of(text: str) -> Shape:
    """Measure a text."""
    return Shape(text)


def _sample(text: str) -> str:
    """The whole, or four windows spread over it; repetition inside a long text shows in each of them."""
    if len(text) <= _SAMPLES * _SAMPLE_CHARS:
        return text
    step = (len(text) - _SAMPLE_CHARS) // (_SAMPLES - 1)
    return "\n\n".join(text[start : start + _SAMPLE_CHARS] for start in range(0, _SAMPLES * step, step))


def _heading_signs(lines: list[str]) -> int:
    """Number signs that open a heading of Markdown."""
    return sum(len(line) - len(line.lstrip("#")) for line in lines if line.lstrip("#")[:1] == " ")


def _weighs(text: str) -> bool:
    """Whether a text shorter than 20 characters has 10 Han ones or more (three bytes each)."""
    return (
        len(text) >= _WEIGHTY // 2 and not text.isascii() and len(text.encode("utf-8", "replace")) >= _WEIGHTY * 3 // 2
    )


def _repeated_share(parts: list[str]) -> float:
    """Share of the characters in parts that were there before."""
    total = sum(map(len, parts))
    if not total:
        return 0.0
    return 1 - sum(map(len, set(parts))) / total


def _top_ngram(found: Lexemes, length: int) -> tuple[float, int]:
    """Share of characters in the most frequent n-gram, and how often it occurs; 0 and 0 where none repeats."""
    if len(found) < 2 * length:
        return 0.0, 0
    grams = shingles(found.hashes, length)
    ordered = np.sort(grams)
    borders = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1], [True])))
    counts = borders[1:] - borders[:-1]
    top = int(counts.argmax())
    count = int(counts[top])
    if count < 2:
        return 0.0, 0
    sizes = found.ends - found.starts
    first = int((grams == ordered[borders[top]]).argmax())
    return float(sizes[first : first + length].sum() * count / sizes.sum()), count


def _repeated_ngram_share(found: Lexemes, length: int) -> float:
    """Share of characters inside n-grams that occurred before, each character counted once."""
    if len(found) < 2 * length:
        return 0.0
    grams = shingles(found.hashes, length)
    ordered = np.sort(grams)
    if (ordered[1:] != ordered[:-1]).all():
        return 0.0
    order = np.argsort(grams, kind="stable")
    repeated = np.zeros(len(found) + 1, np.int64)
    later = order[1:][grams[order][1:] == grams[order][:-1]]
    np.add.at(repeated, later, 1)
    np.add.at(repeated, later + length, -1)
    covered = np.cumsum(repeated)[:-1] > 0
    sizes = found.ends - found.starts
    return float(sizes[covered].sum() / max(1, sizes.sum()))
