"""Passes in which each text reads one token, as one batch: on CUDA each shape is recorded once as a graph and then replayed.

Text by text, a step of decoding on a GPU is bound by the launching of small kernels; as a batch it has as many launches as the
model has operations, and replayed it has one. Blocks are gathered into `[B, K, S, C]` by the table that comes with the batch;
`B` and `S` are rounded up, so that few shapes are recorded. Rows that pad a batch repeat its first row,
and blocks that pad a text its first block: nobody reads what another text left.

Shapes: `B` texts, `N` blocks of the longest one, `S` their slots, `K` key/value heads, `C` head channels, `D` model width.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from dunwu.infer.blocks import Table
from dunwu.infer.paged import PagedCache
from dunwu.model.cache import RowsCache
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import Decoder

_log = logging.getLogger(__name__)

LEAST_TOKENS = 128
"""Texts are rounded up to this many tokens, or twice, four times, … as many."""
WARM_UPS = 2


class OneToken(Protocol):
    """A text's share of the pass: the one token of `ids`, at `start`, into the blocks of `table`."""

    @property
    def table(self) -> Table: ...
    @property
    def start(self) -> int: ...
    @property
    def ids(self) -> Sequence[int]: ...


class Together:
    """Decoding of many texts at once over the blocks of `cache`."""

    def __init__(self, model: Decoder, cache: PagedCache) -> None:
        self._model, self._cache = model, cache
        self._records = cache.reach.is_cuda and _recordable(model.config)
        self._pool = torch.cuda.graph_pool_handle() if self._records else None  # of all graphs: no two run at once
        self._graphs: dict[tuple[int, int], Recorded] = {}

    def run(self, parts: Sequence[OneToken]) -> Tensor:
        """The final hidden states `[B, D]` of one token a text."""
        rows, blocks = len(parts), max(len(part.table.blocks) for part in parts)
        shape = padded_rows(rows), padded_blocks(blocks, self._cache.block_size)
        table = _table(parts, *shape)
        if not self._records:
            return self._forward(table.to(self._cache.reach.device))[:rows]
        if shape not in self._graphs:
            try:
                self._graphs[shape] = Recorded(self._forward, table.to(self._cache.reach.device), self._pool)
            except RuntimeError as error:
                self._records = False  # a pool whose recording broke off takes no other
                _log.warning("decoding goes on without recorded graphs, slower: %s", str(error).splitlines()[0])
                return self._forward(table.to(self._cache.reach.device))[:rows]
        return self._graphs[shape](table)[:rows]

    def _forward(self, table_BX: Tensor) -> Tensor:
        cache = Gathered(self._cache, table_BX)
        return self._model(table_BX[:, :1], positions_BT=table_BX[:, 1:2], cache=cache)[:, 0]


class Recorded:
    """A function of one tensor, recorded; a call copies what it is given into the recording's own tensor and replays."""

    def __init__(self, function: Callable[[Tensor], Tensor], given: Tensor, pool: Any) -> None:
        self._given = given.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                function(self._given)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # Other engines wait meanwhile (`turns`); what other threads ask is not held against this recording.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._result = function(self._given)

    def __call__(self, given: Tensor) -> Tensor:
        self._given.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._result.clone()


class Gathered(RowsCache):
    """The blocks of a PagedCache as a batch of rows, each of one new token; for one pass.

    `table_BX`: for each text its token, the token's place, and its blocks.
    """

    spans = None

    def __init__(self, store: PagedCache, table_BX: Tensor) -> None:
        self._store, size = store, store.block_size
        places_B, blocks_BN = table_BX[:, 1], table_BX[:, 2:]
        self._places_B1 = places_B[:, None]
        self.reach = self._places_B1 + 1
        own_B1 = blocks_BN.gather(1, self._places_B1 // size)
        self._new_B = own_B1[:, 0] * size + places_B % size
        within = torch.arange(size, device=table_BX.device)
        self._slots_BS = (blocks_BN[:, :, None] * size + within).flatten(1)
        self._source_S = torch.arange(self._slots_BS.shape[1], device=table_BX.device)

    def append(self, layer: int, k_BKTC: Tensor, v_BKTC: Tensor) -> tuple[Tensor, Tensor]:
        """Store each row's new token; gives the keys and values of all its blocks, `[B, K, S, C]`."""
        return self._store.exchange(
            layer, (k_BKTC[:, :, 0].transpose(0, 1), v_BKTC[:, :, 0].transpose(0, 1)), self._new_B, self._slots_BS
        )

    def positions(self, new: int, device: torch.device) -> Tensor:
        return self._places_B1

    def mask(self, new: int, device: torch.device, window: int | None = None) -> Tensor:
        """`[B, 1, 1, S]`: each row's own tokens up to its new one."""
        allowed_BS = self._source_S <= self._places_B1
        if window is not None:
            allowed_BS &= self._source_S > self._places_B1 - window
        return allowed_BS[:, None, None]

    def advance(self, columns: int) -> None:
        """The scheduler counts what is filled."""


def padded_rows(rows: int) -> int:
    """1, 2, 4, 8, and from there on the next multiple of 8."""
    return 1 << (rows - 1).bit_length() if rows < 8 else -(-rows // 8) * 8


def padded_blocks(blocks: int, block_size: int) -> int:
    """Enough blocks for LEAST_TOKENS, or for a power of two times as many."""
    least = -(-LEAST_TOKENS // block_size)
    return least << (-(-blocks // least) - 1).bit_length()


def _table(parts: Sequence[OneToken], rows: int, blocks: int) -> Tensor:
    """`[rows, 2 + blocks]` int64: token, place, blocks; on a CPU, pinned where there is a GPU."""
    lines = [[part.ids[0], part.start, *part.table.blocks] for part in parts]
    full = [line + line[2:3] * (2 + blocks - len(line)) for line in lines]
    full += [full[0]] * (rows - len(full))
    table = torch.tensor(full)
    return table.pin_memory() if torch.cuda.is_available() else table


def _recordable(config: DecoderConfig) -> bool:
    """Experts look at who chose them, and LongRoPE's factors come from the CPU: neither can be recorded."""
    scaling = config.rope_scaling
    experts = any(config.has_experts(layer) for layer in range(config.num_hidden_layers))
    return not experts and (scaling is None or scaling.kind != "longrope")
