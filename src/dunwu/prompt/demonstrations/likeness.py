"""How alike texts are: BM25, tf-idf, or vectors of a model. Chinese counts by characters, other scripts by words.

Shapes: `P` texts of the pool, `V` words, `D` vector width.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dunwu.prompt.demonstrations.base import Embed
from dunwu.prompt.making.similar import words

Scores = npt.NDArray[np.float64]


class Likeness(Protocol):
    """Compares texts with those of a pool."""

    def to(self, text: str) -> Scores:
        """How like the text each of the pool is, [P]."""
        ...

    def among(self, places: Sequence[int]) -> npt.NDArray[np.float64]:
        """How alike members of the pool are, [len, len], at most 1."""
        ...


class TfIdf(Likeness):
    """Cosine of counts, each times log((1 + P) / (1 + texts with the word)) + 1."""

    def __init__(self, texts: Sequence[str]) -> None:
        counted = [Counter(words(text)) for text in texts]
        found = Counter(word for one in counted for word in one)
        self.places = {word: place for place, word in enumerate(found)}
        total = len(texts)
        self.idf_V = np.array([math.log((1 + total) / (1 + found[word])) + 1 for word in self.places])
        self.vectors_PV = np.stack([self._vector(one) for one in counted]) if texts else np.zeros((0, 0))

    def to(self, text: str) -> Scores:
        return self.vectors_PV @ self._vector(Counter(words(text)))

    def among(self, places: Sequence[int]) -> npt.NDArray[np.float64]:
        chosen = self.vectors_PV[list(places)]
        return chosen @ chosen.T

    def _vector(self, counts: Counter[str]) -> Scores:
        vector_V = np.zeros(len(self.places))
        for word, count in counts.items():
            if word in self.places:
                vector_V[self.places[word]] = count
        vector_V *= self.idf_V
        length = float(np.linalg.norm(vector_V))
        return vector_V / length if length else vector_V


class Bm25(Likeness):
    """Okapi BM25 with Lucene's idf, log(1 + (P - n + 0.5) / (n + 0.5)); members of the pool are compared by tf-idf, since BM25 is
    no measure between two texts."""

    def __init__(self, texts: Sequence[str], *, k1: float = 1.2, b: float = 0.75) -> None:
        self.counted = [Counter(words(text)) for text in texts]
        lengths_P = np.array([one.total() for one in self.counted], dtype=np.float64)
        mean = float(lengths_P.mean()) if len(texts) and lengths_P.any() else 1.0
        self.k1, self.norm_P = k1, k1 * (1 - b + b * lengths_P / mean)
        self.holding: dict[str, list[int]] = {}
        for place, one in enumerate(self.counted):
            for word in one:
                self.holding.setdefault(word, []).append(place)
        self._tf_idf = TfIdf(texts)

    def to(self, text: str) -> Scores:
        scores_P = np.zeros(len(self.counted))
        for word, times in Counter(words(text)).items():
            places = self.holding.get(word, [])
            idf = math.log(1 + (len(self.counted) - len(places) + 0.5) / (len(places) + 0.5))
            for place in places:
                count = self.counted[place][word]
                scores_P[place] += times * idf * count * (self.k1 + 1) / (count + self.norm_P[place])
        return scores_P

    def among(self, places: Sequence[int]) -> npt.NDArray[np.float64]:
        return self._tf_idf.among(places)


class Embedded(Likeness):
    """Cosine of a model's vectors."""

    def __init__(self, texts: Sequence[str], embed: Embed) -> None:
        self.embed = embed
        self.vectors_PD = _unit(np.asarray(embed(texts), dtype=np.float64))

    def to(self, text: str) -> Scores:
        return self.vectors_PD @ _unit(np.asarray(self.embed([text]), dtype=np.float64))[0]

    def among(self, places: Sequence[int]) -> npt.NDArray[np.float64]:
        chosen = self.vectors_PD[list(places)]
        return chosen @ chosen.T


def _unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)
