"""Keys and values of the tokens already read, so that each new token costs one row of work.

Shapes: `B` batch, `K` key/value heads, `S` source time (columns of the cache), `T` new time, `C` head channels.
With latent attention the two parts kept are the latent vector and the channels of its position (`DecoderConfig.cache_shape`).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dunwu.core.errors import ModelError
from dunwu.model.config import DecoderConfig


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """The rows of a ragged batch that are one text: its tokens `start` to `start + count`, from `first_row` on.

    `runs`: the slots of the cache in which all its tokens lie up to there, in order; each run is its first slot and the one
    after its last.
    """

    first_row: int
    start: int
    count: int
    runs: tuple[tuple[int, int], ...]

    @property
    def rows(self) -> slice:
        return slice(self.first_row, self.first_row + self.count)

    @property
    def end(self) -> int:
        return self.start + self.count

    def first_seen(self, window: int | None) -> int:
        """The first token that any of its rows sees."""
        return 0 if window is None else max(0, self.start - window + 1)

    def slots(self, window: int | None) -> tuple[tuple[int, int], ...]:
        """`runs` from the first token seen on."""
        skipped = self.first_seen(window)
        if skipped == 0:
            return self.runs
        kept: list[tuple[int, int]] = []
        for start, end in self.runs:
            if skipped < end - start:
                kept.append((start + skipped, end))
            skipped = max(0, skipped - (end - start))
        return tuple(kept)

    def mask(self, window: int | None, device: torch.device) -> Tensor:
        """Which of the tokens from `first_seen` on each row may look at, `[1, 1, T, S]`."""
        source_S = torch.arange(self.first_seen(window), self.end, device=device)
        own_T1 = torch.arange(self.start, self.end, device=device)[:, None]
        allowed_TS = source_S <= own_T1
        return (allowed_TS if window is None else allowed_TS & (source_S > own_T1 - window))[None, None]


class RowsCache(Protocol):
    """A cache that serves a batch of rows, all of as many columns."""

    spans: None
    reach: Tensor | None

    def append(self, layer: int, k_BKTC: Tensor, v_BKTC: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new columns of one layer; gives those of all columns, `[B, K, S, C]`."""
        ...

    def positions(self, new: int, device: torch.device) -> Tensor:
        """Of the next `new` columns, `[B or 1, new]`."""
        ...

    def mask(self, new: int, device: torch.device, window: int | None = None) -> Tensor | None:
        """What the next `new` columns may look at, `[B or 1, 1, new, S]`; None is everything."""
        ...

    def advance(self, columns: int) -> None:
        """Count `columns` more as filled."""
        ...


class RaggedCache(Protocol):
    """A cache that serves a batch `[1, T]` of several texts side by side. `keys` and `values`: `[K, slots, C]` a layer.

    `reach`, `[1, T]`: for each token, how many tokens of its text are read after this pass.
    """

    spans: list[Span]
    reach: Tensor
    keys: list[Tensor]
    values: list[Tensor]

    def append(self, layer: int, k_BKTC: Tensor, v_BKTC: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens of one layer; gives back what was given."""
        ...

    def columns(self, layer: int, span: Span, window: int | None) -> tuple[Tensor, Tensor]:
        """Keys and values of what a span sees, `[K, S, C]`."""
        ...

    def positions(self, new: int, device: torch.device) -> Tensor: ...
    def advance(self, columns: int) -> None: ...


class KeyValueCache:
    """Room for `max_length` columns a row, filled from the left; all rows are filled to the same `length`.

    Rows of different lengths are padded on the LEFT: set `starts_B` to the first real column of each row, and the decoder
    neither attends to the padding nor counts it in positions.
    """

    spans: None = None
    reach: None = None

    def __init__(
        self, config: DecoderConfig, batch: int, max_length: int, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        heads, first, second = config.cache_shape
        layers = range(config.num_hidden_layers)
        self.keys = [torch.empty(batch, heads, max_length, first, device=device, dtype=dtype) for _ in layers]
        self.values = [torch.empty(batch, heads, max_length, second, device=device, dtype=dtype) for _ in layers]
        self.max_length = max_length
        self.length = 0
        self.starts_B: Tensor | None = None

    def append(self, layer: int, k_BKTC: Tensor, v_BKTC: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new columns of one layer; returns keys and values of all columns, `[B, K, S, C]`.

        `length` moves on with `advance`, once all layers have stored theirs. Raises ModelError when the cache is full.
        """
        end = self.length + k_BKTC.shape[2]
        if end > self.max_length:
            raise ModelError(
                f"{end} tokens do not fit a cache of {self.max_length}; shorten the prompt, ask for fewer new tokens, or make "
                "max_length larger"
            )
        self.keys[layer][:, :, self.length : end] = k_BKTC
        self.values[layer][:, :, self.length : end] = v_BKTC
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def advance(self, columns: int) -> None:
        """Count `columns` more as filled."""
        self.length += columns

    def positions(self, new: int, device: torch.device) -> Tensor:
        """Positions of the next `new` columns, `[B or 1, new]`, counted from each row's first real column."""
        columns_1T = torch.arange(self.length, self.length + new, device=device)[None]
        if self.starts_B is None:
            return columns_1T
        return (columns_1T - self.starts_B[:, None]).clamp_(min=0)

    def mask(self, new: int, device: torch.device, window: int | None = None) -> Tensor | None:
        """What the next `new` columns may look at, `[B or 1, 1, new, S]`, or None when that is everything.

        With a `window` a column sees itself and the `window - 1` before it.
        """
        if window is not None and window >= self.length + new:
            window = None
        if new == 1 and self.starts_B is None and window is None:
            return None
        source_S = torch.arange(self.length + new, device=device)
        allowed_TS = source_S[None, :] <= source_S[self.length :, None]
        if window is not None:
            allowed_TS &= source_S[None, :] > source_S[self.length :, None] - window
        if self.starts_B is None:
            return allowed_TS[None, None]
        # A padding column sees itself, so that no row of the softmax is empty.
        real_BTS = (source_S >= self.starts_B[:, None])[:, None, :] | (source_S == source_S[self.length :, None])
        return (allowed_TS & real_BTS)[:, None]

    def select(self, rows: Tensor) -> None:
        """Keep only these rows (int64 indices, `[B']`), in this order: finished rows leave the batch."""
        self.keys = [k.index_select(0, rows) for k in self.keys]
        self.values = [v.index_select(0, rows) for v in self.values]
        if self.starts_B is not None:
            self.starts_B = self.starts_B.index_select(0, rows)


Cache = RowsCache | RaggedCache
