"""Several deltas made one, of the same kind and on the same base: by sums, by TIES (arXiv:2306.01708) or by DARE (arXiv:2311.03099).

Of LoRA's kin what is combined is the difference that each makes to a matrix. Weighed sums need no rounding: the ranks lie beside
each other. Anything else is made whole and cut to a rank by singular values, the nearest of that rank. Selective methods are
differences already; (IA)³'s scales are combined as differences from one.

TIES keeps of each delta the greatest `density` of its numbers, lets the sum of what is left choose each number's sign, and takes
the mean of those that agree. DARE keeps a random `density` of each, enlarged so that their mean stays, and sums.

Shapes: `O` outputs, `I` inputs, `r` rank.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from dunwu.core.deltas import LoraSpec, PatternSpec
from dunwu.core.errors import ModelError
from dunwu.delta.base import Delta
from dunwu.delta.fisher import FisherMask
from dunwu.delta.ia3 import Ia3
from dunwu.delta.lora import Lora, of_pairs
from dunwu.delta.peft_lora import Pair
from dunwu.delta.registry import DELTAS
from dunwu.delta.selective import ByPattern, Selective

How = Literal["linear", "ties", "dare"]
DENSITY: Mapping[str, float] = {"linear": 1.0, "ties": 0.2, "dare": 0.5}
"""What is kept of each where nothing is said."""
_Differences = dict[str, Tensor]


def combine(
    deltas: Sequence[Delta[Any]],
    *,
    how: How = "linear",
    weights: Sequence[float] | None = None,
    density: float | None = None,
    rank: int | None = None,
    seed: int = 0,
) -> Delta[Any]:
    """One delta of several, each counted `weights` times (once), on the model of the first, attached nowhere.

    `density`: see above. `rank`: the most that a result of LoRA's kin has; None is what it takes to lose nothing. `seed`: what
    DARE drops. Raises ModelError where the deltas do not fit each other, or where a kind has no sum.
    """
    counts = [1.0] * len(deltas) if weights is None else [float(weight) for weight in weights]
    kept = DENSITY.get(how, 0.0) if density is None else density
    _require_sensible(deltas, counts, how, kept, rank)
    way = _Way(how, counts, kept, seed)
    if all(isinstance(delta, Lora) for delta in deltas):
        return _low_rank([cast("Lora", delta) for delta in deltas], way, rank)
    if rank is not None:
        raise ModelError(f"rank={rank} is for LoRA and its kin; leave it out")
    if all(isinstance(delta, FisherMask) for delta in deltas):
        return _masks([cast("FisherMask", delta) for delta in deltas], way)
    if all(isinstance(delta, Ia3 | Selective) and not isinstance(delta, FisherMask) for delta in deltas):
        alike = all(type(delta) is type(deltas[0]) and _shapes(delta) == _shapes(deltas[0]) for delta in deltas)
        if alike:
            return _alike(deltas, way)
    if all(isinstance(delta, Selective) and set(delta.trained()) == set(delta.differences_whole()) for delta in deltas):
        return _of_parameters([cast("Selective[Any]", delta) for delta in deltas], way)
    methods = ", ".join(delta.spec.name for delta in deltas)
    raise ModelError(
        f"{methods} cannot become one delta: LoRA and its kin can, (IA)³ on the same matrices, and methods that change the model's "
        "own parameters; attach the others together instead, each with its weight"
    )


class _Way:
    """How differences of the same names become one."""

    def __init__(self, how: How, weights: Sequence[float], density: float, seed: int) -> None:
        self.how, self.weights, self.density, self.seed = how, weights, density, seed

    def __call__(self, each: Sequence[_Differences]) -> _Differences:
        """The combination; a delta that lacks a name has zeros there."""
        names = list(dict.fromkeys(name for one in each for name in one))
        trimmed = [self._kept(number, one) for number, one in enumerate(each)]
        found: _Differences = {}
        for name in names:
            like = next(one[name] for one in each if name in one)
            parts = [
                weight * one.get(name, torch.zeros_like(like))
                for weight, one in zip(self.weights, trimmed, strict=True)
            ]
            found[name] = _agreeing_mean(torch.stack(parts)) if self.how == "ties" else torch.stack(parts).sum(0)
        return found

    def _kept(self, number: int, one: _Differences) -> _Differences:
        if self.how == "linear" or self.density == 1.0:
            return one
        if self.how == "ties":
            return _greatest(one, self.density)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        return {name: _dropped(value, self.density, generator) for name, value in one.items()}


def _greatest(one: _Differences, density: float) -> _Differences:
    """The greatest share of all numbers of a delta; zeros for the rest."""
    sizes = torch.cat([value.abs().flatten() for value in one.values()])
    least = sizes.topk(max(1, round(density * len(sizes)))).values[-1]
    return {name: torch.where(value.abs() >= least, value, 0.0) for name, value in one.items()}


def _dropped(value: Tensor, density: float, generator: torch.Generator) -> Tensor:
    stays = torch.rand(value.shape, generator=generator).to(value.device) < density
    return torch.where(stays, value / density, 0.0)


def _agreeing_mean(parts: Tensor) -> Tensor:
    """Of each number the mean of those that have the sign of their sum."""
    agrees = parts.sign() == parts.sum(0).sign()
    agrees &= parts != 0.0
    return torch.where(agrees, parts, 0.0).sum(0) / agrees.sum(0).clamp(min=1)


# Kinds


def _low_rank(deltas: Sequence[Lora], way: _Way, rank: int | None) -> Lora:
    each = [{name: pair.exchanged() for name, pair in delta.pairs.items()} for delta in deltas]
    if any(pair.magnitude is not None for one in each for pair in one.values()):
        raise ModelError("dora gives rows their lengths, which have no sum; merge one, and go on from what it makes")
    if way.how == "linear" and rank is None:
        pairs = _beside(each, way.weights)
    else:
        whole = way([{name: pair.scale * (pair.b @ pair.a) for name, pair in one.items()} for one in each])
        pairs = {name: _nearest(difference, rank) for name, difference in whole.items()}
    most = max(pair.rank for pair in pairs.values())
    return of_pairs(Lora, deltas[0].model, LoraSpec(r=most, alpha=float(most), targets=tuple(pairs)), pairs)


def _beside(each: Sequence[Mapping[str, Pair]], weights: Sequence[float]) -> dict[str, Pair]:
    """The ranks of all beside each other: `Σ weight · scale · B A`, exactly. Those that a matrix lacks are folded into its own."""
    found: dict[str, Pair] = {}
    for name in dict.fromkeys(name for one in each for name in one):
        own = [(weight, one[name]) for weight, one in zip(weights, each, strict=True) if name in one]
        a = torch.cat([pair.a for _, pair in own], dim=-2)
        b = torch.cat([weight * pair.scale * pair.b for weight, pair in own], dim=-1)
        fits = a.shape[-2] <= min(a.shape[-1], b.shape[-2])
        found[name] = Pair(a=a, b=b, scale=1.0) if fits else _nearest(b @ a, None)
    return found


def _nearest(difference: Tensor, rank: int | None) -> Pair:
    """The product of that rank that is nearest; None: of as many as matter to float32."""
    left, values, right = torch.linalg.svd(difference.double(), full_matrices=False)
    if rank is None:
        matter = values > 1e-7 * values.amax(-1, keepdim=True).clamp(min=1e-30)
        rank = max(1, int(matter.sum(-1).max()))
    rank = min(rank, values.shape[-1])
    root = values[..., :rank].sqrt()
    a, b = root[..., None] * right[..., :rank, :], left[..., :rank] * root[..., None, :]
    return Pair(a=a.to(difference.dtype), b=b.to(difference.dtype), scale=1.0)


def _alike(deltas: Sequence[Delta[Any]], way: _Way) -> Delta[Any]:
    """Of one kind, on the same things."""
    start = 1.0 if isinstance(deltas[0], Ia3) else 0.0
    whole = way([{name: value - start for name, value in delta.tensors().items()} for delta in deltas])
    made = DELTAS[deltas[0].spec.name](deltas[0].model, deltas[0].spec, seed=0)
    made.load({name: value + start for name, value in whole.items()})
    return made


def _masks(deltas: Sequence[FisherMask], way: _Way) -> FisherMask:
    """Sparse as they are: where any has a place, and something is left of it."""
    whole = way([delta.differences_whole() for delta in deltas])
    targets = tuple(dict.fromkeys(target for delta in deltas for target in delta.spec.targets))
    made = FisherMask(deltas[0].model, deltas[0].spec.model_copy(update={"targets": targets}), seed=0)
    tensors: dict[str, Tensor] = {}
    for name, difference in whole.items():
        flat = difference.flatten()
        places = flat.nonzero().flatten()
        if len(places):
            tensors |= {
                name: flat[places],
                f"{name}.places": places.to(torch.int32 if len(flat) < 1 << 31 else torch.int64),
            }
    made.load(tensors)
    return made


def _of_parameters(deltas: Sequence[Selective[Any]], way: _Way) -> ByPattern:
    """Of several kinds, or on several things: the parameters that any of them changes."""
    whole = way([delta.differences_whole() for delta in deltas])
    made = ByPattern(deltas[0].model, PatternSpec(targets=tuple(whole)), seed=0)
    made.load(whole)
    return made


def _shapes(delta: Delta[Any]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in delta.tensors().items()}


def _require_sensible(
    deltas: Sequence[Delta[Any]], weights: Sequence[float], how: str, density: float, rank: int | None
) -> None:
    if how not in DENSITY:
        raise ModelError(f"how={how!r} is not known; use linear, ties or dare")
    if not deltas:
        raise ModelError("there is no delta to combine; give two or more")
    if len(weights) != len(deltas):
        raise ModelError(f"there are {len(weights)} weights for {len(deltas)} deltas; give one for each")
    if not 0.0 < density <= 1.0:
        raise ModelError(
            f"density={density} must be above 0 and at most 1: the share of its numbers that each delta keeps"
        )
    if rank is not None and rank < 1:
        raise ModelError(f"rank={rank} must be at least 1")
    first = deltas[0]
    for other in deltas[1:]:
        known = bool(first.base) and bool(other.base)
        if other.model.config != first.model.config or (known and dict(other.base) != dict(first.base)):
            raise ModelError(
                f"{first.spec.name} and {other.spec.name} were trained on different bases, where a sum means nothing; combine deltas "
                "of one base"
            )
