"""EVA (arXiv:2410.07170): LoRA that begins with the directions in which the inputs of each matrix vary most, and gives rank to
where these explain most.

`start_from` reads a few batches; a singular value decomposition that grows with each finds the directions. B begins at zero.

Shapes: `N` tokens, `I` inputs, `r` rank.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dunwu.core.deltas import EvaSpec
from dunwu.core.errors import ModelError
from dunwu.delta.lora import Lora, LowRank, alpha_of, scale_of
from dunwu.model.decoder import Decoder

MOST_ROWS = 1024
"""Tokens of a batch that are looked at, evenly spread: the directions are known long before all are."""


class Eva(Lora):
    """LoRA whose As begin by what the model reads."""

    spec: EvaSpec

    def __init__(self, model: Decoder, spec: EvaSpec, *, seed: int) -> None:
        super().__init__(model, spec, seed=seed)
        for name, pair in self.pairs.items():
            if pair.place.experts is not None:
                raise ModelError(
                    f"eva has no form for {name}, a stack of experts; leave it out of targets, or take lora"
                )

    def start_from(self, batches: Iterable[Callable[[], object]]) -> None:
        """Let the model read (each of `batches` runs it once), and begin anew by what its matrices were given."""
        most = {name: min(round(self.spec.r * self.spec.rho), pair.place.inputs) for name, pair in self.pairs.items()}
        found = {name: _Directions(size) for name, size in most.items()}
        handles = [
            pair.place.product.register_forward_pre_hook(_watch(found[name])) for name, pair in self.pairs.items()
        ]
        with torch.no_grad():
            for read in batches:
                read()
        for handle in handles:
            handle.remove()
        self._begin(found)

    def _begin(self, found: dict[str, "_Directions"]) -> None:
        shares = [
            (float(share), name, number) for name, own in found.items() for number, share in enumerate(own.explained())
        ]
        chosen = sorted(shares, key=lambda one: (-one[0], one[1], one[2]))[: self.spec.r * len(self.pairs)]
        ranks = {name: sum(one[1] == name for one in chosen) for name in self.pairs}
        scale = scale_of(alpha_of(self.spec), self.spec.r, self.spec)
        generator = torch.Generator().manual_seed(0)
        self.unhook()
        for name, rank in ranks.items():
            old = self.pairs.pop(name)
            delattr(self, name.replace(".", "/"))
            rank = min(rank, old.place.outputs, old.place.inputs)
            if rank:
                pair = LowRank(old.place, rank, scale, self.spec.dropout, generator)
                pair.a.data = found[name].first(rank).to(pair.a.device)
                self.put(pair)
        self.rehook()


class _Directions:
    """The main directions of rows that come in parts: right singular vectors, by sequential decomposition."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept = torch.empty(0, 0)
        self._total = 0.0
        self._values = torch.empty(0)

    def see(self, x: Tensor) -> None:
        rows_NI = x.detach().float().flatten(0, -2)
        rows_NI = rows_NI[:: max(1, len(rows_NI) // MOST_ROWS)][:MOST_ROWS]
        self._total += float(rows_NI.square().sum())
        stacked = torch.cat((self._kept, rows_NI)) if len(self._kept) else rows_NI
        _, values, right = torch.linalg.svd(stacked, full_matrices=False)
        self._values = values[: self._most]
        self._kept = self._values[:, None] * right[: self._most]

    def explained(self) -> Tensor:
        """Of what the rows have, the share of each direction."""
        return self._values.square() / max(self._total, 1e-30)

    def first(self, rank: int) -> Tensor:
        """Directions `[r, I]` of length 1."""
        return self._kept[:rank] / self._values[:rank, None].clamp(min=1e-30)


def _watch(directions: _Directions) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        directions.see(inputs[0])

    return look
