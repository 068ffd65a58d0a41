"""A whole tiny training run, for the tests here and for the processes that they start and kill.

`python tests/train/tiny.py FOLDER key=value …` trains and prints one JSON line: the result and the SHA-256 of the weights.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dunwu.core.files import sha256_file
from dunwu.core.progress import Progress, TerminalProgress
from dunwu.core.recipe import PretrainSection
from dunwu.core.records import Document
from dunwu.corpus.shards import TokenShards, write_shards
from dunwu.corpus.stream import PretrainStream
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import Decoder, new_decoder
from dunwu.train.loop import Objective, TrainResult, fit
from dunwu.train.objectives import causal_lm
from dunwu.train.optim import build_optimizer
from dunwu.train.signals import Interrupted, StopSignal

VOCAB = 300
CONFIG = DecoderConfig(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=32,
)


class Bytes:
    """UTF-8 bytes as ids after one end-of-text id: small, exact, and needs no training."""

    vocab_size = VOCAB
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


def shards(folder: Path, progress: Progress) -> TokenShards:
    """The sums as token files, made once."""
    if not (folder / "shards.json").exists():
        write_shards(documents(), Bytes(), folder, progress=progress)
    return TokenShards.open(folder)


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
    model: Decoder | None = None,
    **settings: Any,
) -> TrainResult:
    """Train for `steps` steps of `batch_rows` rows of 32 tokens."""
    model = model or new_decoder(CONFIG, seed=seed)
    chosen = section(**settings)
    return fit(
        model,
        PretrainStream(shards(folder.parent / "shards", progress), context_length=32, seed=seed),
        objective,
        build_optimizer(model, chosen, (0.02, 3e-3)),
        chosen,
        total_tokens=steps * batch_rows * 32,
        batch_rows=batch_rows,
        micro_batch_rows=micro_batch_rows,
        folder=folder,
        seed=seed,
        progress=progress,
        stop=stop or StopSignal(),
    )


def main(arguments: list[str]) -> int:
    """The command line of this file."""
    torch.set_num_threads(1)
    folder, settings = Path(arguments[0]), dict(argument.split("=", 1) for argument in arguments[1:])
    values = {key: json.loads(value) for key, value in settings.items()}
    with StopSignal() as stop, TerminalProgress() as progress:
        try:
            result = run(folder, progress=progress, stop=stop, **values)
        except Interrupted as interrupted:
            print(interrupted, file=sys.stderr)
            return interrupted.exit_code
    print(json.dumps({**asdict(result), "sha256": sha256_file(folder / "model.safetensors")}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
