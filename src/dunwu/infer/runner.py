"""What the scheduler plans becomes one pass of the model.

Shapes: `N` tokens of all texts side by side, `R` rows whose logits are wanted, `D` model width, `V` vocabulary.
"""

import contextlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

from dunwu.core.devices import products_of_few_rows
from dunwu.infer.adapters import Adapters
from dunwu.infer.blocks import Copy, Table
from dunwu.infer.fewrows import FewRows
from dunwu.infer.paged import PagedCache
from dunwu.infer.together import Together
from dunwu.model.cache import Span
from dunwu.model.decoder import Decoder
from dunwu.model.native.library import native
from dunwu.model.native.pages import keep_together

FEW_ROWS = 4
SMALL_MATRIX = 1 << 17
"""Elements. With fewer rows than FEW_ROWS and matrices smaller than this, oneDNN's start costs more than its kernels win."""


class Part(Protocol):
    """One text's share of a pass: `ids`, its tokens from `start` on, read by `adapter`, if any, into the blocks of `table` after
    the `copies`."""

    @property
    def table(self) -> Table: ...
    @property
    def start(self) -> int: ...
    @property
    def ids(self) -> Sequence[int]: ...
    @property
    def copies(self) -> Sequence[Copy]: ...
    @property
    def adapter(self) -> str | None: ...


class Runner:
    """Runs `model` over a store of blocks. Linear layers get the layout of `lay_out_for_few_rows` on a CPU."""

    def __init__(self, model: Decoder, cache: PagedCache) -> None:
        self.model, self.cache = model, cache
        self.adapters = Adapters(model)
        self._kernels = few_rows(model, cache)
        self._together = Together(model, cache) if cache.reach.is_cuda else None
        self._small = model.config.hidden_size * model.config.intermediate_size < SMALL_MATRIX
        if self._kernels is None:
            lay_out_for_few_rows(model)
        else:
            keep_together(model)

    @property
    def may_write(self) -> bool:
        """What `FewRows.may_write` says."""
        return self._kernels is not None and self._kernels.may_write

    def run(self, parts: Sequence[Part]) -> Tensor:
        """Read the tokens of the plan; gives the final hidden states `[N, D]`, text after text."""
        adapted = any(one.adapter is not None for one in parts) or any(one.active for one in self.model.changes)
        if self._kernels is None or self._together is not None or adapted or any(one.copies for one in parts):
            return self._run(parts, adapted)
        spans, ids = self._spans(parts)
        return self._kernels.run(ids, spans)

    def write(
        self, parts: Sequence[Part], count: int, size: int, barred_V: Tensor | None, stops: Iterable[int]
    ) -> tuple[list[list[int]], Tensor] | None:
        """What `FewRows.write` says, for parts of one token each with room for `count`; None without kernels."""
        if self._kernels is None or any(one.active for one in self.model.changes):
            return None
        ids = [number for one in parts for number in one.ids]
        runs = [self.cache.runs(one.table.blocks, one.start + count) for one in parts]
        spans = [Span(row, one.start, 1, own) for row, (one, own) in enumerate(zip(parts, runs, strict=True))]
        return self._kernels.write(ids, spans, count, size, barred_V, stops)

    @torch.inference_mode()
    def _run(self, parts: Sequence[Part], adapted: bool) -> Tensor:
        self.cache.copy([copy for one in parts for copy in one.copies])
        if self._together is not None and not adapted:
            lone = [one for one in parts if len(one.ids) == 1]
            if len(lone) == len(parts):
                return self._together.run(parts)
            if lone:
                return self._apart(parts, lone, self._together)
        return self._beside(parts, adapted)

    def _apart(self, parts: Sequence[Part], lone: Sequence[Part], together: Together) -> Tensor:
        """Two passes: prompts that are read would have those that only write go text by text, which takes a GPU far longer."""
        longer = [one for one in parts if len(one.ids) > 1]
        read = iter(self._beside(longer, adapted=False).split([len(one.ids) for one in longer]))
        written = iter(together.run(lone).split(1))
        return torch.cat([next(written if len(one.ids) == 1 else read) for one in parts])

    def _beside(self, parts: Sequence[Part], adapted: bool) -> Tensor:
        """One pass in which attention takes one text at a time."""
        spans, ids = self._spans(parts)
        if self._kernels is not None and not adapted:
            return self._kernels.run(ids, spans)
        self.cache.begin(spans)
        ids_1N = torch.tensor([ids], device=self.cache.reach.device)
        with self._products(len(ids)), self.adapters.over([(one.adapter, len(one.ids)) for one in parts]):
            positions_1N = self.cache.positions(len(ids), ids_1N.device)
            return self.model(ids_1N, positions_BT=positions_1N, cache=self.cache)[0]

    def _spans(self, parts: Sequence[Part]) -> tuple[list[Span], list[int]]:
        """Where the tokens of each text lie, and all that are read."""
        spans: list[Span] = []
        ids: list[int] = []
        for one in parts:
            own = one.ids
            runs = self.cache.runs(one.table.blocks, one.start + len(own))
            spans.append(Span(len(ids), one.start, len(own), runs))
            ids += own
        return spans, ids

    @torch.inference_mode()
    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Logits `[R, V]`."""
        if self._kernels is not None:
            return self._kernels.logits(hidden_RD)
        with self._products(len(hidden_RD)):
            return self.model.logits(hidden_RD)

    def likeliest(self, hidden_RD: Tensor, size: int, barred_V: Tensor | None) -> list[int] | None:
        """What `FewRows.likeliest` says; None without kernels."""
        return None if self._kernels is None else self._kernels.likeliest(hidden_RD, size, barred_V)

    def _products(self, rows: int) -> AbstractContextManager[None]:
        return products_of_few_rows() if self._small and rows < FEW_ROWS else contextlib.nullcontext()


def few_rows(model: Decoder, cache: PagedCache) -> FewRows | None:
    """The kernels for this model, where there are any: for float32 on a CPU."""
    head = model.head_weight
    if not head.is_cpu or head.dtype != torch.float32 or (kernels := native()) is None:
        return None
    return FewRows(kernels, model, cache)


def lay_out_for_few_rows(model: Decoder) -> None:
    """Keep the matrices of the linear layers, and of the head, column by column, in place; their values and shapes stay.

    A product with 1 to 8 rows then streams the matrix at 12 to 19 GB/s a core instead of 8 to 13 (Zen 5, oneDNN; MKL gains
    with one row alone), and one with many rows is as fast. Looking up a tied embedding gets slower, by less than a hundredth
    of what reading a token costs. Only float32 on a CPU; modules that are more than an `nn.Linear` keep what they have.
    """
    weights = [module.weight for module in model.modules() if type(module) is nn.Linear]
    if model.config.tie_word_embeddings and type(model.model.embed_tokens) is nn.Embedding:
        weights.append(model.model.embed_tokens.weight)
    with torch.inference_mode(False):  # the model may be trained again
        for weight in weights:
            if weight.is_cpu and weight.dtype == torch.float32 and weight.is_contiguous():
                weight.data = weight.data.t().contiguous().t()
