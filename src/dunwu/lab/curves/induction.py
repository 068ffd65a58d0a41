"""Induction heads: attention from a token to what followed it before, on random tokens that repeat.

The prefix-matching score of Olsson et al. (arXiv:2209.11895): 25 random tokens, neither the commonest nor the rarest, four times
over behind a start token. Here a query's weights on all its earlier followers are added up (the paper averages entries), so that a
perfect induction head scores 1 whichever repeat it looks at.

Shapes: `B` sequences, `T` time, `S` source time, `H` heads.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dunwu.core.errors import ModelError
from dunwu.model.decoder import Decoder
from dunwu.model.watch import attention_weights

PERIOD, REPEATS = 25, 4
COMMONEST, RAREST = 0.05, 0.25  # of the tokens that occur, by how often: left out

Ids = npt.NDArray[np.int64]


def shape_for(context: int) -> tuple[int, int]:
    """Tokens that repeat, and how often, in a context of this length. Raises ModelError where two repeats have no room."""
    if context < 9:
        raise ModelError(
            f"a context of {context} tokens has no room for a repeat of four; measure a model with a longer one"
        )
    period = min(PERIOD, (context - 1) // 2)
    return period, min(REPEATS, (context - 1) // period)


def middling_tokens(tokens: npt.NDArray[np.integer], *, least: int, without: frozenset[int]) -> Ids:
    """Ids that occur in `tokens`, without the commonest and the rarest; all that occur where these are fewer than `least`."""
    ids, counts = np.unique(np.asarray(tokens), return_counts=True)
    keep = ~np.isin(ids, list(without))
    ordered = ids[keep][np.argsort(-counts[keep], kind="stable")].astype(np.int64)
    middle = ordered[int(COMMONEST * len(ordered)) : len(ordered) - int(RAREST * len(ordered))]
    return middle if len(middle) >= least else ordered


def repeated_tokens(
    pool: Ids, *, start_id: int, period: int, repeats: int, sequences: int, seed: int
) -> npt.NDArray[np.int64]:
    """`[B, 1 + period · repeats]`: each its own random tokens, no token twice within a repeat where the pool allows it."""
    generator = np.random.default_rng([seed, period])
    blocks = [generator.choice(pool, period, replace=len(pool) < period) for _ in range(sequences)]
    return np.stack([np.concatenate([[start_id], *[block] * repeats]) for block in blocks]).astype(np.int64)


def followers(time: int, period: int) -> npt.NDArray[np.bool_]:
    """`[T, S]`: whether S is a place right behind an earlier occurrence of the token at T; the start token is place 0."""
    t, s = np.arange(time)[:, None], np.arange(time)[None]
    back = t + 1 - s
    return (back > 0) & (back % period == 0) & (s >= 2)


def prefix_matching(weights_BHTS: Tensor, period: int) -> Tensor:
    """The score of each head on each sequence, `[B, H]`: the mean over all queries from the second repeat on."""
    time = weights_BHTS.shape[-1]
    wanted_TS = torch.from_numpy(followers(time, period)).to(weights_BHTS)
    return torch.einsum("bhts,ts->bht", weights_BHTS, wanted_TS)[..., 1 + period :].mean(-1)


def chance(time: int, period: int) -> float:
    """The score of a head that attends to all places before it, and to itself, alike."""
    wanted_T = followers(time, period).sum(1) / (np.arange(time) + 1)
    return float(wanted_T[1 + period :].mean())


@torch.no_grad()
def head_scores(model: Decoder, ids_BT: npt.NDArray[np.int64], period: int) -> npt.NDArray[np.float64]:
    """The scores of all heads, `[layers, B, H]`."""
    found: dict[int, Tensor] = {}

    def see(layer: int, weights_BHTS: Tensor) -> None:
        found[layer] = prefix_matching(weights_BHTS.float(), period)

    with attention_weights(model, see):
        model(torch.from_numpy(ids_BT).to(model.head_weight.device))
    return torch.stack([found[layer] for layer in sorted(found)]).double().cpu().numpy()
