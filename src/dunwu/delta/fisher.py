"""A mask by Fisher information (arXiv:2111.09839): of the model's own numbers those learn to which the loss is most sensitive.

The measure is the empirical Fisher information, the mean of squared gradients over some batches; the batches are as they are
given, so that smaller ones come nearer to the paper's, of one example each. What is kept is sparse: places and differences.
Until `start_from` has seen batches, evenly spread places stand for those that it will choose.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dunwu.core.deltas import FisherSpec
from dunwu.core.errors import ModelError
from dunwu.delta.selective import Selective, fitting_names, learnable
from dunwu.delta.standins import Difference, settle
from dunwu.model.decoder import Decoder

_PLACES = "places"


class FisherMask(Selective[FisherSpec]):
    """Differences `[k]` at `places` `[k]` of the flattened parameters that the specification's patterns choose."""

    def __init__(self, model: Decoder, spec: FisherSpec, *, seed: int) -> None:
        super().__init__(model, spec, [])
        self.candidates = fitting_names(spec.targets, learnable(model))
        self.places: dict[str, Tensor] = {}
        self._choose(dict(self._evenly()))

    @property
    def wanted(self) -> int:
        """How many numbers learn: the share, and one at least."""
        return max(1, round(self.spec.share * sum(self._size(name) for name in self.candidates)))

    def start_from(self, batches: Iterable[Callable[[], object]]) -> None:
        """Choose the places anew; each of `batches` gives the loss of one. What was learned before is forgotten.

        Raises ModelError where there are none, or where what they give is no loss.
        """
        own = {name: self.model.get_parameter(name) for name in self.candidates}
        fisher = {name: torch.zeros(self._size(name), device=one.device) for name, one in own.items()}
        seen, learned = 0, {name: one.requires_grad for name, one in own.items()}
        try:
            for one in own.values():
                one.requires_grad_(True)
            for run in batches:
                for total, gradient in zip(fisher.values(), _gradients(run, list(own.values())), strict=True):
                    total += gradient.float().flatten().square()
                seen += 1
        finally:
            for name, one in own.items():
                one.requires_grad_(learned[name])
        if seen == 0:
            raise ModelError("fisher_mask chooses by gradients, and there is no batch to take them from; give some")
        self._choose(_greatest(fisher, self.wanted))
        settle(self.model)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over saved places and differences, however many there are of each parameter."""
        ending = f".{_PLACES}"
        found = {name.removesuffix(ending): tensor for name, tensor in tensors.items() if name.endswith(ending)}
        for name, places in found.items():
            if name not in self.candidates or places.ndim != 1 or not _within(places, self._size(name)):
                raise ModelError(
                    f"the saved fisher_mask has places of {name} that this model's parameters or its specification lack; it belongs "
                    "to another base, or to another specification"
                )
        if {n: len(own) for n, own in found.items()} != {n: len(own) for n, own in self.places.items()}:
            self._choose({name: places.clone() for name, places in found.items()})
        super().load(tensors)  # in place where it can: an optimiser may hold the differences
        settle(self.model)

    def _choose(self, places: Mapping[str, Tensor]) -> None:
        for name in self.places:
            delattr(self, name.replace(".", "/"))
            delattr(self, f"{name}.{_PLACES}".replace(".", "/"))
        self.values, self.places = {}, {}
        for name, own in places.items():
            device = self.model.get_parameter(name).device
            self.places[name] = own.to(device)
            self.values[name] = nn.Parameter(torch.zeros(len(own), device=device))
            self.register_parameter(name.replace(".", "/"), self.values[name])
            self.register_buffer(f"{name}.{_PLACES}".replace(".", "/"), self.places[name])

    def _difference(self, name: str) -> Difference:
        places = self.get_buffer(f"{name}.{_PLACES}".replace(".", "/"))  # where `to` has put them
        return Difference(self.values[name], self.weight, places)

    def _evenly(self) -> Iterator[tuple[str, Tensor]]:
        for name in self.candidates:
            size = self._size(name)
            count = max(1, round(self.spec.share * size))
            yield name, _as_places(torch.arange(count) * size // count, size)

    def _size(self, name: str) -> int:
        return self.model.get_parameter(name).numel()


def _gradients(run: Callable[[], object], parameters: list[nn.Parameter]) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        loss = run()
        if not isinstance(loss, Tensor) or loss.ndim != 0 or not loss.requires_grad:
            raise ModelError(
                "fisher_mask chooses by gradients: each batch must give its loss, a number that depends on the weights"
            )
        return torch.autograd.grad(loss, parameters, materialize_grads=True)


def _greatest(fisher: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """The places of the `count` greatest values of all, by parameter, in order; parameters without any are left out."""
    best = torch.cat(list(fisher.values())).topk(count).indices.sort().values
    found: dict[str, Tensor] = {}
    start: Any = 0
    for name, values in fisher.items():
        own = best[(best >= start) & (best < start + len(values))] - start
        if len(own):
            found[name] = _as_places(own, len(values))
        start += len(values)
    return found


def _as_places(places: Tensor, size: int) -> Tensor:
    return places.to(torch.int32 if size < 1 << 31 else torch.int64)


def _within(places: Tensor, size: int) -> bool:
    return not places.is_floating_point() and (
        len(places) == 0 or (int(places.min()) >= 0 and int(places.max()) < size)
    )
