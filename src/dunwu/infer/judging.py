"""How likely given tokens are: texts that begin alike share their beginning, and logits exist only where they are asked for.

Shapes: `N` tokens of a pass, `W` tokens judged, `U` places that judge them, `D` model width, `V` vocabulary.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dunwu.infer.forest import Piece, Row, Slots, passes, segments
from dunwu.infer.paged import PagedCache
from dunwu.infer.runner import few_rows
from dunwu.model.blocks.rotary import depends_on_length
from dunwu.model.cache import Span
from dunwu.model.decoder import Decoder

Numbers = npt.NDArray[Any]
PASS_TOKENS = 1024
LOGITS_BYTES = 16 << 20
"""Logits exist only so many bytes at a time."""


class Judgement(NamedTuple):
    """Of the judged tokens of a row: the sum of their log-probabilities, nats, and whether each is the likeliest."""

    logprob: float
    greedy: bool


class Judge:
    """Reads rows with `model`. The room that it needs for keys and values is that of the longest row and of one pass."""

    def __init__(self, model: Decoder, *, pass_tokens: int = PASS_TOKENS) -> None:
        self.model, self.pass_tokens = model, pass_tokens
        self._shares = not depends_on_length(model.config)  # else a key depends on how long its text is
        self.read_tokens = 0

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Row]) -> list[Judgement]:
        """A judgement of each row, in their order; a row must fit the model's context."""
        found = segments(rows, shared=self._shares)
        longest = max((len(row.ids) for row in rows), default=0)
        sums, greedy = np.zeros(len(rows)), np.ones(len(rows), dtype=bool)
        reader = _Reader(self.model, longest + self.pass_tokens)
        plan = passes(
            found, most_tokens=self.pass_tokens, slots=Slots(longest + self.pass_tokens), whole=not self._shares
        )
        for pieces in plan:
            hidden_ND = reader.read(rows, pieces)
            self.read_tokens += len(hidden_ND)
            self._judge(rows, pieces, hidden_ND, sums, greedy)
        return [Judgement(float(total), bool(one)) for total, one in zip(sums, greedy, strict=True)]

    def _judge(
        self, rows: Sequence[Row], pieces: Sequence[Piece], hidden_ND: Tensor, sums: Numbers, greedy: Numbers
    ) -> None:
        places_W, tokens_W, owners_W = _wanted(rows, pieces)
        if not len(places_W):
            return
        places_U, place_of_W = np.unique(places_W, return_inverse=True)
        order = np.argsort(place_of_W, kind="stable")
        place_of_W, tokens_W, owners_W = place_of_W[order], tokens_W[order], owners_W[order]
        size = max(1, LOGITS_BYTES // (4 * self.model.config.vocab_size))
        for start in range(0, len(places_U), size):
            first, last = np.searchsorted(place_of_W, (start, start + size))
            own = slice(int(first), int(last))
            chosen_U = torch.from_numpy(places_U[start : start + size]).to(hidden_ND.device)
            logprobs_W, best_W = _logprobs(
                self.model.logits(hidden_ND[chosen_U]).float(), place_of_W[own] - start, tokens_W[own]
            )
            np.add.at(sums, owners_W[own], logprobs_W)
            np.logical_and.at(greedy, owners_W[own], best_W)


class _Reader:
    """Passes over a cache of so many slots."""

    def __init__(self, model: Decoder, slots: int) -> None:
        head = model.head_weight
        self._model = model
        self._cache = PagedCache(model.config, slots, 1, head.device, head.dtype)
        changed = any(change.active for change in model.changes)
        self._kernels = None if changed else few_rows(model, self._cache)

    def read(self, rows: Sequence[Row], pieces: Sequence[Piece]) -> Tensor:
        """Final hidden states `[N, D]`, piece after piece."""
        ids = np.concatenate([rows[one.segment.row].ids[one.start : one.end] for one in pieces])
        spans: list[Span] = []
        done = 0
        for one in pieces:
            spans.append(Span(done, one.start, one.end - one.start, one.runs))
            done += one.end - one.start
        if self._kernels is not None:
            return self._kernels.run(ids.tolist(), spans)
        self._cache.begin(spans)
        ids_1N = torch.from_numpy(ids.astype(np.int64))[None].to(self._cache.reach.device)
        return self._model(ids_1N, positions_BT=self._cache.positions(done, ids_1N.device), cache=self._cache)[0]


def _wanted(rows: Sequence[Row], pieces: Sequence[Piece]) -> tuple[Numbers, Numbers, Numbers]:
    """Of each token judged in this pass: which row of hidden states judges it, its id, and whose it is."""
    places, tokens, owners = list[Numbers](), list[Numbers](), list[Numbers]()
    done = 0
    for piece in pieces:
        for row, first, last in piece.segment.wanted:
            first, last = max(first, piece.start), min(last, piece.end)
            if first < last:
                places.append(np.arange(first, last) + done - piece.start)
                tokens.append(rows[row].ids[first + 1 : last + 1])
                owners.append(np.full(last - first, row))
        done += piece.end - piece.start
    return _whole(places), _whole(tokens), _whole(owners)


def _whole(parts: Sequence[Numbers]) -> Numbers:
    return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)


def _logprobs(logits_UV: Tensor, place_of_W: Numbers, tokens_W: Numbers) -> tuple[Numbers, Numbers]:
    """Of each token its log-probability, and whether none is likelier."""
    device = logits_UV.device
    places, tokens = torch.from_numpy(place_of_W).to(device), torch.from_numpy(tokens_W).to(device)
    logprobs = logits_UV[places, tokens] - logits_UV.logsumexp(-1)[places]
    best = logits_UV.argmax(-1)[places] == tokens
    return logprobs.double().cpu().numpy(), best.cpu().numpy()
