import json
import time

import pytest

from dunwu.build import probe
from dunwu.build.budget import decoder_config
from dunwu.build.probe import TrainingSpeed, probe_training
from dunwu.core.recipe import ModelSection, PretrainSection


@pytest.fixture
def measured(monkeypatch):
    """Every measurement that was really made."""
    calls = []

    def measure(config, section, context_length, rows, seconds, delta):
        calls.append((config.hidden_size, rows))
        return TrainingSpeed(token_s=len(calls) * 1e-4, step_s=0.01)

    monkeypatch.setattr(probe, "_measure", measure)
    return calls


def ask(folder, hidden=32, rows=4, seconds=1.0, optimizer="muon"):
    config = decoder_config(ModelSection(), hidden, 2, vocab_size=300, context_length=16)
    section = PretrainSection(optimizer=optimizer)
    return probe_training(config, section, context_length=16, rows=rows, seconds=seconds, folder=folder)


def test_a_probe_is_made_once_an_hour_and_again_for_anything_that_changes_its_speed(tmp_path, measured):
    first = ask(tmp_path)
    assert ask(tmp_path) == ask(tmp_path, seconds=0.5) == first
    assert len(measured) == 1
    ask(tmp_path, hidden=64), ask(tmp_path, rows=8), ask(tmp_path, optimizer="adamw"), ask(tmp_path, seconds=9.0)
    assert len(measured) == 5
    memory = tmp_path / "probe.json"
    old = {
        key: {**value, "at": time.time() - 2 * probe.REMEMBERED_S}
        for key, value in json.loads(memory.read_text()).items()
    }
    memory.write_text(json.dumps(old))
    assert ask(tmp_path) != first
    assert len(json.loads(memory.read_text())) == 1


def test_a_damaged_or_forbidden_memory_only_costs_time(tmp_path, measured):
    (tmp_path / "probe.json").write_text("{")
    ask(tmp_path)
    (tmp_path / "file").write_text("")
    ask(tmp_path / "file")
    assert len(measured) == 2


def test_a_real_probe_times_real_steps():
    config = decoder_config(ModelSection(), 32, 2, vocab_size=300, context_length=16)
    speed = probe._measure(config, PretrainSection(), 16, 2, 0.05, None)
    assert 0 < speed.token_s < 1
    assert 0 < speed.step_s < 10


def test_time_and_tokens_are_inverse_up_to_a_batch():
    speed = TrainingSpeed(token_s=1e-3, step_s=0.5)
    tokens = speed.tokens(100.0, 1000)
    assert tokens % 1000 == 0
    assert speed.seconds(tokens, 1000) <= 100.0 < speed.seconds(tokens + 1000, 1000)
