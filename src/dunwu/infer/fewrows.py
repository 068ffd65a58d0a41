"""A pass over the tokens of many texts in one call of the kernels, which wait for one another only between products.

Attention and plain MLPs of every family run there; mixtures of experts and latent attention run as the modules that they are,
between two calls. Weights are read where they lie, so that training shows at once.

Shapes: `N` tokens of the pass, `D` model width, `C` half of the rotated channels, `R` rows, `V` vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from dunwu.infer.paged import PagedCache, Run, tail
from dunwu.infer.parts import Chain, Parts
from dunwu.model.blocks.reading import Reading
from dunwu.model.blocks.rotary import depends_on_length, rotary_tables
from dunwu.model.cache import RaggedCache, Span
from dunwu.model.decoder import Decoder
from dunwu.model.native.library import ROWS_TOGETHER, Library, Step

MOST_ROWS = 1024
"""Of one pass: what is kept of each row then fits 20 MB at a width of 576. More tokens take several."""


class FewRows:
    """`model` over `cache`, as `Decoder.forward` reads; for float32 on a CPU."""

    def __init__(self, kernels: Library, model: Decoder, cache: PagedCache) -> None:
        self._kernels, self._model, self._cache = kernels, model, cache
        self._config = model.config
        self._tables: dict[bool, tuple[Tensor, Tensor]] = {}
        self._scratch = torch.empty(0)
        self._parts = Parts(model, cache)

    def run(self, ids: Sequence[int], spans: Sequence[Span]) -> Tensor:
        """Final, normalised hidden states `[N, D]`; keys and values go into the cache."""
        self._parts.look()
        if len(ids) <= MOST_ROWS or depends_on_length(self._config):
            return self._pass(ids, spans)
        return torch.cat([self._pass(own_ids, own_spans) for own_ids, own_spans in _passes(ids, spans)])

    def _pass(self, ids: Sequence[int], spans: Sequence[Span]) -> Tensor:
        x_ND = self._model.embed(torch.tensor(ids))
        places_RN = _places(spans)
        if self._config.positions == "learned":
            x_ND += self._model.model.embed_positions(torch.from_numpy(places_RN[1] - 1))
        step, kept = self._step(x_ND, places_RN, spans)
        reading = None
        for call in self._parts.calls:
            if isinstance(call, Chain):
                self._kernels.step(step, call)
            else:
                if reading is None:
                    self._cache.begin(list(spans))
                    positions_1N = torch.from_numpy(places_RN[1] - 1)[None]
                    reading = Reading(x_ND[None], self._config, positions_1N, None, cast("RaggedCache", self._cache))
                x_ND.copy_(call(x_ND[None], reading)[0])
        del kept
        if self._parts.norm is None:
            return self._model.model.norm(x_ND)
        self._kernels.normalise(self._parts.norm, x_ND)
        return x_ND

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits `[..., V]`, as `Decoder.logits`."""
        self._parts.look_at_head()
        if self._parts.head is None:
            return self._model.logits(hidden)
        return self._model.capped(self._kernels.product(self._parts.head, hidden))

    def _step(self, x_ND: Tensor, places_RN: np.ndarray, spans: Sequence[Span]) -> tuple[Step, list[object]]:
        """The step's record, and what it points to and must outlive the call."""
        config, cache, rows = self._config, self._cache, len(x_ND)
        edges = np.array([run for span in spans for run in span.runs], dtype=np.int64)
        together = _together(spans)
        threads = torch.get_num_threads()
        wanted = self._kernels.scratch_floats(rows, config.hidden_size, self._parts.wide, threads)
        if self._scratch.numel() < wanted:
            self._scratch = torch.empty(wanted)
        slot, seen, first_run, row = (_address(places_RN) + 8 * rows * place for place in range(4))
        tables = self._rotary(places_RN, spans)
        step = Step(
            rows=rows,
            width=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            turned=config.rotated_channels // 2,
            slots=cache.keys[0].shape[1],
            cache_bytes=cache.kind == "int8",
            chunked=len(spans) < rows,
            x=x_ND.data_ptr(),
            place=row if depends_on_length(config) else 0,
            slot=slot,
            seen=seen,
            first_run=first_run,
            runs=_address(edges),
            together=_address(together),
            together_count=len(together),
            scratch=self._scratch.data_ptr(),
            threads=threads,
            wide=self._parts.wide,
        )
        for place, (cos_NC, sin_NC) in tables.items():
            step.cos[place], step.sin[place] = cos_NC.data_ptr(), sin_NC.data_ptr()
        return step, [edges, together, tables]

    def _rotary(self, places_RN: np.ndarray, spans: Sequence[Span]) -> dict[bool, tuple[Tensor, Tensor]]:
        """Cosine and sine, `[positions, C]`, of global layers and of local ones where they have their own; `[N, C]`, of each
        row, where they depend on the length of its text."""
        config = self._config
        if config.positions != "rotary":
            return {}
        kinds = (False, True) if config.local_rope_theta is not None and config.sliding_layers else (False,)
        if depends_on_length(config):
            reach_1N = torch.tensor([[span.end for span in spans for _ in range(span.count)]])
            positions_N = torch.from_numpy(places_RN[1] - 1)
            return {local: self._new_tables(positions_N, local, reach_1N) for local in kinds}
        most = max(span.end for span in spans)
        for local in kinds:
            if local not in self._tables or len(self._tables[local][0]) < most:
                self._tables[local] = self._new_tables(torch.arange(1 << (most + 256).bit_length()), local, None)
        return self._tables

    def _new_tables(self, positions_N: Tensor, local: bool, reach_1N: Tensor | None) -> tuple[Tensor, Tensor]:
        cos, sin = rotary_tables(self._config, positions_N[None], local=local, dtype=torch.float32, reach_BT=reach_1N)
        return cos[0, 0].contiguous(), sin[0, 0].contiguous()


def _places(spans: Sequence[Span]) -> np.ndarray:
    """Of each row, `[4, N]`: its slot, how many tokens of its text it sees, the first run of its text, and its own number."""
    rows = sum(span.count for span in spans)
    places_RN = np.empty((4, rows), dtype=np.int64)
    places_RN[3] = np.arange(rows)
    row = run = 0
    for span in spans:
        if span.count == 1:
            places_RN[:3, row] = span.runs[-1][1] - 1, span.end, run
        else:
            own = slice(row, row + span.count)
            pieces = [np.arange(start, end) for start, end in tail(span.runs, span.count)]
            places_RN[0, own] = np.concatenate(pieces)
            places_RN[1, own] = np.arange(span.start + 1, span.end + 1)
            places_RN[2, own] = run
        row += span.count
        run += len(span.runs)
    return places_RN


def _together(spans: Sequence[Span]) -> np.ndarray:
    """Rows that read the keys of their text together: the first and how many, long texts first, for they take longest."""
    row, found = 0, []
    for span in spans:
        firsts = range(row, row + span.count, ROWS_TOGETHER)
        found += [(span.end, first, min(ROWS_TOGETHER, row + span.count - first)) for first in firsts]
        row += span.count
    return np.array([one[1:] for one in sorted(found, reverse=True)], dtype=np.int64)


def _passes(ids: Sequence[int], spans: Sequence[Span]) -> Iterator[tuple[Sequence[int], list[Span]]]:
    """The same tokens in several passes of at most MOST_ROWS."""
    first, own, room = 0, list[Span](), MOST_ROWS
    for span in spans:
        done = 0
        while done < span.count:
            count = min(room, span.count - done)
            start = span.start + done
            behind = span.count - done - count
            own.append(Span(MOST_ROWS - room, start, count, _without(span.runs, behind)))
            done, room = done + count, room - count
            if room == 0:
                yield ids[first : first + MOST_ROWS], own
                first, own, room = first + MOST_ROWS, [], MOST_ROWS
    if own:
        yield ids[first:], own


def _without(runs: tuple[Run, ...], tokens: int) -> tuple[Run, ...]:
    """The runs less their last tokens."""
    while tokens and runs[-1][1] - runs[-1][0] <= tokens:
        tokens -= runs[-1][1] - runs[-1][0]
        runs = runs[:-1]
    return (*runs[:-1], (runs[-1][0], runs[-1][1] - tokens))


def _address(array: np.ndarray) -> int:
    return array.ctypes.data
