"""Which of two answers a model finds the better one, before and after it learned, on pairs that were kept from it."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from dunwu.align.answers import CHOSEN, REJECTED, Item
from dunwu.core.records import Score
from dunwu.evaluate.stats import paired_proportions, wilson

Logprobs = Sequence[npt.NDArray[np.float32]]
NAMES = ("likelier_before", "likelier_after", "reward_accuracy")


def pairs_of(items: Sequence[Item]) -> list[int]:
    """The items that have a better and a worse answer."""
    return [
        number for number, item in enumerate(items) if {CHOSEN, REJECTED} <= {answer.kind for answer in item.answers}
    ]


def preference_scores(items: Sequence[Item], before: Logprobs, after: Logprobs) -> dict[str, Any]:
    """Facts on the pairs among `items`, from summed log-probabilities of their answers; empty without pairs.

    `likelier_before` and `likelier_after`: the share of pairs whose chosen answer has the higher mean log-probability a
    token. `reward_accuracy`: the share whose chosen answer gained more log-probability than the other, which is how methods
    with a reference measure reward; without any learning it would be a toss. `change`: of the share that is likelier.
    """
    pairs = pairs_of(items)
    if not pairs:
        return {}
    likelier = [[_higher(items[at], values[at], by_token=True) for at in pairs] for values in (before, after)]
    gained = [_higher(items[at], after[at] - before[at], by_token=False) for at in pairs]
    scores = {name: asdict(_share(name, wins)) for name, wins in zip(NAMES, (*likelier, gained), strict=True)}
    return {"scores": scores, "change": paired_proportions(likelier[0], likelier[1])._asdict(), "pairs": len(pairs)}


def _higher(item: Item, values: npt.NDArray[np.float32], *, by_token: bool) -> bool:
    kinds = [answer.kind for answer in item.answers]
    chosen, rejected = (
        values[kinds.index(kind)] / (item.answers[kinds.index(kind)].learned.sum() if by_token else 1)
        for kind in (CHOSEN, REJECTED)
    )
    return bool(chosen > rejected)


def _share(name: str, wins: Sequence[bool]) -> Score:
    low, high = wilson(sum(wins), len(wins))
    return Score(name=name, value=sum(wins) / len(wins), low=low, high=high, n=len(wins), unit="share", chance=0.5)
