"""Keys and values of many texts in one store of blocks, and batches in which their new tokens stand side by side.

Shapes: `K` key/value heads, `P` slots (blocks times their size), `N` tokens of the batch, `C` head channels, `S` source time.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from dunwu.core.errors import ModelError
from dunwu.infer.blocks import Copy
from dunwu.model.blocks.ragged import slots_of
from dunwu.model.cache import Span
from dunwu.model.config import DecoderConfig
from dunwu.model.count import kv_bytes_per_token
from dunwu.model.native.pages import on_large_pages

Run = tuple[int, int]


CacheKind = Literal["float", "int8"]


class PagedCache:
    """Room for `blocks` blocks of `block_size` tokens: what `model/cache.py` calls a RaggedCache.

    The heads of a layer lie one after another, so that a text whose blocks are neighbours is read as a view. The linear layers
    see all tokens of a batch as rows of one product; attention takes one text at a time.

    `kind` "int8": whole numbers with a scale for each token of each head, `key_scales` and `value_scales` `[K, P]`; a quarter of
    float32's room. Raises ModelError where the model keeps latent vectors, which all heads read.
    """

    def __init__(
        self,
        config: DecoderConfig,
        blocks: int,
        block_size: int,
        device: torch.device | str,
        dtype: torch.dtype,
        kind: CacheKind = "float",
    ) -> None:
        _require_kind(config, kind)
        heads, first, second = config.cache_shape
        slots, layers = blocks * block_size, range(config.num_hidden_layers)
        stored = torch.int8 if kind == "int8" else dtype
        self.keys = [_room((heads, slots, first), device, stored) for _ in layers]
        self.values = [_room((heads, slots, second), device, stored) for _ in layers]
        scales = layers if kind == "int8" else ()
        self.key_scales = [torch.zeros(heads, slots, device=device) for _ in scales]
        self.value_scales = [torch.zeros(heads, slots, device=device) for _ in scales]
        self.kind: CacheKind = kind
        self.dtype = dtype
        self.block_size = block_size
        self.spans: list[Span] = []
        self.reach = torch.empty(1, 0, dtype=torch.int64, device=device)
        self._positions_1N = self._slots_N = self.reach

    def begin(self, spans: list[Span]) -> None:
        """Say whose tokens the next pass brings, in the order of its rows."""
        device = self.reach.device
        self.spans = spans
        ranges = [torch.arange(span.start, span.end, device=device) for span in spans]
        self._positions_1N = torch.cat(ranges)[None]
        self._slots_N = torch.cat([slots_of(tail(span.runs, span.count), device) for span in spans])
        self.reach = torch.cat([torch.full_like(one, span.end) for one, span in zip(ranges, spans, strict=True)])[None]

    def append(self, layer: int, k_1KNC: Tensor, v_1KNC: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens of one layer; gives back what was given."""
        self._put(layer, (k_1KNC[0], v_1KNC[0]), self._slots_N)
        return k_1KNC, v_1KNC

    def exchange(
        self, layer: int, new_KNC: tuple[Tensor, Tensor], new_N: Tensor, slots_BS: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values in the slots `new_N`; gives what then lies in others, `[B, K, S, C]`."""
        self._put(layer, new_KNC, new_N)
        first, second = (
            _taken(store, slots_BS)
            if scales is None
            else _taken(store, slots_BS).to(self.dtype) * _taken(scales, slots_BS)[..., None]
            for store, scales in self._stores(layer)
        )
        return first, second

    def _put(self, layer: int, new_KNC: tuple[Tensor, Tensor], slots_N: Tensor) -> None:
        for (store, scales), numbers_KNC in zip(self._stores(layer), new_KNC, strict=True):
            if scales is not None:
                numbers_KNC, scales_KN = _of_eight_bits(numbers_KNC)
                scales.index_copy_(1, slots_N, scales_KN)
            store.index_copy_(1, slots_N, numbers_KNC)

    def columns(self, layer: int, span: Span, window: int | None) -> tuple[Tensor, Tensor]:
        """Keys and values of what a span sees, `[K, S, C]`: views where they lie in one piece and are floats."""
        first, second = (
            _gathered(store, span.slots(window))
            if scales is None
            else _gathered(store, span.slots(window)).to(self.dtype) * _gathered(scales, span.slots(window))[..., None]
            for store, scales in self._stores(layer)
        )
        return first, second

    def _stores(self, layer: int) -> tuple[tuple[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]:
        """Keys and values of a layer, each with its scales if there are any."""
        if self.kind == "float":
            return (self.keys[layer], None), (self.values[layer], None)
        return (self.keys[layer], self.key_scales[layer]), (self.values[layer], self.value_scales[layer])

    def positions(self, new: int, device: torch.device) -> Tensor:
        """Of the tokens of this pass, `[1, N]`."""
        return self._positions_1N

    def advance(self, columns: int) -> None:
        """The scheduler counts what is filled."""

    def copy(self, copies: Sequence[Copy]) -> None:
        """Copy whole blocks, all at once."""
        if not copies:
            return
        device = self.reach.device
        sources, targets = (slots_of(self._block_runs(side), device) for side in zip(*copies, strict=True))
        for store in (*self.keys, *self.values, *self.key_scales, *self.value_scales):
            store.index_copy_(1, targets, store.index_select(1, sources))

    def runs(self, blocks: Sequence[int], tokens: int) -> tuple[Run, ...]:
        """The slots of the first `tokens` tokens of a table; neighbouring blocks join."""
        count, first = -(-tokens // self.block_size), blocks[0] if blocks else 0
        if 0 < count <= len(blocks) and list(blocks[:count]) == [*range(first, first + count)]:
            start = first * self.block_size
            return ((start, start + tokens),)
        runs: list[Run] = []
        for start, end in self._block_runs(blocks):
            size = min(end - start, tokens)
            if size == 0:
                break
            tokens -= size
            runs.append((runs.pop()[0], start + size) if runs and runs[-1][1] == start else (start, start + size))
        return tuple(runs)

    def _block_runs(self, blocks: Iterable[int]) -> list[Run]:
        return [(block * self.block_size, (block + 1) * self.block_size) for block in blocks]


def tail(runs: Sequence[Run], tokens: int) -> list[Run]:
    """The last `tokens` slots of the runs."""
    kept: list[Run] = []
    for start, end in reversed(runs):
        size = min(end - start, tokens)
        kept.append((end - size, end))
        tokens -= size
        if tokens == 0:
            break
    return kept[::-1]


def _gathered(store_KPC: Tensor, runs: Sequence[Run]) -> Tensor:
    if len(runs) == 1:
        return store_KPC[:, runs[0][0] : runs[0][1]]
    return torch.cat([store_KPC[:, start:end] for start, end in runs], dim=1)


def _taken(store_KPx: Tensor, slots_BS: Tensor) -> Tensor:
    """`[B, K, S, …]` of a store `[K, P, …]`."""
    return store_KPx.index_select(1, slots_BS.flatten()).unflatten(1, slots_BS.shape).transpose(0, 1)


def token_bytes(config: DecoderConfig, dtype: torch.dtype, kind: CacheKind = "float") -> int:
    """What the cache takes for each token of a text."""
    if kind == "float":
        return kv_bytes_per_token(config, dtype.itemsize)
    heads, _, _ = config.cache_shape
    return kv_bytes_per_token(config, 1) + 2 * 4 * heads * config.num_hidden_layers


def _room(shape: tuple[int, ...], device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """On large pages where it pays: rows are read from end to end at every step. Of zeros: a weight of nought times what lay
    there before would be NaN."""
    on_cpu = torch.device(device).type == "cpu"
    return on_large_pages(shape, dtype) if on_cpu else torch.zeros(shape, device=device, dtype=dtype)


def _of_eight_bits(new_KNC: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers `[K, N, C]` and their scales `[K, N]`."""
    scales_KN1 = new_KNC.float().abs().amax(-1, keepdim=True) / 127
    numbers_KNC = (new_KNC.float() / scales_KN1.clamp(min=1e-30)).round_()
    return numbers_KNC.to(torch.int8), scales_KN1[..., 0]


def _require_kind(config: DecoderConfig, kind: str) -> None:
    if kind not in ("float", "int8"):
        raise ModelError(f"cache={kind!r} is not known; use float or int8")
    if kind == "int8" and config.latent is not None:
        raise ModelError(
            "an int8 cache is not for latent attention, whose vectors all heads read; leave the cache as float"
        )
