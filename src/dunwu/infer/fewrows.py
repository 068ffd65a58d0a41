"""A pass over a few tokens in one call of the kernels: decoding, where torch spends its time between products, not in them.

Attention and plain MLPs of every family run there; mixtures of experts and latent attention run as the modules that they are,
between two calls. Weights are read where they lie, so that training shows at once.

Shapes: `N` tokens of the pass, `D` model width, `C` half of the rotated channels, `R` rows, `V` vocabulary.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from dunwu.infer.paged import PagedCache, tail
from dunwu.infer.parts import Chain, Parts
from dunwu.model.blocks.reading import Reading
from dunwu.model.blocks.rotary import depends_on_length, rotary_tables
from dunwu.model.cache import RaggedCache, Span
from dunwu.model.decoder import Decoder
from dunwu.model.native.library import Library, Step


class FewRows:
    """`model` over `cache`, as `Decoder.forward` reads; for float32 on a CPU, at most `library.MOST_ROWS` tokens at a time."""

    def __init__(self, kernels: Library, model: Decoder, cache: PagedCache) -> None:
        self._kernels, self._model, self._cache = kernels, model, cache
        self._config = model.config
        self._tables: dict[bool, tuple[Tensor, Tensor]] = {}
        self._scratch = torch.empty(0)
        self._parts = Parts(model, cache)

    def run(self, ids: Sequence[int], spans: Sequence[Span]) -> Tensor:
        """Final, normalised hidden states `[N, D]`; keys and values go into the cache."""
        self._parts.look()
        positions_N = torch.tensor([position for span in spans for position in range(span.start, span.end)])
        x_ND = self._model.embed(torch.tensor(ids))
        if self._config.positions == "learned":
            x_ND += self._model.model.embed_positions(positions_N)
        step, kept = self._step(x_ND, positions_N, spans)
        reading = None
        for call in self._parts.calls:
            if isinstance(call, Chain):
                self._kernels.step(step, call)
            else:
                if reading is None:
                    self._cache.begin(list(spans))
                    reading = Reading(
                        x_ND[None], self._config, positions_N[None], None, cast("RaggedCache", self._cache)
                    )
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

    def _step(self, x_ND: Tensor, positions_N: Tensor, spans: Sequence[Span]) -> tuple[Step, list[object]]:
        """The step's record, and what it points to and must outlive the call."""
        config, cache, rows = self._config, self._cache, len(x_ND)
        runs: list[tuple[int, int]] = []
        first_run, run_count, slot = [], [], []
        for span in spans:
            first_run += [len(runs)] * span.count
            run_count += [len(span.runs)] * span.count
            runs += span.runs
            slot += [place for start, end in tail(span.runs, span.count) for place in range(start, end)]
        places = np.array([slot, positions_N.numpy() + 1, first_run, run_count], dtype=np.int64)
        edges = np.array(runs, dtype=np.int64)
        threads = torch.get_num_threads()
        wanted = self._kernels.scratch_floats(rows, config.hidden_size, self._parts.wide, threads)
        if self._scratch.numel() < wanted:
            self._scratch = torch.empty(wanted)
        step = Step(
            rows=rows,
            width=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            turned=config.rotated_channels // 2,
            slots=cache.keys[0].shape[1],
            cache_bytes=cache.kind == "int8",
            chunked=any(span.count > 1 for span in spans),
            x=x_ND.data_ptr(),
            slot=_address(places),
            seen=_address(places) + 8 * rows,
            first_run=_address(places) + 16 * rows,
            run_count=_address(places) + 24 * rows,
            runs=_address(edges),
            scratch=self._scratch.data_ptr(),
            threads=threads,
            wide=self._parts.wide,
        )
        tables = self._rotary(positions_N, spans)
        for place, (cos_NC, sin_NC) in tables.items():
            step.cos[place], step.sin[place] = cos_NC.data_ptr(), sin_NC.data_ptr()
        return step, [places, edges, tables]

    def _rotary(self, positions_N: Tensor, spans: Sequence[Span]) -> dict[bool, tuple[Tensor, Tensor]]:
        """Cosine and sine of each row, `[N, C]`; also those of local layers, where they have their own."""
        config = self._config
        if config.positions != "rotary":
            return {}
        kinds = (False, True) if config.local_rope_theta is not None and config.sliding_layers else (False,)
        if depends_on_length(config):
            reach_1N = torch.tensor([[span.end for span in spans for _ in range(span.count)]])
            return {local: self._new_tables(positions_N, local, reach_1N) for local in kinds}
        most = int(positions_N.max())
        for local in kinds:
            if local not in self._tables or len(self._tables[local][0]) <= most:
                self._tables[local] = self._new_tables(torch.arange(1 << (most + 256).bit_length()), local, None)
        return {local: (cos[positions_N], sin[positions_N]) for local, (cos, sin) in self._tables.items()}

    def _new_tables(self, positions_N: Tensor, local: bool, reach_1N: Tensor | None) -> tuple[Tensor, Tensor]:
        cos, sin = rotary_tables(self._config, positions_N[None], local=local, dtype=torch.float32, reach_BT=reach_1N)
        return cos[0, 0].contiguous(), sin[0, 0].contiguous()


def _address(array: np.ndarray) -> int:
    return array.ctypes.data
