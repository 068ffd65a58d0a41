"""A few real training steps of a planned shape, timed: what this machine gives at that shape.

Results are remembered for an hour in the user's cache folder, by machine and shape, so that `plan` and `build` agree.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch

from dunwu.build.meters import machine_facts
from dunwu.core.deltas import DeltaSpec
from dunwu.core.devices import pick_device, pick_dtype, prepare_cpu
from dunwu.core.lineage import recall, remember, stable_hash, user_cache_folder
from dunwu.core.recipe import TrainSection
from dunwu.corpus.stream import Batch
from dunwu.delta.registry import attach
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import new_decoder
from dunwu.train.learned import Deltas
from dunwu.train.objectives import causal_lm
from dunwu.train.optim import build_delta_optimizer, build_optimizer, default_lrs

VERSION = "1"
REMEMBERED_S = 3600.0
_DOCUMENTS_A_ROW = 2


@dataclass(frozen=True, kw_only=True)
class TrainingSpeed:
    """Measured cost of training one shape: seconds a token for forward and backward, seconds a step for the optimiser."""

    token_s: float
    step_s: float

    def seconds(self, tokens: int, batch_tokens: int) -> float:
        """Wall time to train on `tokens` in batches of `batch_tokens`."""
        return tokens * self.token_s + math.ceil(tokens / batch_tokens) * self.step_s

    def tokens(self, seconds: float, batch_tokens: int) -> int:
        """The most tokens, in whole batches, that fit into `seconds`."""
        batch_s = batch_tokens * self.token_s + self.step_s
        return int(seconds / batch_s) * batch_tokens


def probe_training(
    config: DecoderConfig,
    section: TrainSection,
    *,
    context_length: int,
    rows: int,
    seconds: float,
    folder: Path | None = None,
    delta: DeltaSpec | None = None,
) -> TrainingSpeed:
    """Train `config`, or a delta on it, on random tokens in micro-batches of `rows` for about `seconds`, or remember having
    done so."""
    memory = (folder or user_cache_folder()) / "probe.json"
    what = [VERSION, machine_facts(), asdict(config), section.optimizer, section.dtype, context_length, rows]
    key = stable_hash(what if delta is None else [*what, delta.model_dump(mode="json")])
    known = recall(memory)
    found = known.get(key)
    if found and 0 <= time.time() - found["at"] < REMEMBERED_S and found["for_s"] >= seconds:
        return TrainingSpeed(token_s=found["token_s"], step_s=found["step_s"])
    speed = _measure(config, section, context_length, rows, seconds, delta)
    known = {name: value for name, value in known.items() if time.time() - value["at"] < REMEMBERED_S}
    remember(memory, {**known, key: {**asdict(speed), "at": time.time(), "for_s": seconds}})
    return speed


def _measure(
    config: DecoderConfig,
    section: TrainSection,
    context_length: int,
    rows: int,
    seconds: float,
    delta: DeltaSpec | None,
) -> TrainingSpeed:
    prepare_cpu()
    device = pick_device()
    dtype = pick_dtype(device, section.dtype)
    model = new_decoder(config, seed=0, device=device)
    if delta is None:
        optimizer = build_optimizer(model, section, default_lrs(config))
    else:
        optimizer = build_delta_optimizer(Deltas([attach(model, delta, seed=0)]), section, 1e-3)
    batch = _random_batch(config, context_length, rows).to(device)

    def learn() -> None:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype == torch.bfloat16):
            loss, _ = causal_lm(model, batch, total_learned=batch.learned_tokens)
        loss.backward()

    def update() -> None:
        optimizer.step(0.0, 1.0)

    for warm_up in (learn, update):  # caches, allocator and kernels
        _timed(warm_up, device)
    learn_s: list[float] = []
    update_s: list[float] = []
    stop = time.perf_counter() + seconds
    while not learn_s or time.perf_counter() < stop:
        learn_s.append(_timed(learn, device))
        update_s.append(_timed(update, device))
    return TrainingSpeed(token_s=median(learn_s) / (rows * context_length), step_s=median(update_s))


def _timed(work: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _random_batch(config: DecoderConfig, context_length: int, rows: int) -> Batch:
    """Rows of `_DOCUMENTS_A_ROW` documents, so that the probe pays for the document mask as training does."""
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(0, config.vocab_size, (rows, context_length), generator=generator)
    positions_T = torch.arange(context_length)
    part = -(-context_length // _DOCUMENTS_A_ROW)
    return Batch(
        ids_BT=ids_BT,
        targets_BT=ids_BT.roll(-1, 1),
        positions_BT=(positions_T % part).expand(rows, -1).contiguous(),
        document_BT=(positions_T // part).expand(rows, -1).contiguous(),
        learned_tokens=ids_BT.numel(),
    )
