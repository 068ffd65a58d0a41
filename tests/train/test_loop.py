import json
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dunwu.core.errors import CheckpointError, MissingExtraError
from dunwu.core.progress import RecordedProgress, SilentProgress
from dunwu.core.records import Tokens
from dunwu.corpus.stream import SftStream
from dunwu.model.decoder import new_decoder
from dunwu.model.hub import load_model
from dunwu.train.loop import TrainResult
from dunwu.train.objectives import causal_lm
from dunwu.train.schedule import lr_scale
from dunwu.train.signals import Interrupted, StopSignal

from . import tiny

# Two cores, float32, torch 2.13; see `test_golden_curve`.
GOLDEN = [
    5.6931, 5.6760, 5.5940, 5.4240, 5.2724, 5.1161, 4.9598, 4.7891, 4.6482, 4.5043,
    4.3461, 4.2284, 4.1060, 3.9826, 3.9081, 3.8414, 3.7491, 3.7327, 3.6944, 3.6783,
]  # fmt: skip


def train(folder: Path, progress: Any = None, **settings: Any) -> TrainResult:
    return tiny.run(folder, progress=progress or SilentProgress(), **settings)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_golden_curve(memory_folder: Path) -> None:
    """Data order, initial weights, loss, optimisers and schedule together: a change in any of them moves the curve.

    Other CPUs add in another order; over twenty steps that stays far below the tolerance.
    """
    result = train(memory_folder / "run")
    losses = [row["loss"] for row in rows(memory_folder / "run")]
    assert losses == pytest.approx(GOLDEN, abs=2e-3)
    assert result.loss == pytest.approx(np.mean(losses[-2:]))


def test_the_finished_model_loads_and_is_the_trained_one(memory_folder: Path) -> None:
    train(memory_folder / "run")
    model = load_model(memory_folder / "run")
    start = new_decoder(tiny.CONFIG, seed=0)
    batch = tiny.stream(memory_folder / "shards", SilentProgress(), 0).batch(0, 8)
    with torch.no_grad():
        losses = [float(causal_lm(m, batch, total_learned=batch.learned_tokens)[0]) for m in (start, model)]
    assert losses[1] < losses[0] - 1.5


def conversations() -> list[Tokens]:
    """From two to twenty-four learned tokens each, so that rows carry very different numbers of them."""
    generator = np.random.default_rng(0)
    made: list[Tokens] = []
    for learned in generator.integers(2, 25, 40):
        ids = generator.integers(1, 250, 28)
        made.append(Tokens(ids=ids.astype(np.int32), learned=np.arange(28) >= 28 - learned))
    return made


@pytest.mark.parametrize("micro_batch_rows", [1, 3])
def test_micro_batches_of_uneven_loss_add_up_to_the_whole_batch(memory_folder: Path, micro_batch_rows: int) -> None:
    stream = SftStream(conversations(), context_length=32, seed=0)
    settings: dict[str, Any] = {"rows": stream, "steps": 4, "optimizer": "adamw", "batch_rows": 8}
    whole = train(memory_folder / "whole", micro_batch_rows=8, **settings)
    parts = train(memory_folder / "parts", micro_batch_rows=micro_batch_rows, **settings)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    norms = [[row["grad_norm"] for row in rows(memory_folder / name)] for name in ("whole", "parts")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_the_loss_is_the_mean_over_learned_tokens_of_the_batch(memory_folder: Path) -> None:
    stream = SftStream(conversations(), context_length=32, seed=0)
    train(memory_folder / "run", rows=stream, steps=1, micro_batch_rows=3)
    batch = stream.batch(0, 8)
    logits = new_decoder(tiny.CONFIG, seed=0)
    with torch.no_grad():
        hidden = logits(batch.ids_BT, positions_BT=batch.positions_BT, document_BT=batch.document_BT)
        expected = torch.nn.functional.cross_entropy(logits.logits(hidden).flatten(0, 1), batch.targets_BT.flatten())
    assert rows(memory_folder / "run")[0]["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_the_batch_grows_from_a_quarter_and_the_tokens_are_those_asked_for(memory_folder: Path) -> None:
    result = train(memory_folder / "run", steps=20, batch_rows=8, batch_warmup_fraction=0.5)
    sizes = [row["batch_rows"] for row in rows(memory_folder / "run")]
    assert sizes[0] == 2
    assert sizes == sorted(sizes)
    assert sizes[-1] == 8
    assert abs(result.tokens - 20 * 8 * 32) <= 4 * 32  # half a batch
    seen = np.cumsum(sizes)
    assert result.tokens == seen[-1] * 32


@pytest.mark.parametrize(("tokens", "steps"), [(1, 1), (256, 1), (383, 1), (384, 2), (5 * 256 + 10, 5)])
def test_a_run_ends_at_the_nearest_whole_batch(memory_folder: Path, tokens: int, steps: int) -> None:
    model = new_decoder(tiny.CONFIG, seed=0)
    section = tiny.section()
    result = tiny.fit(
        model,
        tiny.stream(memory_folder / "shards", SilentProgress(), 0),
        causal_lm,
        tiny.build_optimizer(model, section, (0.02, 3e-3)),
        section,
        total_tokens=tokens,
        batch_rows=8,
        micro_batch_rows=8,
        folder=memory_folder / "run",
        seed=0,
        progress=SilentProgress(),
        stop=StopSignal(),
    )
    assert result.steps == steps
    assert all(row["lr_scale"] > 0 for row in rows(memory_folder / "run"))  # the shortest run learns too


def test_the_learning_rate_is_read_in_the_middle_of_each_batch(memory_folder: Path) -> None:
    train(memory_folder / "run", steps=10, schedule="cosine", warmup_fraction=0.3)
    section = tiny.section(schedule="cosine", warmup_fraction=0.3)
    scales = [row["lr_scale"] for row in rows(memory_folder / "run")]
    assert scales == pytest.approx([lr_scale(section, (step + 0.5) / 10) for step in range(10)])
    assert [row["lr_muon"] for row in rows(memory_folder / "run")] == pytest.approx([0.02 * scale for scale in scales])


def test_a_second_run_in_a_finished_folder_changes_nothing(memory_folder: Path) -> None:
    first = train(memory_folder / "run")
    before = tiny.weights(memory_folder / "run")
    again = train(memory_folder / "run")
    assert (again.resumed_from, again.steps, again.loss, again.seconds) == (20, 20, first.loss, first.seconds)
    assert tiny.weights(memory_folder / "run") == before
    assert len(rows(memory_folder / "run")) == 20


@pytest.mark.parametrize(
    ("change", "said"), [({"seed": 1}, "seed 0 there, 1 here"), ({"steps": 30}, "total_tokens 5120 there, 7680")]
)
def test_checkpoints_of_another_run_are_refused(memory_folder: Path, change: dict[str, Any], said: str) -> None:
    train(memory_folder / "run")
    with pytest.raises(CheckpointError, match=said):
        train(memory_folder / "run", **change)


def test_the_deadline_saves_and_leaves(memory_folder: Path) -> None:
    with pytest.raises(Interrupted, match=r"stopped after 0 s, the limit; saved at step") as caught:
        train(memory_folder / "run", more={"deadline_s": 0.0})
    assert caught.value.exit_code == 124
    assert train(memory_folder / "run").steps == 20


def test_progress_shows_loss_speed_and_the_share_of_the_peak(
    memory_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dunwu.train.loop.SHOW_EVERY_S", 0.0)
    progress = RecordedProgress()
    train(memory_folder / "run", progress, more={"flops_per_token": 1e5, "peak_flops": 1e12})
    done, total, shown = progress.updates[-1]
    assert done == total == 5120
    assert set(shown) == {"loss", "tokens/s", "of peak"}
    last = rows(memory_folder / "run")[-1]
    assert last["share_of_peak"] == pytest.approx(last["tokens_per_s"] * 1e5 / 1e12, abs=1e-4)
    assert last["peak_bytes"] > 50e6


def test_tensorboard_is_an_extra_that_is_asked_for_by_name(
    memory_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dunwu\[tensorboard\]'"):
        train(memory_folder / "run", tensorboard=True)


def test_tensorboard_gets_every_figure_once_though_the_run_was_broken(memory_folder: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(Interrupted):
        train(memory_folder / "run", tensorboard=True, more={"deadline_s": 0.05})
    train(memory_folder / "run", tensorboard=True)
    events = EventAccumulator(str(memory_folder / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 21))


def test_rows_past_the_checkpoint_are_dropped_even_from_a_file_cut_short(memory_folder: Path) -> None:
    stop = StopSignal()
    stop.request()
    with pytest.raises(Interrupted):
        train(memory_folder / "run", stop=stop)
    (memory_folder / "run" / "metrics.jsonl").write_text('{"step": 1, "loss": 5.0}\n{"step": 2, "lo')
    train(memory_folder / "run")
    assert [row["step"] for row in rows(memory_folder / "run")] == list(range(1, 21))


# Signals


def test_the_first_signal_asks_and_the_second_leaves_at_once() -> None:
    with StopSignal() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        assert stop.interrupted("saved").exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.interrupted("saved").exit_code == 143
        with pytest.raises(SystemExit) as caught:
            signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 143


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
