"""Faults planted in real runs of a tiny model: the doctor names each, and stops those that are lost, keeping the best weights."""

import hashlib
import json
import os
import tempfile
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from dunwu.align.doctor.doctor import Doctor
from dunwu.align.doctor.finding import DoctorConfig
from dunwu.evaluate.scorers.base import Scored
from dunwu.model.decoder import new_decoder
from dunwu.model.hub import load_model
from tests.align import policy_tiny as tiny

torch.set_num_threads(1)
MOST = 12
GRPO = {"method": "grpo", "beta": 0.001}


def scored(cases, score):
    totals = [float(score(one.completion)) for one in cases]
    return Scored(totals, {"planted": totals})


def long_winded(cases):
    """The hack: every token pays, whatever it says."""
    return scored(cases, lambda said: len(said.ids) / MOST)


def never_right(cases):
    return scored(cases, lambda said: 0)


def by_chance(cases):
    """A mark that nobody can learn to earn."""
    return scored(cases, lambda said: hashlib.sha256(str(said.ids).encode()).digest()[0] / 255)


@pytest.fixture(scope="module")
def place():
    """A folder in memory where the system has such a thing: runs here write many small files."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def begin(place, monkeypatch):
    """Lets runs begin with a model that ends its turn, after any token, with the given probability."""
    stop = tiny.tokenizer(place / "words").stop_ids[0]

    def with_ends(share):
        def made(config, seed):
            torch.manual_seed(seed)
            model = new_decoder(config, seed=seed)
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
            wanted_V = torch.full((config.vocab_size,), (1 - share) / (config.vocab_size - 1))
            wanted_V[stop] = share
            for _ in range(80):
                logits = model.logits(model(torch.randint(config.vocab_size, (8, 16))))
                cross_entropy(logits.flatten(0, 1), wanted_V.expand(128, -1)).backward()
                optimizer.step()
                optimizer.zero_grad()
            return model

        monkeypatch.setattr(tiny, "new_decoder", made)
        monkeypatch.setattr(tiny, "MOST", MOST)

    return with_ends


def watched(folder, reward, *, steps, answer_tokens=MOST, **more):
    """A run under a doctor; returns what was found and the rows."""
    config = DoctorConfig(answer_tokens=answer_tokens, steps=steps)
    result, beside = tiny.run(
        folder, algorithm=GRPO, steps=steps, reward=reward, watch=lambda rows: Doctor.after(rows, config), **more
    )
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert Doctor.after(rows, config).findings == beside.findings  # what was told is what the rows say
    return {one.name: one for one in beside.findings}, rows, result, beside


def test_a_reward_for_length_is_named(place, begin):
    begin(0.3)
    found, rows, *_ = watched(place / "long", long_winded, steps=40, lr=0.003)
    assert rows[-1]["answer_tokens"] > 2 * rows[0]["answer_tokens"]
    assert found["rising length"].severity == "warning", [(r["answer_tokens"], r["reward"]) for r in rows]
    assert (
        "longer ones are rewarded more (correlation of +1.00 among answers to one prompt)"
        in found["rising length"].says
    )


def test_ends_of_turns_that_go_missing_are_named_and_the_run_is_stopped(place, begin):
    begin(0.3)
    found, rows, result, beside = watched(place / "cut", long_winded, steps=90, lr=0.01)
    assert rows[0]["ended"] > 0.8
    assert found["missing end of turn"].severity == "lost", [row["ended"] for row in rows[::8]]
    assert found["missing end of turn"].told == result.steps < 90
    assert beside.over


def test_a_model_that_never_ends_is_named_at_once(place, begin):
    begin(0.0)
    found, rows, result, _ = watched(place / "endless", by_chance, steps=60, lr=1e-4)
    assert sum(row["ended"] for row in rows) < 0.1 * len(rows)
    assert found["missing end of turn"].step == 1
    assert found["missing end of turn"].severity == "lost"
    assert f"cut at the limit of {MOST}" in found["missing end of turn"].says
    assert 32 <= result.steps < 60  # nothing is learned


def test_dead_groups_are_named_and_the_run_is_stopped(place):
    found, _, result, beside = watched(place / "dead", never_right, steps=60)
    assert found["groups without variance"].severity == "lost"
    assert "too hard" in found["groups without variance"].says
    assert found["groups without variance"].step == 1
    assert result.steps == 32
    assert beside.best_step == 0  # the weights that are kept are those it began with
    kept = load_model(place / "dead")
    begun = new_decoder(kept.config, seed=1).state_dict()
    assert all(torch.equal(begun[name], tensor) for name, tensor in kept.state_dict().items())
