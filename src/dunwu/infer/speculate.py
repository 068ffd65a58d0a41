"""Tokens guessed ahead, so that one pass of the model may confirm several: looked up in the text, or drafted by a small model.

What is done with guesses is `choosing.py`'s; here they are only made, and whatever they are, the text comes out the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from dunwu.core.errors import DunwuError, ModelError, RecipeError
from dunwu.infer.blocks import Copy, Table
from dunwu.infer.choosing import Head, choose_after
from dunwu.infer.paged import CacheKind, PagedCache
from dunwu.infer.runner import Runner
from dunwu.infer.scheduler import Work
from dunwu.infer.sequence import Sequence as Ids
from dunwu.model.decoder import Decoder
from dunwu.tokenizer.like import TokenizerLike

BUSY_ROWS = 32
"""Tokens of a step: with more than these, reading a guess costs about as much as it may save."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLookup:
    """Guess that what followed the last few tokens before follows again: at most `most` tokens, after the longest match of
    `shortest` to `longest` tokens. Of use where an answer quotes its prompt: code, summaries, retrieval. Costs nearly nothing."""

    most: int = 6
    longest: int = 4
    shortest: int = 2
    busy_rows: int = BUSY_ROWS

    def __post_init__(self) -> None:
        _require_most(self.most)
        if not 1 <= self.shortest <= self.longest:
            raise RecipeError(f"shortest={self.shortest} must be at least 1 and at most longest={self.longest}")


@dataclass(frozen=True, slots=True)
class Draft:
    """Let a smaller `model` with the same tokenizer write at most `most` tokens ahead. Its keys and values share `cache_bytes`."""

    model: Decoder
    most: int = 4
    busy_rows: int = BUSY_ROWS

    def __post_init__(self) -> None:
        _require_most(self.most)


Speculation = PromptLookup | Draft


class Guesser(Protocol):
    """Told of every pass before it is made."""

    def guess(self, works: Sequence[Work], most: Sequence[int]) -> list[tuple[int, ...]]:
        """For each part of the pass, at most `most` tokens that may follow it."""
        ...

    def settle(self, sequence: Ids, proposed: int, accepted: int) -> None:
        """How many of the guesses were right."""
        ...

    def forget(self, sequence: Ids) -> None:
        """The sequence is over."""
        ...


class Lookup:
    """The `Guesser` of `PromptLookup`."""

    def __init__(self, wish: PromptLookup) -> None:
        self._wish = wish
        self._seen: dict[Ids, Endings] = {}

    def guess(self, works: Sequence[Work], most: Sequence[int]) -> list[tuple[int, ...]]:
        return [self._look_up(work.sequence, count) if count else () for work, count in zip(works, most, strict=True)]

    def _look_up(self, sequence: Ids, most: int) -> tuple[int, ...]:
        if sequence not in self._seen:
            self._seen[sequence] = Endings(self._wish.shortest, self._wish.longest)
        return self._seen[sequence].follow(sequence.ids, most)

    def settle(self, sequence: Ids, proposed: int, accepted: int) -> None:
        """Nothing to learn."""

    def forget(self, sequence: Ids) -> None:
        self._seen.pop(sequence, None)


@dataclass(slots=True)
class Endings:
    """Where each run of `shortest` to `longest` tokens of a growing text last stood. Of a long text, its last `window` tokens."""

    shortest: int
    longest: int
    window: int = 8192
    _after: dict[tuple[int, ...], int] = field(default_factory=dict[tuple[int, ...], int])
    _known: int = 0

    def follow(self, ids: Sequence[int], most: int) -> tuple[int, ...]:
        """What followed the text's ending where it stood before; a text that repeats itself is taken to go on so."""
        self._learn(ids)
        for length in range(self.longest, self.shortest - 1, -1):
            place = self._after.get(tuple(ids[-length:])) if length < len(ids) else None
            if place is not None:
                period = len(ids) - place
                return tuple(ids[place + step % period] for step in range(most))
        return ()

    def _learn(self, ids: Sequence[int]) -> None:
        """Take in what has something behind it: the ending itself has not."""
        for end in range(max(self._known, len(ids) - self.window, self.shortest), len(ids)):
            for length in range(self.shortest, min(self.longest, end) + 1):
                self._after[tuple(ids[end - length : end])] = end
        self._known = len(ids)


@dataclass(frozen=True, slots=True)
class _Part:
    table: Table
    start: int
    ids: Sequence[int]
    copies: Sequence[Copy] = ()
    adapter: str | None = None


class Drafter:
    """The `Guesser` of `Draft`. Its store has a slot for each of the model's, and it reads whatever the model reads: tables,
    shared beginnings and copies serve both.

    A guess is chosen as the text itself will choose: by the same filters and the same number. A grammar is not asked here.
    """

    def __init__(
        self,
        wish: Draft,
        tokenizer: TokenizerLike,
        vocabulary: int,
        blocks: int,
        block_size: int,
        cache: CacheKind = "float",
    ) -> None:
        model = wish.model
        if model.config.vocab_size < min(vocabulary, tokenizer.vocab_size):
            raise ModelError(
                f"the draft model has {model.config.vocab_size} ids and the model's tokenizer {tokenizer.vocab_size}; a draft "
                "model needs the same tokenizer"
            )
        head = model.head_weight
        with torch.inference_mode():
            store = PagedCache(model.config, blocks, block_size, head.device, head.dtype, cache)
        self._runner = Runner(model, store)
        self._head = Head(self._runner, tokenizer)
        self._last_id = model.config.vocab_size - 1
        self._reach = model.config.max_position_embeddings
        self._lags: dict[Ids, int] = {}

    def guess(self, works: Sequence[Work], most: Sequence[int]) -> list[tuple[int, ...]]:
        guesses: list[tuple[int, ...]] = [() for _ in works]
        parts: list[_Part] = []
        rows: dict[int, int] = {}
        row = -1
        for place, work in enumerate(works):
            part = self._unread(work)
            if part.ids:
                parts.append(part)
                row += len(part.ids)
                if most[place] > 0 and part.start + len(part.ids) == len(work.sequence.ids):
                    rows[place] = row
        while parts:
            hidden_ND = self._runner.run(parts)
            parts = []
            if not rows:
                break
            places = [(works[place].sequence, guesses[place]) for place in rows]
            try:
                chosen = choose_after(places, self._head(hidden_ND[list(rows.values())]), {})
            except DunwuError:
                break  # a draft that is no number is no guess
            for place, number in zip(rows, chosen.ids, strict=True):
                guesses[place] += (number,)
            going = [
                place
                for place in rows
                if len(guesses[place]) < most[place] and self._fits(works[place], guesses[place])
            ]
            parts = [self._behind(works[place], guesses[place]) for place in going]
            rows = {place: row for row, place in enumerate(going)}
        return guesses

    def settle(self, sequence: Ids, proposed: int, accepted: int) -> None:
        self._lags[sequence] = int(0 < proposed == accepted)  # the last guess was made, but not read

    def forget(self, sequence: Ids) -> None:
        self._lags.pop(sequence, None)

    def _unread(self, work: Work) -> _Part:
        start = max(0, work.start - self._lags.get(work.sequence, 0))
        ids = work.sequence.ids[start : min(work.start + work.count, self._reach)]
        return _Part(work.table, start, self._known(ids), work.copies)

    def _behind(self, work: Work, guesses: tuple[int, ...]) -> _Part:
        return _Part(work.table, len(work.sequence.ids) + len(guesses) - 1, self._known(guesses[-1:]))

    def _fits(self, work: Work, guesses: tuple[int, ...]) -> bool:
        return len(work.sequence.ids) + len(guesses) <= self._reach

    def _known(self, ids: Iterable[int]) -> list[int]:
        return [min(number, self._last_id) for number in ids]


def _require_most(most: int) -> None:
    if most < 1:
        raise RecipeError(f"most={most} must be at least 1; leave speculation out for none")
