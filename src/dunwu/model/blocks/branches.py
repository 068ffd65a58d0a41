"""Attention where texts branch, each branch by itself: a row of eight long answers to one prompt costs eight short rows.

Shapes: `B` batch, `T` time, `H` query heads, `K` key/value heads, `C` head channels; `N` beginnings and `P` the longest's tokens,
`M` branches and `L` the longest's tokens.
"""

# ruff: noqa: N815 (shape suffixes of fields are upper case)

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

WORTH = 0.5  # of the pairs of a whole row's mask: with more there is nothing to win

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Branches:
    """Where the beginnings and the branches of a batch stand, as places in `[B * T]`.

    `start_NP` and `branch_ML` are padded with some place; `of_M` names the beginning of each branch; `sees_MLS`: what a branch's
    token may look at of the beginning's tokens and its own, one after the other. `back_BT`: each token's place among the outputs.
    """

    start_NP: Tensor
    branch_ML: Tensor
    of_M: Tensor
    sees_MLS: Tensor
    back_BT: Tensor

    @classmethod
    def of(cls, document_BT: Tensor | None, branch_BT: Tensor) -> "Branches | None":
        """Of rows in which the tokens of a branch stand together, after its document's beginning; None where a mask costs less."""
        branches = branch_BT.numpy()
        rows, time = branches.shape
        documents = np.zeros_like(branches) if document_BT is None else document_BT.numpy()
        new_BT = np.ones((rows, time), bool)
        new_BT[:, 1:] = (branches[:, 1:] != branches[:, :-1]) | (documents[:, 1:] != documents[:, :-1])
        first_R = np.flatnonzero(new_BT)
        length_R = np.diff(first_R, append=rows * time)
        begins_R = branches.reshape(-1)[first_R] == 0
        of_R = np.cumsum(begins_R) - 1  # the last beginning before it
        if of_R[0] < 0 or begins_R.all() or not _of_one_document(documents, first_R, first_R[begins_R][of_R]):
            return None
        starts, own = _Runs(first_R[begins_R], length_R[begins_R]), _Runs(first_R[~begins_R], length_R[~begins_R])
        pairs = len(starts.first) * starts.most**2 + len(own.first) * own.most * (starts.most + own.most)
        if pairs > WORTH * rows * time**2:
            return None
        of_M = of_R[~begins_R]
        start_MLP = np.broadcast_to(starts.inside[of_M][:, None], (len(of_M), own.most, starts.most))
        own_MLL = np.broadcast_to(np.tri(own.most, dtype=bool), (len(of_M), own.most, own.most))
        back = np.empty(rows * time, np.int64)
        for runs, offset in ((starts, 0), (own, starts.inside.size)):
            back[runs.places[runs.inside]] = offset + np.flatnonzero(runs.inside)
        return cls(
            start_NP=torch.from_numpy(starts.places),
            branch_ML=torch.from_numpy(own.places),
            of_M=torch.from_numpy(of_M),
            sees_MLS=torch.from_numpy(np.concatenate((start_MLP, own_MLL), axis=2)),
            back_BT=torch.from_numpy(back),
        )

    def attend(self, q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, scale: float | None) -> Tensor:
        """Attention of every token to what it may see; gives `[B, T, H, C]`."""
        q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q_BHTC, k_BKSC, v_BKSC))
        grouped = q.shape[1] != k.shape[1]

        def taken(x: Tensor, places: Tensor) -> Tensor:
            return x.index_select(0, places.reshape(-1)).unflatten(0, places.shape).transpose(1, 2)

        start_k, start_v = taken(k, self.start_NP), taken(v, self.start_NP)
        starts = F.scaled_dot_product_attention(
            taken(q, self.start_NP), start_k, start_v, is_causal=True, scale=scale, enable_gqa=grouped
        )
        seen = [
            torch.cat((start.index_select(0, self.of_M), taken(x, self.branch_ML)), dim=2)
            for start, x in ((start_k, k), (start_v, v))
        ]
        own = F.scaled_dot_product_attention(
            taken(q, self.branch_ML), *seen, attn_mask=self.sees_MLS[:, None], scale=scale, enable_gqa=grouped
        )
        both = torch.cat([x.transpose(1, 2).flatten(0, 1) for x in (starts, own)])
        return both.index_select(0, self.back_BT).unflatten(0, (len(q_BHTC), -1))


class _Runs:
    """Tokens that stand together: the first of each run, its length, and the places of all, padded with each run's last one."""

    def __init__(self, first_R: Ints, length_R: Ints) -> None:
        self.first, self.most = first_R, int(length_R.max())
        counted = np.arange(self.most)
        self.inside = counted < length_R[:, None]
        self.places = first_R[:, None] + np.minimum(counted, length_R[:, None] - 1)


def _of_one_document(documents_BT: Ints, first_R: Ints, start_R: Ints) -> bool:
    """Whether each run stands in the row and the document of its beginning."""
    time, documents = documents_BT.shape[1], documents_BT.reshape(-1)
    same_row = (first_R // time == start_R // time).all()
    return bool(same_row and (documents[first_R] == documents[start_R]).all())
