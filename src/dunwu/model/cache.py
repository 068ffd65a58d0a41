"""Keys and values of the tokens already read, so that each new token costs one row of work.

Shapes: `B` batch, `K` key/value heads, `S` source time (columns of the cache), `T` new time, `C` head channels.
With latent attention the two parts kept are the latent vector and the channels of its position (`DecoderConfig.cache_shape`).
"""

import torch
from torch import Tensor

from dunwu.core.errors import ModelError
from dunwu.model.config import DecoderConfig


class KeyValueCache:
    """Room for `max_length` columns a row, filled from the left; all rows are filled to the same `length`.

    Rows of different lengths are padded on the LEFT: set `starts_B` to the first real column of each row, and the decoder
    neither attends to the padding nor counts it in positions.
    """

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
