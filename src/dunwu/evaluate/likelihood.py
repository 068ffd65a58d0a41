"""How many bits per byte a model needs for held-out text: the one figure that compares models of any vocabulary, compressors too.

Shapes: `B` batch (windows), `T` time, `N` scored tokens, `D` model width, `V` vocabulary.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dunwu.core.progress import Progress
from dunwu.core.records import Document, Score
from dunwu.evaluate.heldout import ChosenText, by_document, choose_text
from dunwu.evaluate.stats import ratio_interval
from dunwu.model.decoder import Decoder

BATCH_TOKENS = 8_192  # tokens in one forward pass
LOGITS_BYTES = 16 << 20  # logits exist only so many bytes at a time

Ids = npt.NDArray[np.int32]


class Encoder(Protocol):
    """What is needed of a tokenizer."""

    @property
    def eos_id(self) -> int: ...
    def encode_batch(self, texts: Sequence[str]) -> Sequence[Ids]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentBits:
    """One document's share: of the pieces scored, their bytes, tokens, and the bits that the model needs for them."""

    source: str
    language: str
    bytes: int
    tokens: int
    bits: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BitsResult:
    """Bits per byte with a 95% interval by document, overall and by language, and what was scored."""

    score: Score
    by_language: tuple[Score, ...]
    documents: tuple[DocumentBits, ...]
    text: ChosenText


@dataclass(frozen=True, slots=True)
class _Window:
    """Tokens that one row of a forward pass holds, and from which target on they count: earlier ones are context only."""

    piece: int
    ids: Ids
    first_scored: int


def bits_per_byte(
    model: Decoder,
    tokenizer: Encoder,
    documents: Iterable[Document],
    *,
    context_length: int,
    max_bytes: int,
    progress: Progress,
) -> BitsResult:
    """Score at most `max_bytes` of the documents, spread evenly over them (see `choose_text`)."""
    text = choose_text(documents, max_bytes=max_bytes)
    return score_text(model, tokenizer, text, context_length=context_length, progress=progress)


@torch.inference_mode()
def score_text(
    model: Decoder,
    tokenizer: Encoder,
    text: ChosenText,
    *,
    context_length: int,
    progress: Progress,
    start_ids: Sequence[int] = (),
) -> BitsResult:
    """Bits per byte of the chosen pieces.

    A piece begins after `start_ids` (none: after an end-of-text token), with no other context. Windows of `context_length` overlap by half, so that
    every token has at least half a context before it, as far as its piece goes back. All tokens of the text are scored, its
    end is not (a compressor needn't code it either); the divisor is UTF-8 bytes.
    """
    was_training = model.training
    model.eval()
    try:
        encoded = tokenizer.encode_batch(text.texts)
        bits = _piece_bits(model, encoded, tuple(start_ids) or (tokenizer.eos_id,), context_length, progress)
    finally:
        model.train(was_training)
    rows = _document_rows(text, bits, [len(ids) for ids in encoded])
    return BitsResult(
        score=_score("bits_per_byte", rows),
        by_language=tuple(
            _score(f"bits_per_byte.{language}", [row for row in rows if row.language == language])
            for language in sorted({row.language for row in rows})
        ),
        documents=tuple(rows),
        text=text,
    )


def _score(name: str, rows: Sequence[DocumentBits]) -> Score:
    estimate = ratio_interval([row.bits for row in rows], [row.bytes for row in rows])
    return Score(name=name, unit="bits/byte", **estimate._asdict())


def _document_rows(text: ChosenText, bits: Sequence[float], tokens: Sequence[int]) -> list[DocumentBits]:
    bits_of, sizes = by_document(text, bits)
    tokens_of, _ = by_document(text, tokens)
    firsts = [next(group) for _, group in groupby(text.pieces, key=lambda piece: piece.document)]
    return [
        DocumentBits(source=first.source, language=first.language, bytes=int(size), tokens=int(count), bits=value)
        for first, size, count, value in zip(firsts, sizes, tokens_of, bits_of, strict=True)
    ]


def _piece_bits(
    model: Decoder, encoded: Sequence[Ids], start: Sequence[int], context_length: int, progress: Progress
) -> list[float]:
    windows = [window for number, ids in enumerate(encoded) for window in _windows(number, ids, start, context_length)]
    windows.sort(key=lambda window: len(window.ids), reverse=True)
    bits = [0.0] * len(encoded)
    done, total = 0, sum(len(window.ids) for window in windows)
    for batch in _batches(windows):
        for window, nats in zip(batch, _window_nats(model, batch), strict=True):
            bits[window.piece] += nats / math.log(2)
        done += sum(len(window.ids) for window in batch)
        progress.update(done, total)
    return bits


def _windows(piece: int, ids: Ids, before: Sequence[int], context_length: int) -> Iterator[_Window]:
    """Cut one piece into overlapping windows; each target is scored in exactly one."""
    row = np.concatenate([before, ids]).astype(np.int32)
    step = max(1, context_length // 2)
    start, scored = 0, len(before)  # targets row[1:scored] are done
    while scored < len(row):
        end = min(start + context_length + 1, len(row))
        yield _Window(piece, row[start:end], scored - start - 1)
        scored, start = end, end - 1 - (context_length - step)


def _batches(windows: Sequence[_Window]) -> Iterator[list[_Window]]:
    """Neighbours in length together, so that little is padding."""
    at = 0
    while at < len(windows):
        rows = max(1, BATCH_TOKENS // len(windows[at].ids))
        yield list(windows[at : at + rows])
        at += rows


def _window_nats(model: Decoder, batch: Sequence[_Window]) -> list[float]:
    """Negative log-likelihood of each window's scored targets, nats. Padding stands behind, where a causal model can't look."""
    device = model.head_weight.device
    longest = max(len(window.ids) for window in batch)
    ids_BT = torch.zeros(len(batch), longest, dtype=torch.int64)
    scored_BT = torch.zeros(len(batch), longest - 1, dtype=torch.bool)
    positions_BT = torch.arange(longest - 1).repeat(len(batch), 1)
    for i, window in enumerate(batch):
        ids_BT[i, : len(window.ids)] = torch.from_numpy(window.ids.astype(np.int64))
        positions_BT[i].clamp_(
            max=max(0, len(window.ids) - 2)
        )  # padding makes no text longer: some angles depend on that
        scored_BT[i, window.first_scored : len(window.ids) - 1] = True
    ids_BT, scored_BT = ids_BT.to(device), scored_BT.to(device)
    hidden_ND = model(ids_BT[:, :-1], positions_BT=positions_BT.to(device))[scored_BT]
    nats_N = _token_nats(model.logits, hidden_ND, ids_BT[:, 1:][scored_BT], model.config.vocab_size)
    counts = scored_BT.sum(dim=1).tolist()
    return [float(part.sum()) for part in nats_N.double().cpu().split(counts)]


def _token_nats(logits: Callable[[Tensor], Any], hidden_ND: Tensor, targets_N: Tensor, vocab_size: int) -> Tensor:
    """-log p of each target, `[N]` float32, with the logits only in chunks."""
    rows = max(1, LOGITS_BYTES // (4 * vocab_size))
    parts = [
        torch.nn.functional.cross_entropy(logits(hidden).float(), targets, reduction="none")
        for hidden, targets in zip(hidden_ND.split(rows), targets_N.split(rows), strict=True)
    ]
    return torch.cat(parts)
