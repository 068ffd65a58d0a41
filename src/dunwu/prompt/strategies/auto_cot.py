"""Auto-CoT: questions of all sorts, each with a chain of thought that the model itself wrote (Zhang et al. 2022, arXiv:2210.03493).

Questions are parted into clusters; of each cluster, the question nearest to its centre whose chain is simple enough is shown.
Here: tf-idf instead of Sentence-BERT, and where an answer is known, a chain must come to it.
"""

import random
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import PrivateAttr, SkipValidation

from dunwu.chat.options import ChatOptions
from dunwu.chat.protocol import Chat
from dunwu.core.errors import DataError, RecipeError
from dunwu.core.problems import Problem
from dunwu.core.records import Completion, Message
from dunwu.core.section import Count
from dunwu.prompt.answers import agree
from dunwu.prompt.demonstrations.base import require_pool
from dunwu.prompt.demonstrations.likeness import TfIdf
from dunwu.prompt.making.similar import words
from dunwu.prompt.strategies.base import Ask, Steps, Strategy, alongside, carried_out, derived_seed, user
from dunwu.prompt.strategies.chain_of_thought import ChainOfThought
from dunwu.prompt.strategies.few_shot import FewShot

MOST_WORDS, MOST_STEPS = 60, 5  # of a question, of its chain: the paper's
CANDIDATES = 5  # chains asked for in each cluster
_ROUNDS = 100


class AutoCot(Strategy):
    """Demonstrations that the model wrote itself, of the questions `asked`, stand before the question. Where none are written yet, the
    first conversation has them written, and later ones use them too."""

    title: ClassVar[str] = "auto-cot"
    asked: SkipValidation[Sequence[Sequence[Problem]]]
    seed: int = 0
    tokens: Count = 512
    _written: list[tuple[Problem, ...]] = PrivateAttr(default_factory=list[tuple[Problem, ...]])

    def write(self, chat: Chat) -> None:
        """Have the model write the demonstrations now."""
        self._written.append(carried_out(written(self.asked, ChatOptions(seed=self.seed)), chat))

    def steps(self, messages: Sequence[Message], options: ChatOptions) -> Steps:
        if not self._written:
            self._written.append((yield from written(self.asked, ChatOptions(seed=self.seed))))
        shots = self._written[0]
        shown = FewShot(shown=lambda problem: shots, answers="chain", tokens=self.tokens)
        return (yield from shown.steps(messages, options))


def auto_cot(
    pool: Sequence[Problem],
    chat: Chat,
    *,
    k: int = 4,
    seed: int = 0,
    options: ChatOptions | None = None,
    most_steps: int = MOST_STEPS,
) -> tuple[Problem, ...]:
    """One demonstration of each of `k` clusters, its chain in the column `chain`; fewer where a cluster has none that is simple and
    right. Raises DataError where none has one."""
    return carried_out(written(questions(pool, k, seed), options or ChatOptions(seed=seed), most_steps), chat)


def questions(pool: Sequence[Problem], k: int, seed: int) -> list[list[Problem]]:
    """Of each of `k` clusters those that are asked, the nearest to its centre first. Raises DataError where all are too long."""
    pool = require_pool(pool)
    if not 1 <= k <= len(pool):
        raise RecipeError(f"k={k} clusters of a pool of {len(pool)}; use 1 to {len(pool)}")
    vectors = TfIdf([problem.input for problem in pool]).vectors_PV
    asked = [_nearest(pool, members) for members in _ordered_clusters(vectors, k, seed)]
    if not any(asked):
        raise DataError(f"all {len(pool)} questions of the pool have more than {MOST_WORDS} words; give shorter ones")
    return asked


def written(
    asked: Sequence[Sequence[Problem]], options: ChatOptions, most_steps: int = MOST_STEPS
) -> Generator[Sequence[Ask], Sequence[Completion], tuple[Problem, ...]]:
    """Steps that lead to one demonstration of each group, whose chain the model wrote. Raises DataError where no chain will do."""
    flat = [problem for group in asked for problem in group]
    own = [options, *(replace(options, seed=derived_seed(options.seed, place)) for place in range(1, len(flat)))]
    told = yield from alongside(
        [ChainOfThought().steps((user(one.input),), chosen) for one, chosen in zip(flat, own, strict=True)]
    )
    chains = iter([one.text if one.finish_reason == "stop" else "" for one in told])
    found = [_first_good([(problem, next(chains)) for problem in group], most_steps) for group in asked]
    kept = tuple(one for one in found if one is not None)
    if not kept:
        raise DataError(
            f"none of {len(flat)} chains of thought is short and comes to the right answer; show chains of your own"
        )
    return kept


def clusters(vectors_PV: npt.NDArray[np.float64], k: int, seed: int) -> npt.NDArray[np.int64]:
    """k-means with k-means++ starts: the cluster of each row. Where two centres are equally near, the first."""
    rng = random.Random(f"clusters {seed}")
    centres = [vectors_PV[rng.randrange(len(vectors_PV))]]
    while len(centres) < k:
        apart = np.min([((vectors_PV - centre) ** 2).sum(1) for centre in centres], axis=0)
        weights = apart if apart.sum() > 0 else np.ones(len(apart))
        centres.append(vectors_PV[rng.choices(range(len(vectors_PV)), list(weights))[0]])
    centres_KV = np.stack(centres)
    member_P = np.full(len(vectors_PV), -1)
    for _ in range(_ROUNDS):
        nearest_P = _distances(vectors_PV, centres_KV).argmin(1)
        if (nearest_P == member_P).all():
            break
        member_P = nearest_P
        for number in range(k):
            if (member_P == number).any():
                centres_KV[number] = vectors_PV[member_P == number].mean(0)
    return member_P


def _ordered_clusters(vectors_PV: npt.NDArray[np.float64], k: int, seed: int) -> list[list[int]]:
    """Members of each cluster, the nearest to its centre first."""
    member_P = clusters(vectors_PV, k, seed)
    ordered: list[list[int]] = []
    for number in range(k):
        places = np.flatnonzero(member_P == number)
        if len(places):
            apart = ((vectors_PV[places] - vectors_PV[places].mean(0)) ** 2).sum(1)
            ordered.append([int(places[one]) for one in np.argsort(apart, kind="stable")])
    return ordered


def _distances(vectors_PV: npt.NDArray[np.float64], centres_KV: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.stack([((vectors_PV - centre) ** 2).sum(1) for centre in centres_KV], axis=1)


def _nearest(pool: Sequence[Problem], members: Sequence[int]) -> list[Problem]:
    short = [pool[place] for place in members if len(words(pool[place].input)) <= MOST_WORDS]
    return short[:CANDIDATES]


def _first_good(chains: Sequence[tuple[Problem, str]], most_steps: int) -> Problem | None:
    for problem, chain in chains:
        lines = [line for line in chain.splitlines() if line.strip()]
        if chain.strip() and len(lines) <= most_steps and (not problem.target or agree(chain, problem.target)):
            return replace(problem, columns={**problem.columns, "chain": chain.strip()})
    return None
