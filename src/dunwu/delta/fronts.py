"""Columns in front of every text: keys and values that each of its tokens may look at, and no text holds.

A packed row's documents, a padded row, a text in the engine's paged cache: each sees them at its own beginning, and its tokens
count their positions behind them, as in peft. They lie nowhere in a cache: attention puts them in front of what the cache gives.
A layer with a sliding window sees them as long as they are within it, as it sees tokens. Of several the later attached stand in
front; each was made by itself. `weight` is how often a column counts, as if it stood there so many times.

Shapes: `B` batch, `T` time, `S` source time, `P` columns in front, `K` key/value heads, `C` head channels, `H` query heads.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dunwu.core.deltas import FrontSpec
from dunwu.core.errors import ModelError
from dunwu.delta.base import Delta
from dunwu.model.blocks.reading import Reading, causal_mask, document_mask
from dunwu.model.cache import KeyValueCache, RowsCache, Span
from dunwu.model.decoder import Decoder

Spec = TypeVar("Spec", bound=FrontSpec)
Columns = list[tuple[Tensor, Tensor]]
"""Of each layer, what its cache would keep of the columns: `[1, K, P, C]` twice."""


class Recorded(Reading):
    """The reading of one text by itself that keeps what a cache would be given."""

    def __init__(self, x_1PD: Tensor, model: Decoder) -> None:
        super().__init__(x_1PD, model.config, None, None, None)
        self.columns_kept: Columns = []

    def remember(self, layer: int, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        self.columns_kept.append((first, second))
        return first, second


class Fronted(Reading):
    """The same reading, whose texts all begin with these columns."""

    def __init__(self, inner: Reading, columns: Columns, weight: float) -> None:
        self.__dict__.update(inner.__dict__)
        self._inner, self._columns, self._weight = inner, columns, weight
        self._length = columns[0][0].shape[2]
        self.changed, self._masks, self._span_masks = {}, {}, {}
        self._of_spans: dict[tuple[int, int | None], Tensor | None] = {}
        self._kept_by_hand = False

    def remember(self, layer: int, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self._inner.remember(layer, first, second)
        return (first, second) if self.spans is not None else self._in_front_of(layer, first, second)

    def columns(self, layer: int, span: Span, window: int | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        first, second, mask = self._inner.columns(layer, span, window)
        key = span.first_row, window
        if key not in self._of_spans:
            positions_1T = self.positions_BT[:, span.rows]
            self._of_spans[key] = self._widened(mask, positions_1T, window, first.shape[2])
        return *self._in_front_of(layer, first, second), self._of_spans[key]

    def seen(self, window: int | None) -> Tensor | None:
        """Who may look where, `[B or 1, 1, T, P+S]`, true or what is added to scores; None is everything."""
        source = cast("KeyValueCache", self.cache).length + self.time if self.cache is not None else self.time
        return self._widened(seen(self._inner, window), self.positions_BT, window, source + self._before())

    def _before(self) -> int:
        """Columns of the inner reading that are in no cache."""
        return self._inner._length + self._inner._before() if isinstance(self._inner, Fronted) else 0

    def _new_mask(self, window: int | None) -> Tensor | None:
        return self.seen(window)

    def _reach(self) -> Tensor | None:
        reach = self._inner._reach()
        return reach + self._length if self.cache is not None and reach is not None else reach

    def _attend_spans(self, q_1HTC: Tensor, layer: int, sinks_H: Tensor | None) -> Tensor:
        window, attended = self.config.window(layer), []
        for span in self.spans or ():
            k_1KSC, v_1KSC, mask = self.columns(layer, span, window)
            attended.append(self.attend_under(mask, q_1HTC[:, :, span.rows], k_1KSC, v_1KSC, sinks_H))
        return torch.cat(attended, dim=1)

    def _in_front_of(self, layer: int, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        pairs = zip(self._columns[layer], (first, second), strict=True)
        one, two = (torch.cat((own.to(read).expand(len(read), -1, -1, -1), read), dim=2) for own, read in pairs)
        return one, two

    def _widened(self, own: Tensor | None, positions_BT: Tensor, window: int | None, source: int) -> Tensor | None:
        """A mask over `source` columns, with those in front before them."""
        if own is None and window is None and self._weight == 1.0:
            return None
        front = torch.ones(1, 1, 1, self._length, dtype=torch.bool, device=self.device)
        if window is not None:
            front = positions_BT[:, None, :, None] - torch.arange(self._length, device=self.device) < window
        if own is None:
            own = torch.ones(1, 1, 1, source, dtype=torch.bool, device=self.device)
        if self._weight != 1.0 or own.is_floating_point():
            front = _as_bias(front, self.dtype) + math.log(self._weight)
            own = _as_bias(own, self.dtype)
        sizes = [max(one, other) for one, other in zip(front.shape[:3], own.shape[:3], strict=True)]
        return torch.cat((front.expand(*sizes, -1), own.expand(*sizes, -1)), dim=-1)


def seen(reading: Reading, window: int | None) -> Tensor | None:
    """Who may look where in a plain reading of rows, `[B or 1, 1, T, S]`; None is everything."""
    if isinstance(reading, Fronted):
        return reading.seen(window)
    if reading.cache is not None:
        return cast("RowsCache", reading.cache).mask(reading.time, reading.device, window)
    if reading.document_BT is not None:
        return document_mask(reading.document_BT, window)
    return causal_mask(reading.time, window, reading.device)[None, None]


def _as_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.is_floating_point():
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


def read_alone(model: Decoder, x_1PD: Tensor) -> Columns:
    """What the cache would keep of a text that begins with these embeddings, read by itself: nothing stands in front of it."""
    reading = Recorded(x_1PD, model)
    if model.config.positions == "learned":
        model.require_positions(x_1PD.shape[1])
        x_1PD = x_1PD + model.model.embed_positions(reading.positions_BT)
    for number, block in enumerate(model.model.layers):
        x_1PD = block(x_1PD, reading, number)
    return reading.columns_kept


def random_words(model: Decoder, length: int, seed: int) -> Tensor:
    """Embeddings of words drawn from the vocabulary, `[1, P, D]`, float32."""
    ids = torch.randint(0, model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model.embed(ids.to(next(model.parameters()).device)).float()


class Front(Delta[Spec]):
    """What methods share that put columns in front of every text."""

    mergeable = False

    def __init__(self, model: Decoder, spec: Spec) -> None:
        super().__init__(model, spec)
        most = model.config.max_position_embeddings
        if spec.length >= most:
            raise ModelError(
                f"length={spec.length} leaves no room for a text among the {most} positions of this model; use fewer, such as 20"
            )

    @abstractmethod
    def columns(self) -> Columns:
        """What stands in front, layer by layer."""

    @property
    def columns_in_front(self) -> int:
        return self.spec.length if self.active else 0

    @property
    def weight(self) -> float:
        """How often each column counts."""
        return self._weight

    @weight.setter
    def weight(self, value: float) -> None:
        if value < 0:
            raise ModelError(f"{self.spec.name} cannot weigh {value}: a column counts as often as that; use 0 or more")
        self._weight = float(value)

    def hooks(self) -> Iterator[RemovableHandle]:
        yield self.model.register_forward_pre_hook(self._begin, with_kwargs=True)
        for block in self.model.model.layers:
            yield cast("nn.Module", block.self_attn).register_forward_pre_hook(self._hand_on)

    def _begin(
        self, model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Texts begin behind the columns."""
        if not self.active:
            return None
        ids_BT, cache = cast("Tensor", inputs[0] if inputs else named["ids_BT"]), named.get("cache")
        positions_BT = named.get("positions_BT")
        if positions_BT is None:
            time, device = ids_BT.shape[1], ids_BT.device
            positions_BT = torch.arange(time, device=device)[None] if cache is None else cache.positions(time, device)
        positions_BT = positions_BT + self.spec.length
        if self.model.config.positions == "learned":
            self.model.require_positions(int(positions_BT.max()) + 1)
        return inputs, {**named, "positions_BT": positions_BT}

    def _hand_on(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        x_BTD, reading, layer = inputs
        if not self.active or isinstance(reading, Recorded):
            return None
        if id(self) not in reading.changed:
            reading.changed[id(self)] = Fronted(reading, self.columns(), self.weight)
        return x_BTD, reading.changed[id(self)], layer
