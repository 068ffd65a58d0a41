"""A pass over the tokens of many texts in one call of the kernels, which wait for one another only between products.

Attention and plain MLPs of every family run there; mixtures of experts and latent attention run as the modules that they are,
between two calls. Weights are read where they lie, so that training shows at once.

Shapes: `N` tokens of the pass, `D` model width, `C` half of the rotated channels, `R` rows, `V` vocabulary.
"""

import ctypes
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from dunwu.infer.paged import PagedCache, Run, tail
from dunwu.infer.parts import Chain, Parts, Whole
from dunwu.infer.sieve import HeadSieve
from dunwu.model.blocks.reading import Reading
from dunwu.model.blocks.rotary import depends_on_length, rotary_tables
from dunwu.model.cache import RaggedCache, Span
from dunwu.model.decoder import Decoder
from dunwu.model.native.library import ROWS_TOGETHER, Choosing, Library, Matrix, Step

MOST_ROWS = 1024
"""Of one pass: what is kept of each row then fits 20 MB at a width of 576. More tokens take several."""


class _Rows(NamedTuple):
    """Of each row of a pass: its slot, how many tokens of its text it sees, the first run of its text, and its own number; the
    texts' runs; and rows that read the keys of their text together: the first and how many, long texts first, for they take
    longest."""

    slots: list[int]
    seen: list[int]
    first_runs: list[int]
    numbers: range
    runs: list[int]
    together: list[int]


class FewRows:
    """`model` over `cache`, as `Decoder.forward` reads; for float32 on a CPU."""

    def __init__(self, kernels: Library, model: Decoder, cache: PagedCache) -> None:
        self._kernels, self._model, self._cache = kernels, model, cache
        self._config = model.config
        self._tables: dict[bool, tuple[Tensor, Tensor]] = {}
        self._scratch = torch.empty(0)
        self._parts = Parts(model, cache)
        self._sieve = HeadSieve(kernels, model)
        self._stretches = depends_on_length(model.config)
        scale = torch.tensor(model.config.embedding_scale, dtype=torch.float32)  # rounded as the weights are
        self._embedding_scale = scale.item()
        self._alike = self._record()
        self._ends: list[int] = []

    @property
    def may_write(self) -> bool:
        """Whether `write` is likely to do something: the model was seen to be one that the kernels know whole."""
        return self._parts.whole is not None and not self._stretches and self._config.logits_softcap is None

    def run(self, ids: Sequence[int], spans: Sequence[Span]) -> Tensor:
        """Final, normalised hidden states `[N, D]`; keys and values go into the cache."""
        self._look(spans, 0)
        if len(ids) <= MOST_ROWS or self._stretches:
            return self._pass(ids, spans)
        return torch.cat([self._pass(own_ids, own_spans) for own_ids, own_spans in _passes(ids, spans)])

    def _look(self, spans: Sequence[Span], further: int) -> None:
        """Weights that moved are seen when a text begins; while the same ones go on, in some steps: what was told of stays
        readable. `further`: how many tokens follow those of the spans at once."""
        goes_on = [span.start for span in spans] == self._ends
        self._ends = [span.end + further for span in spans]
        self._parts.look(some=goes_on)
        if not goes_on:
            self._sieve.look_again()

    def _pass(self, ids: Sequence[int], spans: Sequence[Span]) -> Tensor:
        rows = _rows(spans)
        whole = self._whole(ids)
        if whole is None:
            return self._by_parts(ids, rows, spans)
        x_ND = torch.empty(len(ids), self._config.hidden_size)
        step, kept = self._whole_step(whole, ids, x_ND, rows, spans)
        self._kernels.step(step, whole.chain)
        del kept
        return x_ND

    def _whole(self, ids: Sequence[int]) -> Whole | None:
        """The model, where the kernels know all that these ids need."""
        return self._parts.whole if 0 <= min(ids) <= max(ids) < self._config.vocab_size else None

    def _whole_step(
        self, whole: Whole, ids: Sequence[int], x_ND: Tensor, rows: _Rows, spans: Sequence[Span], further: int = 0
    ) -> tuple[Step, object]:
        """`_step` from ids to normalised states."""
        step, kept = self._step(x_ND, rows, spans, further)
        numbers = array("q", ids)
        step.ids, step.embedding_scale = numbers.buffer_info()[0], self._embedding_scale
        step.embedding, step.norm = ctypes.pointer(whole.embedding), ctypes.pointer(whole.norm)
        return step, (kept, numbers)

    @torch.inference_mode()
    def _by_parts(self, ids: Sequence[int], rows: _Rows, spans: Sequence[Span]) -> Tensor:
        """`_pass` where torch does some of it."""
        x_ND = self._model.embed(torch.tensor(ids))
        positions_N = torch.tensor(rows.seen) - 1
        if self._config.positions == "learned":
            x_ND += self._model.model.embed_positions(positions_N)
        step, kept = self._step(x_ND, rows, spans)
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

    def likeliest(self, hidden_RD: Tensor, size: int, barred_V: Tensor | None) -> list[int] | None:
        """The likeliest of the first `size` ids for each row, the first of equals, and -1 where its logit is not finite; None
        where only `logits` can tell. `barred_V`: uint8, 1 for those that are never it."""
        if (head := self._plain_head(size)) is None:
            return None
        return self._kernels.likeliest(head, hidden_RD, barred_V, self._sieve.of(head))

    def write(
        self,
        ids: Sequence[int],
        spans: Sequence[Span],
        count: int,
        size: int,
        barred_V: Tensor | None,
        stops: Iterable[int],
    ) -> tuple[list[list[int]], Tensor] | None:
        """`run` and `likeliest` up to `count` times in one call, each time with the ids that the time before gave: those of each
        time, and the last hidden states. Earlier at an end where some id is among `stops`, or a logit is not finite: then its
        ids are not there. None where it can't be done.

        Each span brings one token; its `runs` reach over the `count - 1` that follow it.
        """
        if not self.may_write:
            return None
        self._look(spans, count - 1)
        whole, head = self._whole(ids), self._plain_head(size)
        if whole is None or head is None:
            return None
        # The slots of the first pass, of the second, and so on; what else a row needs is counted on from the first.
        slots = [[slot for run in tail(span.runs, count) for slot in range(*run)] for span in spans]
        rows = _rows(spans)._replace(slots=[slot for of_pass in zip(*slots, strict=True) for slot in of_pass])
        x_ND = torch.empty(len(ids), self._config.hidden_size)
        step, kept = self._whole_step(whole, ids, x_ND, rows, spans, count - 1)
        ends = array("q", stops)
        choosing = Choosing.of(head, barred_V, self._sieve.of(head, count), ends)
        written = self._kernels.write(step, whole.chain, choosing, count)
        del kept, ends
        return written, x_ND

    def _plain_head(self, size: int) -> Matrix | None:
        """The matrix whose greatest of `size` outputs is the likeliest token; None where there is more to it."""
        self._parts.look_at_head()
        head = self._parts.head
        if head is None or self._config.logits_softcap is not None:
            return None
        if size < head.outputs:
            head = Matrix.from_buffer_copy(head)
            head.outputs = size
        return head

    def _step(self, x_ND: Tensor, rows: _Rows, spans: Sequence[Span], further: int = 0) -> tuple[Step, object]:
        """The step's record, and what it points to and must outlive the call. `further`: tokens that each text reads later."""
        config, count = self._config, len(rows.seen)
        threads = torch.get_num_threads()
        wanted = self._kernels.scratch_floats(count, config.hidden_size, self._parts.wide, threads)
        if self._scratch.numel() < wanted:
            self._scratch = torch.empty(wanted)
        tables = self._rotary(rows, spans, further)
        table = array("q", rows.slots)
        for part in (rows.seen, rows.first_runs, rows.numbers, rows.together, rows.runs):
            table.extend(part)
        at, line = table.buffer_info()[0], 8 * count
        after = at + 8 * len(rows.slots)
        step = Step.from_buffer_copy(self._alike)
        step.rows, step.chunked, step.x = count, len(spans) < count, x_ND.data_ptr()
        step.slot, step.seen, step.first_run = at, after, after + line
        step.place = after + 2 * line if self._stretches else 0
        step.together, step.together_count = after + 3 * line, len(rows.together) // 2
        step.runs = after + 3 * line + 8 * len(rows.together)
        step.scratch, step.threads, step.wide = self._scratch.data_ptr(), threads, self._parts.wide
        for place, (cos_NC, sin_NC) in tables.items():
            step.cos[place], step.sin[place] = cos_NC.data_ptr(), sin_NC.data_ptr()
        return step, (table, tables)

    def _record(self) -> Step:
        """A step with what is alike in all."""
        config = self._config
        return Step(
            width=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            turned=config.rotated_channels // 2,
            slots=self._cache.keys[0].shape[1],
            cache_bytes=self._cache.kind == "int8",
        )

    def _rotary(self, rows: _Rows, spans: Sequence[Span], further: int) -> dict[bool, tuple[Tensor, Tensor]]:
        """Cosine and sine, `[positions, C]`, of global layers and of local ones where they have their own; `[N, C]`, of each
        row, where they depend on the length of its text."""
        config = self._config
        if config.positions != "rotary":
            return {}
        kinds = (False, True) if config.local_rope_theta is not None and config.sliding_layers else (False,)
        if self._stretches:
            reach_1N = torch.tensor([[span.end for span in spans for _ in range(span.count)]])
            positions_N = torch.tensor(rows.seen) - 1
            return {local: self._new_tables(positions_N, local, reach_1N) for local in kinds}
        most = max(span.end for span in spans) + further
        for local in kinds:
            if local not in self._tables or len(self._tables[local][0]) < most:
                self._tables[local] = self._new_tables(torch.arange(1 << (most + 256).bit_length()), local, None)
        return self._tables

    def _new_tables(self, positions_N: Tensor, local: bool, reach_1N: Tensor | None) -> tuple[Tensor, Tensor]:
        cos, sin = rotary_tables(self._config, positions_N[None], local=local, dtype=torch.float32, reach_BT=reach_1N)
        return cos[0, 0].contiguous(), sin[0, 0].contiguous()


def _rows(spans: Sequence[Span]) -> _Rows:
    slots, seen, first_runs, runs = list[int](), list[int](), list[int](), list[int]()
    found: list[tuple[int, int, int]] = []
    for span in spans:
        row, run = len(seen), len(runs) // 2
        for one in span.runs:
            runs += one
        if span.count == 1:
            slots.append(span.runs[-1][1] - 1)
            seen.append(span.end)
            first_runs.append(run)
            found.append((span.end, row, 1))
            continue
        for start, end in tail(span.runs, span.count):
            slots.extend(range(start, end))
        seen.extend(range(span.start + 1, span.end + 1))
        first_runs += [run] * span.count
        firsts = range(row, row + span.count, ROWS_TOGETHER)
        found += [(span.end, first, min(ROWS_TOGETHER, row + span.count - first)) for first in firsts]
    found.sort(reverse=True)
    together = [number for one in found for number in one[1:]]
    return _Rows(slots, seen, first_runs, range(len(seen)), runs, together)


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
