"""Scores of items that a reward model was not asked to learn from: rows read without gradients."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch

from dunwu.align.answers import Item, rows_of
from dunwu.align.reference import packed
from dunwu.align.reward.model import RewardModel
from dunwu.align.stream import row_width
from dunwu.core.errors import ModelError
from dunwu.model.blocks.rotary import depends_on_length

Scores = npt.NDArray[np.float32]


def score_items(model: RewardModel, items: Sequence[Item], *, rows: int = 4) -> list[Scores]:
    """The scores of each item at its places, head by head, `[N, K]`; rows are made and read the same way whatever is asked
    beside. Raises ModelError where a score is not a finite number."""
    if not items:
        return []
    share = not depends_on_length(model.config)
    found: dict[int, Scores] = {}
    for members in packed(items, share=share, rows=rows):
        values_NK = _read(model, items, members, share=share)
        numbers = list(chain.from_iterable(members))
        counts = [sum(int(answer.learned.sum()) for answer in items[number].answers) for number in numbers]
        found |= dict(zip(numbers, np.split(values_NK, np.cumsum(counts)[:-1]), strict=True))
    return [found[number] for number in range(len(items))]


@torch.inference_mode()
def _read(model: RewardModel, items: Sequence[Item], members: list[list[int]], *, share: bool) -> Scores:
    lengths = [sum(items[at].length if share else items[at].length_apart for at in row) for row in members]
    batch = rows_of(items, members, row_width(max(lengths), 0), share=share)
    training = model.training
    model.eval()
    try:
        values_NK = model(batch.to(next(model.parameters()).device)).float().cpu().numpy()
    finally:
        model.train(training)
    if not np.isfinite(values_NK).all():
        raise ModelError(
            f"the reward model gives the score {values_NK[~np.isfinite(values_NK)][0]}: check its weights, or take another"
        )
    return values_NK
