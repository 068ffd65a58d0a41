"""Every method in the common loop: what is preferred becomes likelier, and a run that was cut ends in the same weights."""

import json

import pytest
import torch

from dunwu.align.answers import CHOSEN, REJECTED
from dunwu.align.encode import with_unrelated
from dunwu.align.reference import answer_logprobs, reference_logprobs
from dunwu.align.registry import OBJECTIVES, PreferenceObjective
from dunwu.align.stream import AnswerStream
from dunwu.core.deltas import LoraSpec
from dunwu.core.files import sha256_file
from dunwu.core.progress import SilentProgress
from dunwu.core.recipe import PreferSection
from dunwu.delta.registry import attach
from dunwu.model.decoder import new_decoder
from dunwu.train.learned import Deltas
from dunwu.train.loop import fit
from dunwu.train.optim import build_delta_optimizer, build_optimizer
from dunwu.train.signals import Interrupted, StopSignal
from tests.cut import Cut

from .helpers import CONFIG, item, spec


def preferences(count=48):
    """Answers that go up are better than those that go down."""
    starts = [(7 * number) % 40 + 8 for number in range(count)]
    return [item([2, start], [start + 1, start + 2, 1], [start - 1, start - 2, start - 3, 1]) for start in starts]


def learn(method, folder, *, cut=10**9, lora=False, micro=4, passes=12):
    chosen = spec(method)
    made = preferences()
    if chosen.over_the_batch:
        made = with_unrelated(made, seed=0, context_length=32)
    model = new_decoder(CONFIG, seed=0)
    reference = None
    if chosen.wants_reference:
        reference = reference_logprobs(model, made, folder / "reference", progress=SilentProgress())
    stream = AnswerStream(made, least_width=32, seed=0, reference=reference, by_answer=chosen.takes_single_answers)
    section = PreferSection(checkpoint_every_s=1e-3 if cut < 10**9 else 3600.0)
    deltas = Deltas([attach(model, LoraSpec(r=4), seed=0)]) if lora else None
    if deltas is None:
        optimizer = build_optimizer(model, section, (0.0, 3e-3))
    else:
        optimizer = build_delta_optimizer(deltas, section, 0.02)
    result = fit(
        model,
        Cut(stream, cut),
        PreferenceObjective(chosen),
        optimizer,
        section,
        total_tokens=passes * stream.rows_per_epoch * stream.context_length,
        batch_rows=4,
        micro_batch_rows=4 if chosen.over_the_batch else micro,
        folder=folder,
        seed=0,
        progress=SilentProgress(),
        stop=StopSignal(),
        learned=deltas,
    )
    return model, made, result


@pytest.mark.parametrize("method", OBJECTIVES)
def test_what_is_preferred_becomes_likelier(tmp_path, method):
    model, made, result = learn(method, tmp_path)
    values = answer_logprobs(model, made)
    kinds = [[answer.kind for answer in one.answers] for one in made]
    won = [
        float(each[kind.index(CHOSEN)] / 3 > each[kind.index(REJECTED)] / 4)
        for each, kind in zip(values, kinds, strict=True)
    ]
    assert sum(won) / len(won) > 0.95
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert rows[-1]["reward_margin"] > rows[0]["reward_margin"]
    assert result.loss < rows[0]["loss"]


@pytest.mark.parametrize(("method", "lora"), [("dpo", False), ("dpo", True), ("kto", False)])
def test_a_run_that_was_cut_ends_in_the_same_weights(tmp_path, method, lora):
    file = "adapter/adapter_model.safetensors" if lora else "model.safetensors"
    learn(method, tmp_path / "whole", lora=lora, passes=3)
    for row in (9, 17):
        with pytest.raises(Interrupted):
            learn(method, tmp_path / "cut", cut=row, lora=lora, passes=3)
    _, _, result = learn(method, tmp_path / "cut", lora=lora, passes=3)
    assert result.resumed_from is not None
    assert sha256_file(tmp_path / "whole" / file) == sha256_file(tmp_path / "cut" / file)


def test_micro_batches_move_the_rounding_alone(tmp_path):
    whole, _, _ = learn("dpo", tmp_path / "whole", passes=2)
    parts, _, _ = learn("dpo", tmp_path / "parts", micro=1, passes=2)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
