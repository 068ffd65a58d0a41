"""BLEU and chrF by `sacrebleu`, ROUGE by `rouge_score`: how much of a reference an answer shares, each from 0 to 1.

An answer's BLEU is that of a sentence (smoothed as sacrebleu does by default); `corpus_score` gives the figure that papers print,
which is no mean of these. ROUGE's own tokenizer drops all but a to z and digits, so a Chinese text would share nothing with
itself: each Chinese character counts as a word here, and English is as the library has it.
"""

import importlib.util
import re
from collections.abc import Sequence
from typing import Any

from dunwu.core.errors import MissingExtraError
from dunwu.core.rewards import OverlapReward
from dunwu.evaluate.scorers.base import Case, answers_in, column

_CHINESE = re.compile("([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])")


class OverlapScorer:
    """Compares with the column `spec.answer`: a text, or a list of references, of which the nearest counts."""

    def __init__(self, spec: OverlapReward, *, name: str = "overlap") -> None:
        """Raises MissingExtraError without the library."""
        self.spec, self.name = spec, name
        package, module = ("rouge-score", "rouge_score") if _is_rouge(spec) else ("sacrebleu", "sacrebleu")
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(package, "metrics", f"the measure {spec.measure}")
        self._rouge = _rouge(spec) if _is_rouge(spec) else None

    def __call__(self, cases: Sequence[Case]) -> list[float]:
        return [self._score(case.completion.text, self._references(case)) for case in cases]

    def corpus_score(self, cases: Sequence[Case]) -> float:
        """The figure for all answers together: BLEU and chrF over all n-grams, ROUGE as the mean."""
        if self._rouge is not None:
            scores = self(cases)
            return sum(scores) / len(scores)
        references = [self._references(case) for case in cases]
        most = max(map(len, references))
        padded = [own + [""] * (most - len(own)) for own in references]
        chinese = any(_CHINESE.search(text) for own in references for text in own)
        metric = self._metric(chinese=chinese, whole=True)
        streams = [list(stream) for stream in zip(*padded, strict=True)]
        return float(metric.corpus_score([case.completion.text for case in cases], streams).score) / 100

    def _references(self, case: Case) -> list[str]:
        return answers_in(column(case, self.spec.answer, self.name))

    def _score(self, said: str, references: list[str]) -> float:
        if self._rouge is not None:
            found = [self._rouge.score(reference, said)[self.spec.measure].fmeasure for reference in references]
            return float(max(found))
        chinese = any(_CHINESE.search(text) for text in references)
        return float(self._metric(chinese=chinese, whole=False).sentence_score(said, references).score) / 100

    def _metric(self, *, chinese: bool, whole: bool) -> Any:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF

        if self.spec.measure != "bleu":
            return CHRF(word_order=2 if self.spec.measure == "chrf++" else 0)
        tokenize = self.spec.tokenize
        return BLEU(
            tokenize=("zh" if chinese else "13a") if tokenize == "auto" else tokenize, effective_order=not whole
        )


def _is_rouge(spec: OverlapReward) -> bool:
    return spec.measure.startswith("rouge")


def _rouge(spec: OverlapReward) -> Any:
    from rouge_score import rouge_scorer, tokenizers

    class Tokenizer(tokenizers.Tokenizer):
        """The library's own, and each Chinese character a word."""

        _inner = tokenizers.DefaultTokenizer(spec.stem)

        def tokenize(self, text: str) -> list[str]:
            words: list[str] = []
            for part in _CHINESE.split(text):
                words += [part] if _CHINESE.fullmatch(part) else self._inner.tokenize(part)
            return words

    return rouge_scorer.RougeScorer([spec.measure], tokenizer=Tokenizer())
