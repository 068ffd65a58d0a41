"""Token ids → batches. Row i of a stream is a pure function of (seed, i), so a bookmark is one number.

B batch (rows), T time (context length).
"""

# ruff: noqa: N815 (shape suffixes of fields are upper case)

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dunwu.core.errors import DataError
from dunwu.core.records import Tokens
from dunwu.corpus.packing import Packing, pack
from dunwu.corpus.shards import TokenShards
from dunwu.corpus.source_mix import Mix

IGNORED = -100  # a target that carries no loss
PADDING_ID = 0

Array = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows to learn from, all [B, T] int64. Positions restart at each document of a row; `document_BT` numbers the
    documents of a row and is None when every row is one document. `learned_tokens` counts the targets with a loss, or
    whatever else the mean loss is taken over (see `align/`).

    `branch_BT`: which continuation of its document a token belongs to; all of them see branch 0, none another.
    `annotations`: what an algorithm says of these rows for its own objective, by name."""

    ids_BT: Tensor
    targets_BT: Tensor
    positions_BT: Tensor
    document_BT: Tensor | None
    learned_tokens: int
    branch_BT: Tensor | None = None
    annotations: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def to(self, device: torch.device) -> "Batch":
        """The same rows on `device`; to a GPU the copy overlaps what runs there."""
        if device.type == "cpu":
            return self
        move: Callable[[Tensor], Tensor] = lambda x: x.pin_memory().to(device, non_blocking=True)  # noqa: E731
        return Batch(
            ids_BT=move(self.ids_BT),
            targets_BT=move(self.targets_BT),
            positions_BT=move(self.positions_BT),
            document_BT=None if self.document_BT is None else move(self.document_BT),
            learned_tokens=self.learned_tokens,
            branch_BT=None if self.branch_BT is None else move(self.branch_BT),
            annotations={name: move(value) for name, value in self.annotations.items()},
        )


class Stream(Protocol):
    """An endless supply of rows, addressed by number."""

    @property
    def context_length(self) -> int: ...
    @property
    def rows_per_epoch(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def batch(self, first_row: int, rows: int) -> Batch: ...


class PretrainStream:
    """Rows cut from the concatenated documents of `shards`.

    Each epoch shifts where the rows begin (the tokens are taken as a ring, so every row is full) and visits its rows in
    another order. An end-of-text id is the target that ends one document and the input that begins the next: attention
    is cut before it, and no token goes without its loss. For a model that wants an id of its own before a text, it is cut there.
    """

    def __init__(self, shards: TokenShards, *, context_length: int, seed: int) -> None:
        self._tokens = shards.tokens
        self._begin_id = shards.begin_id
        self.context_length = context_length
        self.seed = seed
        self.rows_per_epoch = max(1, len(self._tokens) // context_length)
        self.fingerprint = fingerprint_of(
            "pretrain", seed, context_length, len(self._tokens), *shards.facts.sha256.values()
        )

    def batch(self, first_row: int, rows: int) -> Batch:
        """Rows `first_row` to `first_row + rows` of the endless stream."""
        window_BT = np.stack([self._row(row) for row in range(first_row, first_row + rows)])
        ids_BT, targets_BT = window_BT[:, :-1], window_BT[:, 1:]
        begins_BT = ids_BT == self._begin_id
        begins_BT[:, 0] = True
        return _batch(ids_BT, targets_BT, begins_BT)

    def start_of(self, row: int) -> int:
        """Where in the ring of tokens a row begins; its targets are the `context_length` tokens behind that one."""
        epoch, index = divmod(row, self.rows_per_epoch)
        key = epoch_key(self.seed, epoch)
        return (key[0] + permuted(index, self.rows_per_epoch, key) * self.context_length) % len(self._tokens)

    def _row(self, row: int) -> Array:
        return _ring(self._tokens, self.start_of(row), self.context_length + 1)


class SftStream:
    """Rows packed from whole conversations, best fit first; a conversation longer than a row loses its oldest tokens: `cut`
    says how many do.

    Every epoch puts other conversations of the same length into the places of the packing and visits the rows in
    another order. What a row has left over is padding: a document of its own, without loss. `mix` says which conversations
    an epoch has; without it each comes once.
    """

    def __init__(
        self, conversations: Sequence[Tokens], *, context_length: int, seed: int, mix: Mix | None = None
    ) -> None:
        self.context_length = context_length
        self.seed = seed
        self.cut = sum(len(tokens.ids) > context_length + 1 for tokens in conversations)
        kept = [_newest(tokens, context_length + 1) for tokens in conversations]
        kept = [tokens for tokens in kept if len(tokens.ids) > 1 and tokens.learned[1:].any()]
        if not kept:
            raise DataError(
                f"none of {len(conversations)} conversations has a token to learn within a context of {context_length};"
                " each needs an assistant's turn: check the files of sft.sources"
            )
        if mix is not None and sum(mix.sizes) != len(kept):
            raise ValueError(f"a mix of {sum(mix.sizes)} conversations for {len(kept)} that can be learned")
        self._mix = mix or Mix(sizes=(len(kept),), per_pass=(len(kept),))
        self._lengths = np.array([len(tokens.ids) for tokens in kept], np.int64)
        self._ends = np.cumsum(self._lengths)
        self._ids = np.concatenate([tokens.ids for tokens in kept]).astype(np.int32)
        self._learned = np.concatenate([tokens.learned for tokens in kept])
        self.conversations = len(kept)
        self._packings: tuple[Array, Packing] | None = None
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        members, packing = self._epoch(0)
        self.rows_per_epoch = packing.rows
        self.filled = float((self._lengths[members] - 1).sum() / (packing.rows * context_length))
        self._first_rows = [0, packing.rows]
        content = hashlib.sha256(self._ids.tobytes() + self._learned.tobytes() + self._ends.tobytes()).hexdigest()
        mixed = () if self._mix.once else (self._mix.sizes, self._mix.per_pass)
        self.fingerprint = fingerprint_of("sft", seed, context_length, content, *mixed)

    def batch(self, first_row: int, rows: int) -> Batch:
        """Rows `first_row` to `first_row + rows` of the endless stream."""
        shape = (rows, self.context_length)
        ids_BT, targets_BT = np.full(shape, PADDING_ID, np.int64), np.full(shape, IGNORED, np.int64)
        begins_BT = np.zeros(shape, bool)
        for line, row in enumerate(range(first_row, first_row + rows)):
            self._fill(row, ids_BT[line], targets_BT[line], begins_BT[line])
        return _batch(ids_BT, targets_BT, begins_BT)

    def _fill(self, row: int, ids_T: Array, targets_T: Array, begins_T: npt.NDArray[np.bool_]) -> None:
        epoch, index = self._place(row)
        members, packing = self._epoch(epoch)
        index = permuted(index, packing.rows, epoch_key(self.seed, epoch))
        at = 0
        for conversation in members[packing.places(index)]:
            end = int(self._ends[conversation])
            begin = int(self._ends[conversation - 1]) if conversation else 0
            length = end - begin - 1
            ids_T[at : at + length] = self._ids[begin : end - 1]
            learned = self._learned[begin + 1 : end]
            targets_T[at : at + length][learned] = self._ids[begin + 1 : end][learned]
            begins_T[at] = True
            at += length
        if at < self.context_length:
            begins_T[at] = True

    def _place(self, row: int) -> tuple[int, int]:
        """The epoch of a row and its number there; epochs differ in rows where they differ in conversations."""
        if self._mix.repeats:
            return divmod(row, self.rows_per_epoch)
        while row >= self._first_rows[-1]:
            _, packing = self._epoch(len(self._first_rows) - 1)
            self._first_rows.append(self._first_rows[-1] + packing.rows)
        epoch = bisect_right(self._first_rows, row) - 1
        return epoch, row - self._first_rows[epoch]

    def _make_epoch(self, epoch: int) -> tuple[Array, Packing]:
        """Which conversation stands at each place of the packing (those of one length change places every epoch), and that."""
        members = self._mix.members(self.seed, epoch)
        generator = np.random.Generator(np.random.Philox(key=epoch_key(self.seed, epoch)[0]))
        lengths = self._lengths[members]
        order = np.lexsort((generator.random(len(members)), -lengths))
        if self._packings is None or not np.array_equal(self._packings[0], lengths[order]):
            self._packings = lengths[order], pack(lengths - 1, self.context_length)
        return members[order], self._packings[1]


def _batch(ids_BT: Array, targets_BT: Array, begins_BT: npt.NDArray[np.bool_]) -> Batch:
    """Rows with their positions and documents, from where documents begin (column 0 always does)."""
    columns_T = np.arange(ids_BT.shape[1])
    positions_BT = columns_T - np.maximum.accumulate(np.where(begins_BT, columns_T, 0), axis=1)
    one_document = not begins_BT[:, 1:].any()
    return Batch(
        ids_BT=torch.from_numpy(np.ascontiguousarray(ids_BT)),
        targets_BT=torch.from_numpy(np.ascontiguousarray(targets_BT)),
        positions_BT=torch.from_numpy(positions_BT),
        document_BT=None if one_document else torch.from_numpy(np.cumsum(begins_BT, axis=1) - 1),
        learned_tokens=int((targets_BT != IGNORED).sum()),
    )


def _newest(tokens: Tokens, length: int) -> Tokens:
    return tokens if len(tokens.ids) <= length else Tokens(ids=tokens.ids[-length:], learned=tokens.learned[-length:])


def _ring(tokens: npt.NDArray[Any], start: int, length: int) -> Array:
    """`length` tokens from `start` on, going round as often as needed."""
    if start + length <= len(tokens):
        return tokens[start : start + length].astype(np.int64)
    return tokens[np.arange(start, start + length) % len(tokens)].astype(np.int64)


def permuted(index: int, size: int, key: tuple[int, ...]) -> int:
    """Where `index` goes in a permutation of `range(size)` chosen by `key`, in constant memory at any size.

    A Feistel network over the next power of four, walked until it lands inside (Black and Rogaway 2002, "Ciphers with
    arbitrary finite domains", §4).
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    while True:
        left, right = index >> half_bits, index & mask
        for round_key in key:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        index = left << half_bits | right
        if index < size:
            return index


def _mix(value: int) -> int:
    """The finaliser of SplitMix64: every input bit stirs every output bit."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return value ^ value >> 31


@lru_cache(maxsize=8)
def epoch_key(seed: int, epoch: int) -> tuple[int, ...]:
    """Four 64-bit numbers that belong to an epoch of a seed."""
    digest = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=32).digest()
    return tuple(int.from_bytes(digest[i : i + 8], "little") for i in range(0, 32, 8))


def fingerprint_of(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:16]
