"""A delta on chosen rows by hand does what it does attached, and the model keeps nothing of it."""

import pytest
import torch

from dunwu.core.deltas import BitFitSpec, HoulsbySpec, Ia3Spec, LoraSpec, NormsSpec, ParallelSpec
from dunwu.core.errors import ModelError
from dunwu.delta.registry import DELTAS, attach
from dunwu.delta.rows import row_changes
from dunwu.delta.storing import read_delta, save_delta

from .helpers import base, logits, shake

SPECS = [
    LoraSpec(r=2, targets=("self_attn.*", "down_proj")),
    Ia3Spec(),
    HoulsbySpec(bottleneck=4),
    ParallelSpec(bottleneck=4),
    Ia3Spec(targets=("k_proj", "v_proj"), inputs=()),
    BitFitSpec(),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_rows_of_a_delta_are_what_it_makes_attached(spec, tmp_path):
    model = base()
    delta = shake(attach(model, spec, seed=0), size=0.3)
    save_delta(delta, tmp_path)
    attached = logits(model)
    delta.detach()
    alone = logits(model)
    lent = read_delta(tmp_path, model)
    changes = row_changes(lent)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model.changes == ()
    assert torch.equal(logits(model), alone)
    for name, change in changes.items():
        model.get_submodule(name).register_forward_hook(lambda _, inputs, out, change=change: change(inputs[0], out))
    assert (logits(model) - attached).abs().max() < 1e-5
    assert (alone - attached).abs().max() > 1e-2


def test_experts_are_no_rows(tmp_path):
    model = base("mixtral")
    save_delta(shake(attach(model, LoraSpec(r=2, targets=("experts.*",)), seed=0)), tmp_path)
    with pytest.raises(ModelError, match="dunwu delta merge"):
        row_changes(read_delta(tmp_path, base("mixtral")))


def test_what_reaches_into_a_module_is_no_row():
    with pytest.raises(ModelError, match="changes more than rows"):
        row_changes(DELTAS["norms"](base(), NormsSpec(), seed=0))
