"""A whole tiny training run, for the tests here and for the processes that they start and kill."""

import json
import random
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dunwu.core.files import sha256_file
from dunwu.core.progress import Progress, TerminalProgress
from dunwu.core.recipe import PretrainSection
from dunwu.core.records import Document
from dunwu.corpus.shards import TokenShards, write_shards
from dunwu.corpus.stream import Batch, PretrainStream, Stream
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import Decoder, new_decoder
from dunwu.train import checkpoint
from dunwu.train.loop import Objective, TrainResult, fit
from dunwu.train.objectives import causal_lm
from dunwu.train.optim import build_optimizer
from dunwu.train.signals import Interrupted, StopSignal

CONTEXT = 32
POISON_ID = 299  # no text has it
CONFIG = DecoderConfig(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=CONTEXT,
    qk_norm="head",
)


class Bytes:
    """UTF-8 bytes as ids after one end-of-text id: small, exact, and needs no training."""

    vocab_size = CONFIG.vocab_size
    eos_id = 0

    def encode_batch(self, texts: Any) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) + 1 for text in texts]


def documents(count: int = 60) -> list[Document]:
    """Sums: regular enough to be learned a little within twenty steps."""
    texts = [" ".join(f"{a}+{b}={a + b}." for a in range(i, i + 4)) for i, b in ((i, i % 7) for i in range(count))]
    return [Document(text=text, source=f"sums#{i}", language="en") for i, text in enumerate(texts)]


def section(**settings: Any) -> PretrainSection:
    """Settings that train the tiny model quickly."""
    values: dict[str, Any] = {"optimizer": "muon", "checkpoint_every_s": 3600.0, "warmup_fraction": 0.1}
    return PretrainSection(**{**values, **settings})


def stream(folder: Path, progress: Progress, seed: int) -> PretrainStream:
    """The sums as rows; their token files are made once."""
    if not (folder / "shards.json").exists():
        write_shards(documents(), Bytes(), folder, progress=progress)
    return PretrainStream(TokenShards.open(folder), context_length=CONTEXT, seed=seed)


class Poisoned:
    """A stream whose rows from `first` to `last` hold a token that `noisy` cannot stand."""

    def __init__(self, inner: Stream, spans: list[tuple[int, int]]) -> None:
        self.inner, self.spans = inner, spans
        self.context_length, self.rows_per_epoch = inner.context_length, inner.rows_per_epoch
        self.fingerprint = inner.fingerprint

    def batch(self, first_row: int, rows: int) -> Batch:
        batch = self.inner.batch(first_row, rows)
        poisoned = [
            any(first <= row <= last for first, last in self.spans) for row in range(first_row, first_row + rows)
        ]
        ids_BT = batch.ids_BT.masked_fill(torch.tensor(poisoned)[:, None], POISON_ID)
        return replace(batch, ids_BT=ids_BT)


def noisy(model: Decoder, batch: Batch, *, total_learned: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Causal LM that draws from both random generators, and is not finite on poisoned rows."""
    loss, figures = causal_lm(model, batch, total_learned=total_learned)
    factor = 0.9 + 0.2 * float(torch.rand(())) * random.random()
    return loss * (float("nan") if (batch.ids_BT == POISON_ID).any() else factor), figures


def run(
    folder: Path,
    *,
    progress: Progress,
    steps: int = 20,
    stop: StopSignal | None = None,
    objective: Objective = causal_lm,
    micro_batch_rows: int = 4,
    batch_rows: int = 8,
    seed: int = 0,
    rows: Stream | None = None,
    poison: list[tuple[int, int]] | None = None,
    more: dict[str, Any] | None = None,
    **settings: Any,
) -> TrainResult:
    """Train for `steps` steps of `batch_rows` rows."""
    model = new_decoder(CONFIG, seed=seed)
    chosen = section(**settings)
    rows = rows or stream(folder.parent / "shards", progress, seed)
    return fit(
        model,
        Poisoned(rows, poison) if poison else rows,
        noisy if poison else objective,
        build_optimizer(model, chosen, (0.02, 3e-3)),
        chosen,
        total_tokens=steps * batch_rows * CONTEXT,
        batch_rows=batch_rows,
        micro_batch_rows=micro_batch_rows,
        folder=folder,
        seed=seed,
        progress=progress,
        stop=stop or StopSignal(),
        **(more or {}),
    )


def weights(folder: Path) -> str:
    """The SHA-256 of what a run has made."""
    return sha256_file(folder / "model.safetensors")


def stall(write: int) -> None:
    """Make the process hang in the middle of writing its checkpoint number `write`, counted from 0."""
    true_sha256, calls = checkpoint.sha256_file, iter(range(10**9))

    def slow_sha256(path: Path) -> str:
        if path.parent.name.endswith(".tmp") and next(calls) == 2 * write:
            time.sleep(600)
        return true_sha256(path)

    checkpoint.sha256_file = slow_sha256


def process(folder: Path, settings: dict[str, Any]) -> None:
    """What a process of its own does: train, write what it says to `said.txt` and the result to `result.json`, and exit."""
    torch.set_num_threads(1)
    if (write := settings.pop("stall", None)) is not None:
        stall(write)
    folder.mkdir(exist_ok=True)
    with (folder / "said.txt").open("w") as said, StopSignal() as stop, TerminalProgress(said) as progress:
        try:
            result = run(folder, progress=progress, stop=stop, **settings)
        except Interrupted as interrupted:
            progress.note(str(interrupted))
            sys.exit(interrupted.exit_code)
    (folder / "result.json").write_text(json.dumps({**asdict(result), "sha256": weights(folder)}))
