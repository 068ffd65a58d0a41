"""What a model makes of texts of equal length: the loss of each token, and whether it is the likeliest.

Shapes: `N` texts, `L` tokens of each, `T` targets.
"""

# ruff: noqa: N815 (shape suffixes of fields are upper case)

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from dunwu.model.decoder import Decoder

LOGITS = 8_000_000  # numbers held at a time


@dataclass(frozen=True, kw_only=True)
class Read:
    """Of each text and each token but the first: nats, and whether no token is likelier."""

    nats_NT: npt.NDArray[np.float64]
    likeliest_NT: npt.NDArray[np.bool_]


@torch.no_grad()
def read_texts(model: Decoder, ids_NL: npt.NDArray[np.int64], *, before: Sequence[int] = ()) -> Read:
    """Read them. `before`: ids put in front of each, whose own losses are left out."""
    device = model.head_weight.device
    count, length = ids_NL.shape
    front = torch.tensor(list(before), dtype=torch.int64).expand(count, -1)
    all_NL = torch.cat((front, torch.from_numpy(ids_NL)), dim=1)
    nats = np.empty((count, length - 1))
    likeliest = np.empty((count, length - 1), bool)
    rows = max(1, LOGITS // (all_NL.shape[1] * model.config.vocab_size))
    for at in range(0, count, rows):
        ids = all_NL[at : at + rows].to(device)
        hidden = model(ids[:, :-1])[:, len(before) :]
        logits, targets = model.logits(hidden).float(), ids[:, len(before) + 1 :]
        nats[at : at + rows] = F.cross_entropy(logits.mT, targets, reduction="none").double().cpu().numpy()
        likeliest[at : at + rows] = (logits.argmax(-1) == targets).cpu().numpy()
    return Read(nats_NT=nats, likeliest_NT=likeliest)
