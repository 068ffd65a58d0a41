"""Progress measures: what changes inside a network before its held-out accuracy does (arXiv:2301.05217, sections 4 and 5).

The answers are products in a group. Averaged over all rows of one product, logits are a function on the group, and fall apart
into its representations (`groups.py`); on a cyclic group these are the cosines and sines of w(a + b) in the paper.

- **Concentration**: of an embedding, or of logits over the table: the share of its energy in its `keys` strongest representations;
  constants are left out. For logits it counts what does not depend on the answer alone as not concentrated.
- **Key representations**: the strongest in the logits at the end of the run.
- **Restricted loss**: of logits made of their mean and the key representations only, over all rows. It falls as the mechanism forms.
- **Excluded loss**: of logits without the key representations, over training rows. It rises as the network comes to rely on them.

We differ from the paper in two points: the number of key frequencies is fixed (five on a cyclic group) and not chosen by eye; and
division runs over the multiplicative group by discrete logarithms, without the rows that answer 0.

Shapes: `R` rows, `V` answers, `n` elements of the group, `K` representations, `D` width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dunwu.core.progress import Progress
from dunwu.lab.grok.groups import Group
from dunwu.lab.grok.network import answer_losses
from dunwu.lab.grok.run import Run


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Of one member, a value for each look. `keys`: names of its key representations."""

    steps: tuple[int, ...]
    keys: tuple[str, ...]
    embedding: tuple[float, ...]
    logits: tuple[float, ...]
    restricted_loss: tuple[float, ...]
    excluded_loss: tuple[float, ...]


def energies(function_nX: np.ndarray, group: Group) -> np.ndarray:
    """How much of a function on a group lies in each representation, `[K]`: sums of squares."""
    return np.square(group.parts_Knn @ function_nX).sum((1, 2))


def concentration(energy_K: np.ndarray, keys: int, total: float | None = None) -> float:
    """The share of energy in the strongest `keys` representations, of `total` or of all of them; 0 where there is none."""
    whole = float(energy_K.sum()) if total is None else total
    return float(np.sort(energy_K)[-keys:].sum() / whole) if whole > 0 else 0.0


def expected_concentration(group: Group) -> float:
    """What noise of many columns would give: energy in proportion to dimensions."""
    sizes = np.sort(group.sizes_K)
    return float(sizes[-group.keys :].sum() / sizes.sum())


def by_element(logits_RV: np.ndarray, element_R: np.ndarray, order: int) -> np.ndarray:
    """Logits averaged over the rows whose answer is each element, `[n, V]`."""
    counts_n = np.bincount(element_R, minlength=order)
    rows_R = np.argsort(element_R, kind="stable")
    sums_nV = np.add.reduceat(logits_RV[rows_R], np.cumsum(counts_n) - counts_n)
    return sums_nV / counts_n[:, None]


def logit_energies(logits_RV: np.ndarray, element_R: np.ndarray, group: Group) -> tuple[np.ndarray, float]:
    """Energy over all rows in each representation of the answer, and the whole energy without constants.

    A row's mean over answers is no statement about any of them, and is taken off first.
    """
    centred_RV = logits_RV - logits_RV.mean(1, keepdims=True)
    whole = float(np.square(centred_RV - centred_RV.mean(0)).sum())
    rows = len(element_R) / group.order  # of each element
    return rows * energies(by_element(centred_RV, element_R, group.order), group), whole


def key_part(logits_RV: np.ndarray, element_R: np.ndarray, group: Group, keys_K: Sequence[int]) -> np.ndarray:
    """What the key representations give to each row's logits, `[R, V]`."""
    kept_nn = group.parts_Knn[list(keys_K)].sum(0)
    return (kept_nn @ by_element(logits_RV, element_R, group.order))[element_R]


def mean_loss(logits_RV: np.ndarray, answer_R: np.ndarray) -> float:
    """Cross-entropy in nats."""
    return float(answer_losses(torch.from_numpy(logits_RV), torch.from_numpy(answer_R)).mean())


def measure(run: Run, member: int, progress: Progress) -> Measures | None:
    """The measures of one member at every look of a run; None where the answers are no products in a group."""
    group = run.table.group
    if group is None:
        return None
    reading = _Reading(run, member, group)
    steps = [look.step for look in run.looks]
    keys_K = reading.keys(steps[-1])
    values = []
    for number, step in enumerate(steps):
        values.append(reading.at(step, keys_K))
        progress.update(number + 1, len(steps), member=run.plan.members[member].label)
    embedding, logits, restricted, excluded = zip(*values, strict=True)
    return Measures(
        steps=tuple(steps),
        keys=tuple(group.names[k] for k in keys_K),
        embedding=embedding,
        logits=logits,
        restricted_loss=restricted,
        excluded_loss=excluded,
    )


class _Reading:
    """One member's snapshots, read over the rows whose answers are in the group."""

    def __init__(self, run: Run, member: int, group: Group) -> None:
        self.run, self.member, self.group = run, member, group
        table = run.table
        assert table.element_of_symbol is not None
        self.rows = np.flatnonzero(table.element_R >= 0)
        self.element_R = table.element_R[self.rows]
        self.answer_R = table.c_R[self.rows]
        self.trained_R = np.isin(self.rows, run.splits[member][0])
        symbols = np.flatnonzero(table.element_of_symbol >= 0)
        self.symbol_n = symbols[np.argsort(table.element_of_symbol[symbols])]

    def keys(self, step: int) -> list[int]:
        """The strongest representations in the logits."""
        energy_K, _ = logit_energies(self._logits(step)[0], self.element_R, self.group)
        return sorted(np.argsort(energy_K)[-self.group.keys :].tolist())

    def at(self, step: int, keys_K: Sequence[int]) -> tuple[float, float, float, float]:
        """Both concentrations, the restricted and the excluded loss."""
        logits_RV, embedding_nD = self._logits(step)
        energy_K, whole = logit_energies(logits_RV, self.element_R, self.group)
        key_RV = key_part(logits_RV, self.element_R, self.group, keys_K)
        excluded_RV = (logits_RV - key_RV)[self.trained_R]
        return (
            concentration(energies(embedding_nD, self.group), self.group.keys),
            concentration(energy_K, self.group.keys, whole),
            mean_loss(logits_RV.mean(0) + key_RV, self.answer_R),
            mean_loss(excluded_RV, self.answer_R[self.trained_R]),
        )

    def _logits(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        network = self.run.snapshot(step)
        logits_RV = self.run.logits(network, self.member).double().numpy()[self.rows]
        embedding_SD = network.weights["embed"][self.member].detach().double().numpy()
        return logits_RV, embedding_SD[self.symbol_n]
