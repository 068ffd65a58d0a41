"""Additive and selective methods through the one loop, mixed: they learn, the base stays, and resuming is exact."""

import json

import pytest
import torch

from dunwu.core.deltas import (
    BitFitSpec,
    FisherSpec,
    Ia3Spec,
    LastLayersSpec,
    NormsSpec,
    PfeifferSpec,
    PrefixSpec,
    PromptSpec,
)
from dunwu.core.progress import SilentProgress
from dunwu.delta.registry import attach
from dunwu.delta.storing import load_delta
from dunwu.model.decoder import new_decoder
from dunwu.model.hub import model_state
from dunwu.train.learned import Deltas
from dunwu.train.loop import fit
from dunwu.train.objectives import causal_lm
from dunwu.train.optim import build_delta_optimizer
from dunwu.train.signals import Interrupted, StopSignal

from .test_tuning import ROWS, STEPS, StopAfter
from .tiny import CONFIG, CONTEXT, section, stream

SETS = {
    "in front": [PromptSpec(length=3), PrefixSpec(length=2, mlp=4)],
    "beside": [PfeifferSpec(bottleneck=4), Ia3Spec(), BitFitSpec()],
    "own": [NormsSpec(), FisherSpec(share=0.01), LastLayersSpec()],
    "all": [FisherSpec(share=0.01), PromptSpec(length=3), PfeifferSpec(bottleneck=4), NormsSpec()],
}


def tune(folder, specs, *, stop_after=0):
    """Twelve steps; as in a new process, places are chosen and starts are drawn each time."""
    model = new_decoder(CONFIG, seed=0)
    before = {name: tensor.clone() for name, tensor in model_state(model).items()}
    deltas = [attach(model, spec, seed=number) for number, spec in enumerate(specs)]
    rows = stream(folder.parent / "shards", SilentProgress(), 0)

    def loss(number):
        return causal_lm(model, rows.batch(number, 1), total_learned=CONTEXT)[0]

    for delta in deltas:
        delta.start_from(lambda number=number: loss(number) for number in range(3))
    learned, chosen, stop = Deltas(deltas), section(), StopSignal()
    folder.mkdir(exist_ok=True)
    try:
        fit(
            model,
            rows,
            StopAfter(stop, stop_after) if stop_after else causal_lm,
            build_delta_optimizer(learned, chosen, 0.03),
            chosen,
            total_tokens=STEPS * ROWS * CONTEXT,
            batch_rows=ROWS,
            micro_batch_rows=4,
            folder=folder,
            seed=0,
            progress=SilentProgress(),
            stop=stop,
            learned=learned,
        )
    finally:
        with torch.no_grad():
            said = model.eval()(torch.arange(20)[None])
        for delta in reversed(deltas):
            delta.detach()
        after = model_state(model)
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    return said


@pytest.mark.parametrize("specs", list(SETS.values()), ids=list(SETS))
def test_mixed_sets_learn_and_resume_exactly(specs, tmp_path):
    said = tune(tmp_path / "whole", specs)
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.01
    with pytest.raises(Interrupted):
        tune(tmp_path / "cut", specs, stop_after=9)
    assert torch.equal(tune(tmp_path / "cut", specs), said)
    fresh = new_decoder(CONFIG, seed=0).eval()
    for number in range(len(specs)):
        name = "adapter" if number == 0 else f"adapter-{number}"
        load_delta(tmp_path / "whole" / name, fresh)
        for own, other in zip(*(sorted((tmp_path / run / name).iterdir()) for run in ("whole", "cut")), strict=True):
            assert own.read_bytes() == other.read_bytes()
    with torch.no_grad():
        assert torch.allclose(fresh(torch.arange(20)[None]), said, atol=1e-4)
