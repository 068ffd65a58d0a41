import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dunwu.core.errors import TrainingError
from dunwu.core.progress import RecordedProgress, SilentProgress
from dunwu.core.recipe import PretrainSection
from dunwu.train.guard import FIRST_JUDGED_STEPS, MAX_REWINDS, GuardState, judge
from dunwu.train.optim import Optimizer

from . import tiny


def alarms(losses: Any) -> list[int]:
    state, found = GuardState(), []
    for step, loss in enumerate(losses):
        if judge(state, float(loss)):
            found.append(step)
        else:
            state = state.accept(float(loss))
    return found


def curve(steps: int, noise: float, seed: int, floor: float = 1.5) -> Any:
    """A loss that falls by a power law, with noise of heavy tails."""
    generator = np.random.default_rng(seed)
    return floor + 7 * (1 + np.arange(steps)) ** -0.4 + noise * generator.laplace(size=steps)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1, 0.3])
def test_noisy_curves_raise_no_alarm(noise: float) -> None:
    for seed in range(20):
        assert alarms(curve(600, noise, seed)) == []


def test_a_rise_at_the_end_of_warm_up_and_a_mixture_of_easy_and_hard_batches_raise_none() -> None:
    warm_up = np.concatenate([np.linspace(9, 5, 60), np.linspace(5, 6.2, 40), np.linspace(6.2, 3, 200)])
    assert alarms(warm_up) == []
    generator = np.random.default_rng(0)
    mixture = np.where(generator.random(1000) < 0.05, 1.6, 0.15) * np.exp(0.1 * generator.standard_normal(1000))
    assert alarms(mixture) == []


def test_a_real_spike_is_seen_at_every_level_of_noise_and_what_is_not_finite_at_once() -> None:
    for noise in (0.0, 0.02, 0.1):
        losses = curve(300, noise, 1)
        losses[200] = 7.5
        assert alarms(losses) == [200]
    assert judge(GuardState(), math.nan)
    assert judge(GuardState(), math.inf)
    assert judge(GuardState(), 1e9) is None  # the first steps may be anything


def test_a_state_survives_json() -> None:
    state = GuardState().accept(0.1 + 0.2).skip(5, 40, "the loss is nan")
    state = state.skip(5, 48, "the loss is nan").skip(5, 56, "the loss is nan").rewind(5, 64)[0]
    assert GuardState.from_json(json.loads(json.dumps(state.to_json()))) == state


# In a run


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_bad_batch_is_skipped_told_and_leaves_no_trace_in_the_weights(memory_folder: Path) -> None:
    progress = RecordedProgress()
    result = tiny.run(memory_folder / "run", progress=progress, steps=10, poison=[(40, 40)])
    assert [(i["kind"], i["step"], i["row"]) for i in result.incidents] == [("skip", 5, 40)]
    assert result.steps == 10
    assert any("step 6: skipped a batch: the loss is nan" in note for note in progress.notes)
    incident = next(row for row in rows(memory_folder / "run") if "incident" in row)
    assert incident == {"step": 5, "incident": "skip", "row": 40, "reason": "the loss is nan"}
    assert all(math.isfinite(row["loss"]) for row in rows(memory_folder / "run") if "loss" in row)


def test_bad_weights_are_left_by_going_back_and_the_data_goes_on(memory_folder: Path) -> None:
    progress = RecordedProgress()
    result = tiny.run(memory_folder / "run", progress=progress, steps=50, poison=[(320, 343)])  # steps 40, 41 and 42
    assert [i["kind"] for i in result.incidents] == ["skip", "skip", "skip", "rewind"]
    assert any("back to step 8, on with other data" in note for note in progress.notes)
    steps = [row["step"] for row in rows(memory_folder / "run") if "loss" in row]
    assert steps == list(range(1, 51))


def test_a_spike_is_skipped(memory_folder: Path) -> None:
    def spiky(model: Any, batch: Any, *, total_learned: int) -> Any:
        loss, figures = tiny.causal_lm(model, batch, total_learned=total_learned)
        return loss + 4.0 * (batch.ids_BT == tiny.POISON_ID).any(), figures

    stream = tiny.stream(memory_folder / "shards", SilentProgress(), 0)
    first = 8 * (FIRST_JUDGED_STEPS + 3)
    poisoned = tiny.Poisoned(stream, [(first, first)])
    result = tiny.run(memory_folder / "run", progress=SilentProgress(), steps=40, rows=poisoned, objective=spiky)
    assert [(i["kind"], i["row"]) for i in result.incidents] == [("skip", first)]
    assert "the loss jumped to" in result.incidents[0]["reason"]


def test_a_gradient_that_is_not_finite_is_skipped_too(memory_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_step, calls = Optimizer.step, iter(range(1000))

    def step(self: Optimizer, lr_scale: float, grad_clip: float) -> dict[str, float]:
        if next(calls) == 4:
            self.parameters[0].grad = torch.full_like(self.parameters[0], math.inf)
        return true_step(self, lr_scale, grad_clip)

    monkeypatch.setattr(Optimizer, "step", step)
    result = tiny.run(memory_folder / "run", progress=SilentProgress(), steps=10)
    assert [i["reason"] for i in result.incidents] == ["the gradient's norm is inf"]
    assert math.isfinite(result.loss)
    assert result.steps == 10


def test_a_run_that_diverges_again_and_again_ends_with_the_last_good_checkpoint(memory_folder: Path) -> None:
    with pytest.raises(TrainingError, match=rf"{MAX_REWINDS} times going back did not help; lower the learning rate"):
        tiny.run(memory_folder / "run", progress=SilentProgress(), steps=20, poison=[(40, 10**9)])
    assert (memory_folder / "run" / "checkpoints").exists()
    assert not (memory_folder / "run" / "model.safetensors").exists()


def test_bad_batches_all_the_time_are_an_error(memory_folder: Path) -> None:
    every_other = [(row, row) for row in range(8, 2000, 16)]
    with pytest.raises(TrainingError, match="batches of the last 100 steps had to be skipped"):
        tiny.run(memory_folder / "run", progress=SilentProgress(), steps=60, poison=every_other)


def test_too_high_a_learning_rate_ends_in_an_error_that_names_it(memory_folder: Path) -> None:
    chosen = PretrainSection(optimizer="adamw", warmup_fraction=0.0, schedule="constant", checkpoint_every_s=3600)
    model = tiny.new_decoder(tiny.CONFIG, seed=0)
    with pytest.raises(TrainingError, match="lr_adamw"):
        tiny.fit(
            model,
            tiny.stream(memory_folder / "shards", SilentProgress(), 0),
            tiny.causal_lm,
            tiny.build_optimizer(model, chosen, (0.0, 1e30)),
            chosen,
            total_tokens=20 * 256,
            batch_rows=8,
            micro_batch_rows=8,
            folder=memory_folder / "run",
            seed=0,
            progress=SilentProgress(),
            stop=tiny.StopSignal(),
        )
