"""A small decoder that reads "a b =" and answers from the last place, many of them side by side.

Not the house's own decoder, for three reasons: the answer needs only the last place; a symbol in its place is one of few, so
what depends on it alone is computed once a symbol and not once an example; and the members of an ensemble (seeds, fractions,
weight decays) share each kernel, which on two cores is most of the speed. As in arXiv:2301.05217 there is no normalisation, so
that sums of cosines stay such sums. The operation needs no token: there is one in a table.

Shapes: `M` members, `B` batch, `S` symbols, `D` width, `H` heads, `C` head channels, `F` inner width of the MLP, `V` answers;
`R` rows of a stream: S where it depends on one symbol, 1 where on none, else B.
"""

# ruff: noqa: N815 (shape suffixes of fields are upper case)

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PLACES = 3  # a, b, =


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The size of a network. `init_scale` multiplies all weights at the start: networks that start large memorise with the features that
    they have, and understand later (arXiv:2210.01117)."""

    symbols: int
    answers: int
    width: int = 128
    heads: int = 4
    depth: int = 1
    inner: int = 512
    init_scale: float = 1.0


@dataclass(frozen=True)
class Stream:
    """The residual stream at one place: rows `[M, R, D]`, and which of them each example has (None: its own, or the only one)."""

    x_MRD: Tensor
    symbol_MB: Tensor | None


def take(table_MRX: Tensor, symbol_MB: Tensor | None) -> Tensor:
    """Rows of each member's table, `[M, B, X]`."""
    if symbol_MB is None:
        return table_MRX
    members, rows, width = table_MRX.shape
    first_M1 = torch.arange(members, device=table_MRX.device)[:, None] * rows
    return F.embedding(symbol_MB + first_M1, table_MRX.reshape(members * rows, width))


class Ensemble(nn.Module):
    """`len(seeds)` networks of one shape; a member's weights depend on its seed alone, and no member sees another."""

    def __init__(self, shape: Shape, seeds: Sequence[int]) -> None:
        super().__init__()
        self.shape = shape
        members = [_initial(shape, seed) for seed in seeds]
        self.weights = nn.ParameterDict(
            {name: nn.Parameter(torch.stack([member[name] for member in members])) for name in members[0]}
        )

    def forward(self, a_MB: Tensor, b_MB: Tensor) -> Tensor:
        """Logits `[M, B, V]` of the answers."""
        streams = self._embedded(a_MB, b_MB)
        for layer in range(self.shape.depth - 1):
            streams = [self._block(streams[: place + 1], layer) for place in range(PLACES)]
        last = self._block(streams, self.shape.depth - 1)
        return last.x_MRD @ self.weights["unembed"]

    def alone(self, member: int) -> "Ensemble":
        """One member as an ensemble of its own; its weights are shared."""
        one = Ensemble.__new__(Ensemble)
        nn.Module.__init__(one)
        one.shape = self.shape
        one.weights = nn.ParameterDict({name: weight[member : member + 1] for name, weight in self.weights.items()})
        return one

    @property
    def parameters_each(self) -> int:
        """Of one member."""
        return sum(weight[0].numel() for weight in self.weights.values())

    def norms(self) -> list[float]:
        """The length of all of each member's weights together."""
        squares_M = sum(weight.detach().double().flatten(1).square().sum(1) for weight in self.weights.values())
        return torch.as_tensor(squares_M).sqrt().tolist()

    def _embedded(self, a_MB: Tensor, b_MB: Tensor) -> list[Stream]:
        symbols_MSD, places_MPD = self.weights["embed"], self.weights["places"]
        return [
            Stream(symbols_MSD + places_MPD[:, :1], a_MB),
            Stream(symbols_MSD + places_MPD[:, 1:2], b_MB),
            Stream(places_MPD[:, 2:], None),  # "=" has no other embedding than its place
        ]

    def _block(self, seen: list[Stream], layer: int) -> Stream:
        """The last of the streams `seen` after attention to all of them, and the MLP."""
        here = seen[-1]
        attended_MRD = self._attend(seen, layer)
        alone = len(seen) == 1  # the first place depends on its own symbol only
        x_MRD = (here.x_MRD if alone else take(here.x_MRD, here.symbol_MB)) + attended_MRD
        up_M1F, down_M1D = (self.weights[f"{layer}_{name}"][:, None] for name in ("up_bias", "down_bias"))
        inner_MRF = torch.baddbmm(up_M1F, x_MRD, self.weights[f"{layer}_up"]).relu()
        fed_MRD = torch.baddbmm(down_M1D, inner_MRF, self.weights[f"{layer}_down"])
        return Stream(x_MRD + fed_MRD, here.symbol_MB if alone else None)

    def _attend(self, seen: list[Stream], layer: int) -> Tensor:
        """Attention of the last place, as a sum over places of weight times value."""
        here = seen[-1]
        if len(seen) == 1:
            return here.x_MRD @ self.weights[f"{layer}_v"] @ self.weights[f"{layer}_o"]
        q_MRHC = self._heads(here.x_MRD @ self.weights[f"{layer}_q"])
        scores, values = [], []
        for stream in seen:
            k_MRHC = self._heads(stream.x_MRD @ self.weights[f"{layer}_k"])
            v_MRD = stream.x_MRD @ self.weights[f"{layer}_v"]
            if here.x_MRD.shape[1] == 1 or stream is here:  # a score for each symbol
                scores.append(take((q_MRHC * k_MRHC).sum(-1), stream.symbol_MB))
            else:
                q_MBHC, k_MBHC = (
                    self._heads(take(x.flatten(2), s.symbol_MB)) for x, s in ((q_MRHC, here), (k_MRHC, stream))
                )
                scores.append((q_MBHC * k_MBHC).sum(-1))
            values.append(self._heads(take(v_MRD, stream.symbol_MB)))
        scale = (self.shape.width // self.shape.heads) ** -0.5
        weights_PMBH = (torch.stack(torch.broadcast_tensors(*scores)) * scale).softmax(0)
        mixed_MBHC = weights_PMBH[0][..., None] * values[0]
        for w_MBH, v_MBHC in zip(weights_PMBH[1:], values[1:], strict=True):
            mixed_MBHC = mixed_MBHC + w_MBH[..., None] * v_MBHC
        return mixed_MBHC.flatten(2) @ self.weights[f"{layer}_o"]

    def _heads(self, x_MRD: Tensor) -> Tensor:
        return x_MRD.unflatten(-1, (self.shape.heads, -1))


def _initial(shape: Shape, seed: int) -> dict[str, Tensor]:
    """One member's weights: normal, by the inverse root of what each matrix reads; biases at zero."""
    generator = torch.Generator().manual_seed(seed)
    width, inner = shape.width, shape.inner

    def normal(rows: int, columns: int, fan: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator) * shape.init_scale / fan**0.5

    weights = {
        "embed": normal(shape.symbols, width, width),
        "places": normal(PLACES, width, width),
        "unembed": normal(width, shape.answers, width),
    }
    for layer in range(shape.depth):
        weights |= {f"{layer}_{name}": normal(width, width, width) for name in "qkvo"}
        weights |= {f"{layer}_up": normal(width, inner, width), f"{layer}_down": normal(inner, width, inner)}
        weights |= {f"{layer}_up_bias": torch.zeros(inner), f"{layer}_down_bias": torch.zeros(width)}
    return weights


def answer_losses(logits_MBV: Tensor, answer_MB: Tensor) -> Tensor:
    """Cross-entropy of each example, `[M, B]`, nats: log(1 + Σ exp(z_other - z_answer)).

    In float32 the usual form rounds a loss below 6e-8, and its gradient, to nothing, and training stops there ("softmax
    collapse", arXiv:2501.04697); this one keeps seven digits however small they are, without float64.
    """
    chosen_MB1 = answer_MB[..., None]
    margins_MBV = logits_MBV - logits_MBV.gather(-1, chosen_MB1)
    others_MBV = margins_MBV.scatter(-1, chosen_MB1, float("-inf"))
    return F.softplus(others_MBV.logsumexp(-1), threshold=80.0)
