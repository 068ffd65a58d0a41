"""Training deltas on a frozen base through the one loop: what learns, what checkpoints hold, what resuming gives."""

import json
from pathlib import Path

import pytest
import torch

from dunwu.core.deltas import DeltaSpec, LoraPlusSpec, LoraSpec
from dunwu.core.errors import ModelError
from dunwu.core.progress import RecordedProgress, SilentProgress
from dunwu.delta.registry import attach
from dunwu.delta.storing import load_delta
from dunwu.model.decoder import new_decoder
from dunwu.model.hub import model_state
from dunwu.train.learned import Deltas
from dunwu.train.loop import TrainResult, fit
from dunwu.train.objectives import causal_lm
from dunwu.train.optim import build_delta_optimizer
from dunwu.train.signals import Interrupted, StopSignal

from .tiny import CONFIG, CONTEXT, section, stream

STEPS, ROWS = 12, 8


class StopAfter:
    """Causal LM that asks the run to stop after so many micro-batches."""

    def __init__(self, stop: StopSignal, batches: int) -> None:
        self.stop, self.left = stop, batches

    def __call__(self, model, batch, *, total_learned):
        self.left -= 1
        if self.left == 0:
            self.stop.request()
        return causal_lm(model, batch, total_learned=total_learned)


def tune(folder: Path, specs: list[DeltaSpec], *, stop_after: int = 0, progress=None) -> tuple[TrainResult, Deltas]:
    """Twelve steps of deltas on a base that knows nothing; the deltas start from the seed each time, as a new process does."""
    model = new_decoder(CONFIG, seed=0)
    before = {name: tensor.clone() for name, tensor in model_state(model).items()}
    learned = Deltas([attach(model, spec, seed=number) for number, spec in enumerate(specs)])
    chosen, stop = section(), StopSignal()
    folder.mkdir(exist_ok=True)
    try:
        result = fit(
            model,
            stream(folder.parent / "shards", SilentProgress(), 0),
            StopAfter(stop, stop_after) if stop_after else causal_lm,
            build_delta_optimizer(learned, chosen, 0.01),
            chosen,
            total_tokens=STEPS * ROWS * CONTEXT,
            batch_rows=ROWS,
            micro_batch_rows=4,
            folder=folder,
            seed=0,
            progress=progress or SilentProgress(),
            stop=stop,
            learned=learned,
        )
    finally:
        after = model_state(model)
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    return result, learned


MIXED = [LoraSpec(r=2, targets=("self_attn.*",), dropout=0.2), LoraPlusSpec(r=3, targets=("mlp.*",))]


def test_deltas_learn_and_the_base_stays(tmp_path):
    result, learned = tune(tmp_path / "run", MIXED)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.1
    assert result.steps == STEPS
    assert rows[0]["lr_adamw_x16"] == pytest.approx(16 * rows[0]["lr_adamw"])
    fresh = new_decoder(CONFIG, seed=0)
    for name, delta in zip(("adapter", "adapter-1"), learned.deltas, strict=True):
        again = load_delta(tmp_path / "run" / name, fresh)
        assert again.count == delta.count
    ids = torch.arange(20)[None]
    model = learned.deltas[0].model.eval()
    assert torch.equal(model(ids), fresh.eval()(ids))


def test_a_checkpoint_holds_the_deltas_alone_and_resuming_is_exact(tmp_path):
    tune(tmp_path / "whole", MIXED)
    with pytest.raises(Interrupted):
        tune(tmp_path / "cut", MIXED, stop_after=9)
    checkpoint = next((tmp_path / "cut" / "checkpoints").glob("step-00000005"))
    numbers = sum(delta.count for delta in tune(tmp_path / "other", MIXED)[1].deltas)
    assert (checkpoint / "model.safetensors").stat().st_size < 4 * numbers + 8000
    progress = RecordedProgress()
    result, _ = tune(tmp_path / "cut", MIXED, progress=progress)
    assert result.resumed_from == 5
    for name in ("adapter", "adapter-1"):
        files = [tmp_path / run / name / "adapter_model.safetensors" for run in ("whole", "cut")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_nothing_to_train():
    model = new_decoder(CONFIG, seed=0)
    delta = attach(model, LoraSpec(r=2), seed=0)
    delta.requires_grad_(False)
    for nothing in ([], [delta]):
        with pytest.raises(ModelError, match="nothing to train"):
            Deltas(nothing)
