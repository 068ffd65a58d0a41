"""Keys and values of many texts in one store of blocks, and batches in which their new tokens stand side by side.

Shapes: `K` key/value heads, `P` slots (blocks times their size), `N` tokens of the batch, `C` head channels, `S` source time.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from dunwu.infer.blocks import Copy
from dunwu.model.blocks.ragged import slots_of
from dunwu.model.cache import Span
from dunwu.model.config import DecoderConfig

Run = tuple[int, int]


class PagedCache:
    """Room for `blocks` blocks of `block_size` tokens: what `model/cache.py` calls a RaggedCache.

    The heads of a layer lie one after another, so that a text whose blocks are neighbours is read as a view. The linear layers
    see all tokens of a batch as rows of one product; attention takes one text at a time.
    """

    def __init__(
        self, config: DecoderConfig, blocks: int, block_size: int, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        heads, first, second = config.cache_shape
        slots, layers = blocks * block_size, range(config.num_hidden_layers)
        self.keys = [torch.empty(heads, slots, first, device=device, dtype=dtype) for _ in layers]
        self.values = [torch.empty(heads, slots, second, device=device, dtype=dtype) for _ in layers]
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
        self.keys[layer].index_copy_(1, self._slots_N, k_1KNC[0])
        self.values[layer].index_copy_(1, self._slots_N, v_1KNC[0])
        return k_1KNC, v_1KNC

    def columns(self, layer: int, span: Span, window: int | None) -> tuple[Tensor, Tensor]:
        """Keys and values of what a span sees, `[K, S, C]`: views where they lie in one piece."""
        return _gathered(self.keys[layer], span.slots(window)), _gathered(self.values[layer], span.slots(window))

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
        for store in (*self.keys, *self.values):
            store.index_copy_(1, targets, store.index_select(1, sources))

    def runs(self, blocks: Sequence[int], tokens: int) -> tuple[Run, ...]:
        """The slots of the first `tokens` tokens of a table; neighbouring blocks join."""
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
