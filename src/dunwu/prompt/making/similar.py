"""How alike two texts are: ROUGE-L between questions, found exactly and without comparing all with all; MinHash between whole rows."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from dunwu.corpus.dedup import BANDS, PERMUTATIONS, Signatures, signatures
from dunwu.corpus.measure import lexemes

_ALONE = "\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ffff"  # written without spaces
_WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+")
_ALONE_WORD = re.compile(f"[{_ALONE}]")
_HAN_NUMBERS = frozenset("〇零一二三四五六七八九十百千万亿两甲乙丙丁")
_ROWS = PERMUTATIONS // BANDS


def words(text: str) -> list[str]:
    """Words in lower case, without punctuation; of a script written without spaces, characters."""
    return _WORD.findall(text.lower())


def is_alone(word: str) -> bool:
    """Whether this is a character of a script that is written without spaces."""
    return len(word) == 1 and bool(_ALONE_WORD.match(word))


def common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence, many places of `left` at a time: Hyyrö, "Bit-parallel LCS-length computation
    revisited" (2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(left):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(left)) - 1
    row = full
    for word in right:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(left) - row.bit_count()


def rouge_l(left: Sequence[str], right: Sequence[str]) -> float:
    """ROUGE-L as an F-measure of precision and recall in equal parts (Lin 2004): 2 LCS / (n + m); 0 for an empty text."""
    return 2 * common_subsequence(left, right) / (len(left) + len(right)) if left and right else 0.0


class Questions:
    """Texts that are kept, and whether a new one is like one of them: ROUGE-L of at least `threshold`. `numbers_tell`: texts with other
    numbers in them are not alike, such as questions on articles 3 and 4 of a contract.

    Only texts that can reach the threshold are compared. ROUGE-L of t between n and m words takes t (n + m) / 2 words in common, and
    m is at least n t / (2 - t); so of the candidate's n words, all but that many minus one cannot be missing: the rarest of them are
    looked up (the prefix filter of Chaudhuri et al., "A primitive operator for similarity joins", 2006). Nothing is overlooked.
    """

    def __init__(self, threshold: float, *, numbers_tell: bool = False) -> None:
        self.threshold, self.numbers_tell = threshold, numbers_tell
        self._texts: list[tuple[list[str], Hashable]] = []
        self._holding: defaultdict[str, list[int]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str, family: Hashable = None) -> None:
        """Keep a text. `family`: those of one family may be alike."""
        found = words(text)
        for word in set(found):
            self._holding[word].append(len(self._texts))
        self._texts.append((found, family))

    def like(self, text: str, family: Hashable = None) -> bool:
        """Whether a text of another family, or of none, is that much alike."""
        found, t = words(text), self.threshold
        shortest = len(found) * t / (2 - t)
        needed = max(1, math.ceil(t * (len(found) + shortest) / 2 - 1e-9))
        rarest = sorted(found, key=lambda word: len(self._holding.get(word, ())))[: len(found) - needed + 1]
        for number in {number for word in set(rarest) for number in self._holding.get(word, ())}:
            other, others_family = self._texts[number]
            if family is not None and family == others_family:
                continue
            if self.numbers_tell and _numbers(found) != _numbers(other):
                continue
            if _may_reach(found, other, t) and rouge_l(found, other) >= t:
                return True
        return False


def _numbers(found: Sequence[str]) -> list[str]:
    return [word for word in found if word.isdecimal() or word in _HAN_NUMBERS]


def _may_reach(left: Sequence[str], right: Sequence[str], threshold: float) -> bool:
    """Whether lengths, and then words in common, allow the threshold."""
    wanted = threshold * (len(left) + len(right)) / 2 - 1e-9
    return min(len(left), len(right)) >= wanted and (Counter(left) & Counter(right)).total() >= wanted


class Sketches:
    """Texts that are kept, by MinHash of their runs of five words, and whether a new one is like one of them. A bucket for each band,
    so that the time for a text does not grow with their number."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._kept: list[tuple[Signatures, Hashable]] = []
        self._buckets: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)

    def add(self, text: str, family: Hashable = None) -> None:
        """Keep a text. `family`: those of one family may be alike."""
        sketch = _sketch(text)
        for key in _bands(sketch):
            self._buckets[key].append(len(self._kept))
        self._kept.append((sketch, family))

    def like(self, text: str, family: Hashable = None) -> bool:
        """Whether a text of another family, or of none, has an estimated Jaccard similarity of at least the threshold."""
        sketch = _sketch(text)
        for number in {number for key in _bands(sketch) for number in self._buckets.get(key, ())}:
            other, others_family = self._kept[number]
            if (family is None or family != others_family) and float((sketch == other).mean()) >= self.threshold:
                return True
        return False


def _sketch(text: str) -> Signatures:
    found = lexemes(text).hashes
    if not len(found):
        return np.zeros(PERMUTATIONS, np.uint32)
    return signatures(found, np.array([0, len(found)], np.int64))[0]


def _bands(sketch: Signatures) -> list[tuple[int, bytes]]:
    return [(band, sketch[band * _ROWS : (band + 1) * _ROWS].tobytes()) for band in range(BANDS)]
