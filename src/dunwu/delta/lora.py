"""LoRA (arXiv:2106.09685): beside each chosen matrix a product of two thin ones learns, `scale · B A x`. B starts at zero.

Rank-stabilised LoRA (arXiv:2312.03732) and LoRA+ (arXiv:2402.12354) are settings of it: the scale, and B's learning rate.

Shapes: `O` outputs, `I` inputs, `r` rank, `E` experts, `M` rows sorted by expert.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from dunwu.core.deltas import LowRankSpec
from dunwu.core.errors import ModelError
from dunwu.delta.base import Delta
from dunwu.delta.exchange import Exchange
from dunwu.delta.peft_lora import Pair, written
from dunwu.delta.places import Place, chosen_places
from dunwu.model.blocks.experts import expert_product
from dunwu.model.decoder import Decoder


class LowRank(nn.Module):
    """The pair beside one matrix: `a` `[r, I]` and `b` `[O, r]`, or for a stack of experts `[E, r, I]` and `[E, O, r]`.

    A is drawn as peft draws it, uniform within `1/sqrt(I)`; B is zero.
    """

    def __init__(self, place: Place, rank: int, scale: float, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.place, self.rank, self.scale, self.dropout = place, rank, scale, dropout
        stack = place.shape[:-2]
        bound = 1.0 / math.sqrt(place.inputs)
        a = torch.empty(*stack, rank, place.inputs).uniform_(-bound, bound, generator=generator)
        self.a = nn.Parameter(a.to(place.device))
        self.b = nn.Parameter(torch.zeros(*stack, place.outputs, rank, device=place.device))

    def merged_into(self, matrix: Tensor, weight: float) -> Tensor:
        """The matrix with `weight` times the change, float32."""
        return matrix + (weight * self.scale) * (self.b.detach() @ self.a.detach())

    def add_to(self, output: Tensor, inputs: tuple[Any, ...], weight: float) -> Tensor:
        """The matrix's product with the pair's added, `weight` times."""
        return self.add(output, inputs, self.a, self.b, weight)

    def add(self, output: Tensor, inputs: tuple[Any, ...], a: Tensor, b: Tensor, weight: float) -> Tensor:
        """The same for other factors of these shapes."""
        x = self._ready(inputs[0])
        if self.dropout and self.place.product.training:
            x = F.dropout(x, self.dropout)
        if self.place.experts is None:
            return add_low_rank(output, x, a, b, self.scale * weight)
        ends_E = cast("Tensor", inputs[3])
        out_MO = expert_product(expert_product(x, a, ends_E), b, ends_E)
        return output + (self.scale * weight) * out_MO.to(output.dtype)

    def exchanged(self) -> Pair:
        """The pair for other programs."""
        return Pair(a=self.a.detach(), b=self.b.detach(), scale=self.scale)

    def _ready(self, x: Tensor) -> Tensor:
        return x if torch.is_autocast_enabled(x.device.type) else x.to(self.a.dtype)


def add_low_rank(output: Tensor, x: Tensor, a_rI: Tensor, b_Or: Tensor, scale: float) -> Tensor:
    """`output + scale · B A x`."""
    small = F.linear(x, a_rI).flatten(0, -2)
    flat = output.flatten(0, -2)
    if flat.dtype == small.dtype:
        return torch.addmm(flat, small, b_Or.mT.to(small.dtype), alpha=scale).view(output.shape)
    return (flat + scale * (small @ b_Or.mT).to(flat.dtype)).view(output.shape)


Spec = TypeVar("Spec", bound=LowRankSpec)
Filled = TypeVar("Filled", bound="Lora")
_PARTS = ("a", "b", "magnitude")


class Lora(Delta[LowRankSpec]):
    """LoRA on the places that the specification's patterns choose.

    `ranks` and `alphas`: other than the specification's, for places by name.
    """

    def __init__(
        self,
        model: Decoder,
        spec: LowRankSpec,
        *,
        seed: int,
        ranks: Mapping[str, int] | None = None,
        alphas: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(model, spec)
        self.pairs: dict[str, LowRank] = {}
        generator = torch.Generator().manual_seed(seed)
        for place in chosen_places(model, spec.targets):
            rank = (ranks or {}).get(place.name, spec.r)
            require_rank(rank, place)
            alpha = (alphas or {}).get(place.name, alpha_of(spec))
            self.put(self.pair(place, rank, scale_of(alpha, rank, spec), generator))

    def pair(self, place: Place, rank: int, scale: float, generator: torch.Generator) -> LowRank:
        """What stands beside one matrix; others of LoRA's kin have their own."""
        return LowRank(place, rank, scale, self.spec.dropout, generator)

    def put(self, pair: LowRank) -> None:
        """Have this pair beside its matrix."""
        self.pairs[pair.place.name] = pair
        self.add_module(pair.place.name.replace(".", "/"), pair)

    def hooks(self) -> Iterator[RemovableHandle]:
        for pair in self.pairs.values():
            yield pair.place.product.register_forward_hook(self._hook(pair))

    def _hook(self, pair: LowRank) -> Any:
        def add(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            return pair.add_to(output, inputs, self.weight) if self.active else None

        return add

    def changed(self) -> Iterator[tuple[Place, Tensor]]:
        for pair in self.pairs.values():
            yield pair.place, pair.merged_into(pair.place.read(), self.weight)

    @property
    def row_wise(self) -> bool:
        return all(pair.place.experts is None for pair in self.pairs.values())

    def exchanged(self) -> Exchange:
        own = {name: pair.exchanged() for name, pair in self.pairs.items()}
        return written(
            self.model,
            own,
            rank=self.spec.r,
            alpha=alpha_of(self.spec),
            rank_stabilised=self.spec.rank_stabilised,
            dropout=self.spec.dropout,
        )

    def lr_factor(self, name: str) -> float:
        return self.spec.lr_ratio if name.endswith(".b") else 1.0


def read_spec(kind: type[Spec], config: Mapping[str, Any], pairs: Mapping[str, Pair]) -> Spec:
    """The specification of an adapter in peft's format."""
    return kind(
        r=int(config.get("r", 8)),
        alpha=float(config.get("lora_alpha", 8)),
        targets=tuple(pairs),
        dropout=float(config.get("lora_dropout") or 0.0),
        rank_stabilised=bool(config.get("use_rslora")),
    )


def of_pairs(kind: Callable[..., Filled], model: Decoder, spec: LowRankSpec, pairs: Mapping[str, Pair]) -> Filled:
    """A delta with these values, not attached yet."""
    ranks = {name: pair.rank for name, pair in pairs.items()}
    alphas = {
        name: pair.scale * (math.sqrt(pair.rank) if spec.rank_stabilised else pair.rank) for name, pair in pairs.items()
    }
    delta = kind(model, spec, seed=0, ranks=ranks, alphas=alphas)
    parts = ((f"{name}.{part}", getattr(pair, part)) for name, pair in pairs.items() for part in _PARTS)
    delta.load({name: value for name, value in parts if value is not None})
    return delta


def alpha_of(spec: LowRankSpec) -> float:
    """How much the product counts, before it is divided."""
    return 2.0 * spec.r if spec.alpha == "auto" else spec.alpha


def scale_of(alpha: float, rank: int, spec: LowRankSpec) -> float:
    """What the product is multiplied by."""
    return alpha / math.sqrt(rank) if spec.rank_stabilised else alpha / rank


def require_rank(rank: int, place: Place) -> None:
    """Raise ModelError for a rank that the matrix itself does not have."""
    most = min(place.inputs, place.outputs)
    if rank > most:
        raise ModelError(
            f"r={rank} is more than {place.name} of {place.outputs} × {place.inputs} can have; use {most} or less, or leave it "
            "out of targets"
        )
