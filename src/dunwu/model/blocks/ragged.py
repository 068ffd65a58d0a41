"""Attention of one new token over keys and values that lie in a shared store, without gathering them.

Shapes: `K` key/value heads, `G` query heads that share one of them, `P` slots of the store, `C` head channels, `H` all query
heads, `X` what the softmax runs over.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

MOST_RUNS = 8
"""A text that lies in more pieces is gathered first: one copy costs less than so many small products."""


def attend_one(
    q_KGC: Tensor,
    keys_KPC: Tensor,
    values_KPC: Tensor,
    runs: Sequence[tuple[int, int]],
    out_KGC: Tensor,
    *,
    cap: float | None,
    sinks_H: Tensor | None,
) -> None:
    """Write into `out` what one token, its queries scaled, finds in the slots of `runs` (first, and the one after the last)."""
    if len(runs) > MOST_RUNS:
        slots_S = slots_of(runs, keys_KPC.device)
        keys_KPC, values_KPC = keys_KPC.index_select(1, slots_S), values_KPC.index_select(1, slots_S)
        runs = [(0, len(slots_S))]
    pieces = [torch.bmm(q_KGC, keys_KPC[:, start:end].mT) for start, end in runs]
    scores_KGX = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)
    if cap is not None:
        scores_KGX = cap * torch.tanh(scores_KGX / cap)
    if sinks_H is not None:
        sinks_KG1 = sinks_H.to(scores_KGX.dtype).view(*scores_KGX.shape[:2], 1)
        scores_KGX = torch.cat((scores_KGX, sinks_KG1), dim=-1)
    weights_KGX = softmax(scores_KGX)
    done = 0
    for start, end in runs:
        share = weights_KGX[..., done : done + end - start]
        if done == 0:
            torch.bmm(share, values_KPC[:, start:end], out=out_KGC)
        else:
            out_KGC.baddbmm_(share, values_KPC[:, start:end])
        done += end - start


def slots_of(runs: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """Every slot of the runs, int64."""
    return torch.cat([torch.arange(start, end, device=device) for start, end in runs])


def softmax(scores: Tensor) -> Tensor:
    """Over the last axis, in float32 where the scores have less."""
    half = scores.dtype in (torch.float16, torch.bfloat16)
    return torch.softmax(scores, dim=-1, dtype=torch.float32 if half else scores.dtype).to(scores.dtype)
