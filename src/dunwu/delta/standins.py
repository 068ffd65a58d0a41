"""Learning some of a model's own parameters: what deltas add to them stands in the model, and what was there is kept aside.

A parameter keeps its identity (kernels, tied heads and autograd see it as ever); its numbers are the ground, those of the base,
plus the differences of all deltas that count. Its gradient is handed on to the differences, which alone learn, so that a step
decays them towards the base. Ground, sum and difference: such parameters take three times their room while deltas stand in them.
"""

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dunwu.model.decoder import Decoder


@dataclass(frozen=True, eq=False)
class Difference:
    """What is added to a parameter, `weight` times: `values` of its shape; with `places` (of its flattened numbers, `[k]`) `[k]`."""

    values: nn.Parameter
    weight: float = 1.0
    places: Tensor | None = None

    def add_to(self, target: Tensor) -> None:
        """Add it in place."""
        values = self.weight * self.values.detach()
        if self.places is None:
            target.add_(values.to(target.dtype))
        else:
            target.index_put_(self._indices(target), values.to(target.dtype), accumulate=True)

    def take(self, gradient: Tensor) -> None:
        """Its share of the parameter's gradient."""
        if not self.values.requires_grad:
            return
        own = gradient if self.places is None else gradient[self._indices(gradient)]
        own = self.weight * own.to(self.values.dtype)
        self.values.grad = own if self.values.grad is None else self.values.grad + own

    def _indices(self, like: Tensor) -> tuple[Tensor, ...]:
        assert self.places is not None
        return torch.unravel_index(self.places.long(), like.shape)


@runtime_checkable
class Differing(Protocol):
    """What changes parameters of a model's own."""

    def differences(self) -> Mapping[str, Difference]:
        """What it adds at present, by the model's names."""
        ...


class _StandIn:
    """One parameter, its ground, and what is added."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter, self.ground = parameter, parameter.data
        parameter.data = torch.empty_like(self.ground, memory_format=torch.contiguous_format)
        self.added: Sequence[Difference] = ()
        self._seen: object = None
        self._handle: RemovableHandle | None = None

    def become(self, added: Sequence[Difference]) -> None:
        """Stand for the ground and these."""
        self.added, self._seen = added, None
        self.refresh()
        learns = any(one.values.requires_grad for one in added)
        self.parameter.requires_grad_(learns)
        if learns and self._handle is None:
            self._handle = self.parameter.register_post_accumulate_grad_hook(self._hand_on)

    def refresh(self) -> None:
        """Make the sum anew if a difference has moved."""
        seen = [(one.values.data_ptr(), one.values._version) for one in self.added]
        if seen == self._seen:
            return
        with torch.inference_mode(False), torch.no_grad():
            self.parameter.data.copy_(self.ground)
            for one in self.added:
                one.add_to(self.parameter.data)
        self._seen = seen

    def leave(self) -> None:
        """The ground again, frozen."""
        self.parameter.data = self.ground
        self.parameter.requires_grad_(False)
        if self._handle is not None:
            self._handle.remove()

    def _hand_on(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        for one in self.added:
            one.take(parameter.grad)
        parameter.grad = None
        self._seen = None  # a step may follow, and torch's fused ones do not count what they write


class StandIns:
    """All of a model; one of its `changes` while there are any."""

    def __init__(self, model: Decoder) -> None:
        self._model = model
        self._standing: dict[str, _StandIn] = {}
        self._handle = model.register_forward_pre_hook(self._refresh)

    @property
    def active(self) -> bool:
        """Never: the weights say it all, once they are made anew."""
        self._refresh()
        return False

    @property
    def columns_in_front(self) -> int:
        return 0

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [one.parameter for one in self._standing.values()]

    def ground(self, name: str) -> Tensor:
        """What a parameter is without what stands in it."""
        one = self._standing.get(name)
        return self._model.get_parameter(name).detach() if one is None else one.ground

    def become(self, wanted: Mapping[str, Sequence[Difference]]) -> None:
        """Stand for these and no others."""
        for name in [name for name in self._standing if name not in wanted]:
            self._standing.pop(name).leave()
        for name, added in wanted.items():
            if name not in self._standing:
                self._standing[name] = _StandIn(self._model.get_parameter(name))
            self._standing[name].become(added)

    def leave(self) -> None:
        """Nothing stands in the model any more."""
        self.become({})
        self._handle.remove()

    def _refresh(self, *_: Any) -> None:
        for one in self._standing.values():
            one.refresh()


def settle(model: Decoder) -> None:
    """Let the model's parameters be what those that are attached make of them."""
    wanted: dict[str, list[Difference]] = {}
    for change in model.changes:
        if isinstance(change, Differing):
            for name, difference in change.differences().items():
                wanted.setdefault(name, []).append(difference)
    known = _standins_of(model)
    if not wanted and known is None:
        return
    if known is None:
        known = StandIns(model)
        model.changes = (*model.changes, known)
    known.become(wanted)
    if not wanted:
        known.leave()
        model.changes = tuple(change for change in model.changes if change is not known)


@contextlib.contextmanager
def lifted(model: Decoder) -> Generator[None]:
    """Within, the model's parameters are their grounds: what is merged goes into these."""
    known = _standins_of(model)
    if known is not None:
        known.become({})
    try:
        yield
    finally:
        settle(model)


def standing(model: Decoder) -> list[nn.Parameter]:
    """The parameters in which something stands."""
    known = _standins_of(model)
    return [] if known is None else known.parameters


def ground(model: Decoder, name: str) -> Tensor:
    """What a parameter is without what stands in it."""
    known = _standins_of(model)
    return model.get_parameter(name).detach() if known is None else known.ground(name)


def _standins_of(model: Decoder) -> StandIns | None:
    return next((change for change in model.changes if isinstance(change, StandIns)), None)
