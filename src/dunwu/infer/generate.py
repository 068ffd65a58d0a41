"""Prompts to completions, with a key/value cache: one sequence as a stream, or many at once.

Shapes: `B` rows, `T` new columns, `D` model width.
"""

import contextlib
import math
import random
from collections.abc import Generator as Steps
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from dunwu.core.devices import products_of_few_rows
from dunwu.core.errors import DataError, ModelError
from dunwu.core.records import Completion
from dunwu.infer.sampler import Sampling, sample
from dunwu.model.blocks.rotary import crosses_border
from dunwu.model.cache import KeyValueCache
from dunwu.model.count import kv_bytes_per_token
from dunwu.model.decoder import Decoder
from dunwu.tokenizer.like import TokenizerLike

FinishReason = Literal["stop", "length", "context"]
PREFILL_COLUMNS = 512  # a long prompt is read in parts: the attention mask of a part is columns × context
CACHE_BYTES = 512 << 20
MOST_ROWS = 64
FEW_ROWS = 4  # fewer rows in a product than this: see `products_of_few_rows`
COMPACT_BELOW = 0.75  # finished rows leave the cache when fewer than this share of the rows are alive


@dataclass(slots=True)
class _Row:
    """One request on its way: how many tokens it may still write, what it wrote, why it ended."""

    place: int
    prompt: Sequence[int]
    room: int
    out_of_room: FinishReason
    draws: random.Random
    stop_ids: frozenset[int]
    ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def take(self, number: int) -> None:
        if number in self.stop_ids:
            self.finish_reason = "stop"
            return
        self.ids.append(number)
        self.room -= 1
        if self.room == 0:
            self.finish_reason = self.out_of_room


class Generator:
    """Writes on from prompts. The model is only read, so that any number of generators may share it.

    `context_length` None takes the model's own. Ids that stand for nothing are never chosen: those that pad the model's
    vocabulary beyond the tokenizer's, and gaps in the tokenizer's own. Raises ModelError when a text can become ids that the
    model does not have; control tokens beyond its vocabulary (an image's, in a model of text) do no harm.
    """

    def __init__(self, model: Decoder, tokenizer: TokenizerLike, *, context_length: int | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.context_length = context_length or model.config.max_position_embeddings
        if model.config.vocab_size < tokenizer.rows_needed:
            raise ModelError(
                f"the model has {model.config.vocab_size} ids and the tokenizer {tokenizer.rows_needed}; "
                "take both from the same folder"
            )
        self._unused = torch.tensor([number for number in tokenizer.unused_ids if number < model.config.vocab_size])

    def stream(
        self,
        ids: Sequence[int],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int | None = None,
        stop_ids: Iterable[int] | None = None,
    ) -> Steps[int, None, FinishReason]:
        """Yield new ids as they are made; the stop id itself is not yielded. The generator's return value says why it ended.

        `stop_ids` None: the end of a text or of a turn. Raises DataError for an empty prompt.
        """
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        row = self._row(0, ids, max_new_tokens, _row_draws(seed, 1)[0], self._stops(stop_ids))
        if row.finish_reason is None:
            cache = self._cache([row])
            columns = [*row.prompt]
            while True:
                number = self._step([columns], cache, sampling, [row])[0]
                row.take(number)
                if row.finish_reason == "stop":
                    break
                yield number
                if row.finish_reason is not None:
                    break
                columns = [number]
        return row.finish_reason

    def complete_batch(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int | Sequence[int] | None = None,
        stop_ids: Iterable[int] | None = None,
    ) -> list[Completion]:
        """Completions in the order of the prompts, the same as one by one (up to rounding between near-equal tokens).

        `seed`: one for each prompt, or one from which each place in the list gets its own; a prompt with its own seed draws
        the same numbers whatever else is in the batch. A prompt that fills the context gets an empty completion with
        finish reason "context". Raises DataError for an empty prompt.
        """
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        stops = self._stops(stop_ids)
        draws = _row_draws(seed, len(prompts))
        rows = [
            self._row(place, prompt, max_new_tokens, one, stops)
            for place, (prompt, one) in enumerate(zip(prompts, draws, strict=True))
        ]
        for batch in self._batches(row for row in rows if row.finish_reason is None):
            self._run(batch, sampling)
        return [_completion(row, self.tokenizer) for row in rows]

    def _row(self, place: int, prompt: Sequence[int], wanted: int, draws: random.Random, stops: frozenset[int]) -> _Row:
        if len(prompt) == 0:
            raise DataError(f"prompt {place + 1} is empty; give at least one token")
        left = self.context_length - len(prompt)
        row = _Row(place, prompt, min(wanted, left), "length" if wanted <= left else "context", draws, stops)
        if row.room <= 0:
            row.finish_reason = row.out_of_room
        return row

    def _stops(self, stop_ids: Iterable[int] | None) -> frozenset[int]:
        return frozenset(self.tokenizer.stop_ids if stop_ids is None else stop_ids)

    def _batches(self, rows: Iterable[_Row]) -> Iterator[list[_Row]]:
        """Rows of similar length together, the longest first, as many as the cache may hold."""
        batch: list[_Row] = []
        column_bytes = kv_bytes_per_token(self.model.config, self._dtype.itemsize)
        for row in sorted(rows, key=lambda row: -len(row.prompt)):
            columns = max((len(other.prompt) for other in batch), default=0) or len(row.prompt)
            columns += max(row.room, *(other.room for other in batch)) if batch else row.room
            if batch and (len(batch) == MOST_ROWS or (len(batch) + 1) * columns * column_bytes > CACHE_BYTES):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _run(self, rows: list[_Row], sampling: Sampling) -> None:
        cache = self._cache(rows)
        width = max(len(row.prompt) for row in rows)
        columns = [[0] * (width - len(row.prompt)) + [*row.prompt] for row in rows]
        while True:
            for row, number in zip(rows, self._step(columns, cache, sampling, rows), strict=True):
                if row.finish_reason is None:
                    row.take(number)
            alive = [place for place, row in enumerate(rows) if row.finish_reason is None]
            if not alive:
                return
            if len(alive) <= COMPACT_BELOW * len(rows):
                cache.select(torch.tensor(alive, device=self._device))
                rows = [rows[place] for place in alive]
            columns = [[row.ids[-1] if row.ids else 0] for row in rows]

    @torch.inference_mode()
    def _step(
        self, columns: list[list[int]], cache: KeyValueCache, sampling: Sampling, rows: Sequence[_Row]
    ) -> list[int]:
        """Read `columns`, [B][T], into the cache and choose the token after them, for each row."""
        part_columns = PREFILL_COLUMNS
        if crosses_border(self.model.config, cache, len(columns[0])):
            columns = _all_columns(rows, cache, len(columns[0]))
            cache.length = 0
            part_columns = len(columns[0])
        ids_BT = torch.tensor(columns, device=self._device)
        hidden_BTD: Tensor | None = None
        with products_of_few_rows() if ids_BT.numel() < FEW_ROWS else contextlib.nullcontext():
            for part_BT in ids_BT.split(part_columns, dim=1):
                hidden_BTD = self.model(part_BT, cache=cache)
            assert hidden_BTD is not None
            logits_BV = self.model.logits(hidden_BTD[:, -1])[:, : self.tokenizer.vocab_size]
        if self._unused.numel():
            logits_BV = logits_BV.index_fill(1, self._unused.to(logits_BV.device), -math.inf)
        return sample(logits_BV, sampling, [row.draws.random() for row in rows] if sampling.temperature else ())

    @torch.inference_mode()
    def _cache(self, rows: Sequence[_Row]) -> KeyValueCache:
        """Room for the longest prompt, and the most that any row may write; shorter prompts are padded on the left."""
        width = max(len(row.prompt) for row in rows)
        room = max(row.room for row in rows)
        cache = KeyValueCache(self.model.config, len(rows), width + room, self._device, self._dtype)
        if any(len(row.prompt) < width for row in rows):
            cache.starts_B = torch.tensor([width - len(row.prompt) for row in rows], device=self._device)
        return cache

    @property
    def _device(self) -> torch.device:
        return self.model.head_weight.device

    @property
    def _dtype(self) -> torch.dtype:
        return self.model.head_weight.dtype


def _all_columns(rows: Sequence[_Row], cache: KeyValueCache, new: int) -> list[list[int]]:
    """What the cache holds and the `new` columns after it, [B][T]; rows that ended before are filled up."""
    starts = [0] * len(rows) if cache.starts_B is None else cache.starts_B.tolist()
    columns = [[0] * start + [*row.prompt, *row.ids] for start, row in zip(starts, rows, strict=True)]
    return [row + [0] * (cache.length + new - len(row)) for row in columns]


def _row_draws(seed: int | Sequence[int] | None, rows: int) -> list[random.Random]:
    """A source of numbers for each row. A single seed serves the first row as it is: a batch of one equals a stream."""
    if seed is None:
        return [random.Random() for _ in range(rows)]
    if isinstance(seed, int):
        return [random.Random(f"{seed}/{place}" if place else str(seed)) for place in range(rows)]
    if len(seed) != rows:
        raise DataError(f"{len(seed)} seeds for {rows} prompts; give one seed, or one for each prompt")
    return [random.Random(str(one)) for one in seed]


def _completion(row: _Row, tokenizer: TokenizerLike) -> Completion:
    assert row.finish_reason is not None
    return Completion(text=tokenizer.decode(row.ids), ids=tuple(row.ids), finish_reason=row.finish_reason)
