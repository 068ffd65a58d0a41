"""Choices calibrated against what a model says to a question without content: it may like an answer for its own sake, or for having
been shown last.

Contextual calibration (Zhao et al. 2021, arXiv:2102.09690): p(choice | question) / p(choice | "N/A"), made to sum to 1.
Domain-context calibration (Fei et al. 2023, arXiv:2305.19148): the same against random words of the domain.

Shapes: `N` questions without content, `C` choices.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dunwu.chat.text_model import AroundText, Likelihood, TextModel
from dunwu.core.errors import DataError, RecipeError
from dunwu.core.problems import Problem
from dunwu.core.records import Completion

Floats = npt.NDArray[np.float64]
CONTENT_FREE = ("N/A", "[MASK]", "")
"""The paper's three."""
DOMAIN_TEXTS = 20
Neutral = Callable[[str], Sequence[str]]
"""The contexts without content that belong to a context; none leaves its choices as they are."""


def prior(logprobs_NC: Sequence[Sequence[float]] | Floats) -> Floats:
    """What the model thinks of the choices before it knows the question: the log of the mean probability, [C], nats."""
    logprobs = np.atleast_2d(np.asarray(logprobs_NC, dtype=np.float64))
    if logprobs.shape[0] == 0 or logprobs.shape[1] == 0:
        raise DataError("a prior needs one question without content and one choice; give some")
    return np.log(np.exp(_normalised(logprobs)).mean(axis=0))


def calibrated(logprobs_C: Sequence[float] | Floats, prior_C: Floats) -> Floats:
    """Log-probabilities of the choices, [C], that sum to 1 and of which the prior has been taken out."""
    return _normalised(np.asarray(logprobs_C, dtype=np.float64) - prior_C)


def _normalised(logprobs: Floats) -> Floats:
    shifted = logprobs - logprobs.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def domain_texts(inputs: Sequence[str], *, count: int = DOMAIN_TEXTS, seed: int = 0) -> list[str]:
    """Random words of the inputs, as many as these have on average; of Chinese, characters."""
    if not inputs or count < 1:
        raise RecipeError(f"{count} texts of {len(inputs)} inputs; give some inputs, and ask for 1 text or more")
    apart = [re.findall(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+", text) for text in inputs]
    pool = [word for words in apart for word in words] or ["N/A"]
    length = max(1, round(sum(map(len, apart)) / len(apart)))
    rng = random.Random(f"domain {seed}")
    return ["".join(_spaced(rng.choices(pool, k=length))) for _ in range(count)]


def _spaced(words: Sequence[str]) -> list[str]:
    """A space between words, none beside Chinese characters."""
    chinese = re.compile(r"[\u3400-\u9fff]")
    return [
        word if place == 0 or (chinese.match(word) and chinese.match(words[place - 1])) else f" {word}"
        for place, word in enumerate(words)
    ]


def without_content(problem: Problem, filler: str) -> Problem:
    """The problem with the filler where its row's texts stand in the input, so that the words around them stay; where none does,
    the filler is all of it."""
    texts = sorted({text for value in problem.columns.values() for text in _texts(value)}, key=len, reverse=True)
    found = [text for text in texts if len(text) > 1 and text in problem.input]
    if not found:
        return replace(problem, input=filler)
    pattern = re.compile("|".join(map(re.escape, found)))
    return replace(problem, input=pattern.sub(lambda _: filler, problem.input))


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value.strip()]
    if isinstance(value, dict):
        return [text for one in value.values() for text in _texts(one)]
    if isinstance(value, list | tuple):
        return [text for one in value for text in _texts(one)]
    return []


class CalibratedText(AroundText):
    """A model whose likelihoods of choices are calibrated. Neighbouring pairs with one context are the choices of one question.

    Their log-probabilities sum to 1 over the choices: they say how likely each is among these, and no longer how likely as a text.
    """

    def __init__(self, model: TextModel, neutral: Neutral) -> None:
        super().__init__(model)
        self.neutral = neutral
        self._priors: dict[tuple[tuple[str, ...], tuple[str, ...]], Floats] = {}

    def complete(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[Completion]:
        return self.model.complete(prompts, max_tokens=max_tokens, stop=stop, temperature=temperature, seed=seed)

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        told = self.model.likelihoods(pairs)
        questions = [
            (first, end, tuple(self.neutral(pairs[first][0]))) for first, end in _runs([one for one, _ in pairs])
        ]
        asked = [(first, end, contexts) for first, end, contexts in questions if contexts and end - first > 1]
        keys = [(contexts, tuple(choice for _, choice in pairs[first:end])) for first, end, contexts in asked]
        self._learn(keys)
        for (first, end, _), key in zip(asked, keys, strict=True):
            fresh = calibrated([one.logprob for one in told[first:end]], self._priors[key])
            told[first:end] = [
                replace(one, logprob=float(value)) for one, value in zip(told[first:end], fresh, strict=True)
            ]
        return told

    def _learn(self, keys: Sequence[tuple[tuple[str, ...], tuple[str, ...]]]) -> None:
        """The priors that are not known yet, all in one call."""
        new = [key for key in dict.fromkeys(keys) if key not in self._priors]
        flat = [(context, choice) for contexts, choices in new for context in contexts for choice in choices]
        told = iter(self.model.likelihoods(flat)) if flat else iter(())
        for contexts, choices in new:
            rows = [[next(told).logprob for _ in choices] for _ in contexts]
            self._priors[contexts, choices] = prior(rows)


def _runs(contexts: Sequence[str]) -> list[tuple[int, int]]:
    """(first, end) of neighbours that are equal."""
    starts = [place for place in range(len(contexts)) if place == 0 or contexts[place] != contexts[place - 1]]
    return list(zip(starts, [*starts[1:], len(contexts)], strict=True)) if starts else []
