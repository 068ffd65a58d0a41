"""LoRA and the seam that all methods share: attach, count, train, switch, weigh, merge, save and load."""

from dataclasses import replace

import pytest
import torch

from dunwu.core.deltas import LoraPlusSpec, LoraSpec, RsLoraSpec, delta_spec
from dunwu.core.errors import ModelError, RecipeError
from dunwu.delta.places import places
from dunwu.delta.quantise import quantise
from dunwu.delta.registry import attach, deltas_of
from dunwu.infer.engine import Engine
from dunwu.infer.sampling import SamplingParams
from dunwu.infer.sequence import Request
from tests.delta.helpers import ALL, base, logits, loss_of, same, shake, slopes, state
from tests.infer.tiny import tiny_model, tiny_tokenizer
from tests.model.helpers import TINY
from tests.model.test_families import strong

SPEC = LoraSpec(r=3, alpha=6, targets=("q_proj", "o_proj", "down_proj"))


def test_one_matrix_by_hand():
    model = base()
    name = "model.layers.1.self_attn.v_proj"
    layer = model.get_submodule(name)
    delta = attach(model, LoraSpec(r=2, alpha=3, targets=(name,)), seed=0)
    x = torch.randn(4, 24)
    before = layer.weight @ x.T
    pair = shake(delta).pairs[name]
    assert delta.count == 2 * (24 + 24)
    assert torch.allclose(layer(x), (before + 1.5 * pair.b @ (pair.a @ x.T)).T, atol=1e-6)


@pytest.mark.parametrize("name", list(ALL))
def test_on_every_architecture(name):
    """All linear layers and experts: no change at first, then one that merging keeps and that can be taken off bit for bit."""
    model = base(name)
    before, said = state(model), logits(model)
    expert = ["experts.*"] if any(place.experts for place in places(model).values()) else []
    delta = attach(model, LoraSpec(r=2, targets=("all-linear", *expert)), seed=1)
    assert torch.equal(logits(model), said)  # B is zero
    assert len(delta.pairs) == sum(place.outputs > 1 for place in places(model).values())
    shake(delta)
    loss_of(model).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in delta.trained().values())
    assert all(parameter.grad is None for parameter in model.parameters())
    changed = logits(model)
    assert not torch.allclose(changed, said, atol=1e-3)
    delta.merge()
    assert (logits(model) - changed).abs().max() <= 2e-5 * changed.abs().max()  # large weights: rounding grows
    delta.unmerge()
    assert same(state(model), before)
    assert torch.equal(logits(model), changed)
    with delta.disabled():
        assert torch.equal(logits(model), said)
    delta.detach()
    assert torch.equal(logits(model), said)
    assert same(state(model), before)
    assert all(parameter.requires_grad or name.endswith("correction") for name, parameter in model.named_parameters())
    assert model.changes == ()


def test_gradients_are_those_of_the_formula():
    model = base().double()
    delta = attach(model, SPEC, seed=0).double()
    shake(delta)
    for name, slope, measured in slopes(model, delta):
        assert torch.isclose(measured, slope, rtol=1e-4, atol=1e-8), name


def test_the_settings_of_its_kin():
    model = base()
    plain = attach(model, LoraSpec(r=4, alpha=8), seed=0)
    stabilised = attach(model, RsLoraSpec(r=4, alpha=8), seed=0)
    fast = attach(model, LoraPlusSpec(r=4), seed=0)
    name = "model.layers.0.mlp.up_proj"
    assert plain.pairs[name].scale == 2.0
    assert stabilised.pairs[name].scale == 4.0
    assert fast.pairs[name].scale == 2.0
    assert {fast.lr_factor(f"{name}.{part}") for part in "ab"} == {1.0, 16.0}
    assert {plain.lr_factor(f"{name}.{part}") for part in "ab"} == {1.0}
    assert torch.equal(plain.pairs[name].a, stabilised.pairs[name].a)  # the seed alone decides


def test_several_add_up_and_are_weighed():
    model = base()
    said = logits(model)
    first, second = (shake(attach(model, SPEC, seed=seed), seed=seed) for seed in (1, 2))
    assert deltas_of(model) == (first, second)
    both = logits(model)
    first.weight, second.weight = 0.5, 0.0
    half = logits(model)
    second.disable()
    first.merge()
    assert torch.allclose(logits(model), half, atol=1e-5 * float(half.abs().max()))
    with pytest.raises(ModelError, match="unmerge it first"):
        first.weight = 1.0
    first.unmerge()
    first.weight = second.weight = 1.0
    second.enable()
    assert torch.equal(logits(model), both)
    before = state(model)
    first.merge()
    second.merge()
    first.unmerge()  # not the last that was merged
    assert not first.merged
    assert second.merged
    assert torch.allclose(logits(model), both, atol=1e-5 * float(both.abs().max()))
    second.unmerge()
    assert same(state(model), before)
    first.detach()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    second.detach()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(logits(model), said)


def test_absorbing_keeps_the_change_for_good():
    model = base()
    delta = shake(attach(model, SPEC, seed=0))
    changed = logits(model)
    assert delta.absorb().error == 0.0
    assert model.changes == ()
    assert torch.allclose(logits(model), changed, atol=1e-5 * float(changed.abs().max()))
    with pytest.raises(ModelError, match="detached lora"):
        delta.merge()


@pytest.mark.parametrize(("weights", "most"), [("int8", 0.01), ("int4", 0.15)])
def test_on_a_quantised_base_merging_says_its_error(weights, most):
    model = quantise(strong(replace(TINY, hidden_size=32, intermediate_size=64)), weights)
    delta = shake(attach(model, LoraSpec(r=2, targets=("up_proj", "gate_proj")), seed=0))
    changed, packed = logits(model), model.get_submodule("model.layers.0.mlp.up_proj").packed.clone()
    loss_of(model).backward()
    assert all(parameter.grad is not None for parameter in delta.trained().values())
    wanted = {place.name: value for place, value in delta.changed()}
    merged = delta.merge()
    assert merged.worst in wanted
    errors = {
        name: float((model.get_submodule(name).weight - value).square().mean().sqrt() / value.square().mean().sqrt())
        for name, value in wanted.items()
    }
    assert merged.error == pytest.approx(max(errors.values()))
    assert 0.0 < merged.error < most
    delta.unmerge()
    assert torch.equal(model.get_submodule("model.layers.0.mlp.up_proj").packed, packed)
    assert torch.equal(logits(model), changed)


def test_what_was_saved_comes_back_and_nothing_else_fits():
    model = base()
    delta = shake(attach(model, SPEC, seed=0))
    saved, changed = {name: tensor.clone() for name, tensor in delta.tensors().items()}, logits(model)
    assert "model.layers.0.self_attn.q_proj.a" in saved
    delta.detach()
    again = attach(model, SPEC, seed=9)
    again.load(saved)
    assert torch.equal(logits(model), changed)
    with pytest.raises(ModelError, match="another base, or to another specification"):
        attach(model, LoraSpec(r=2, targets=SPEC.targets), seed=0).load(saved)
    with pytest.raises(ModelError, match=r"missing \['model.layers.0.mlp.gate_proj.a'"):
        attach(model, LoraSpec(r=3), seed=0).load(saved)


def test_dropout_acts_while_training_alone():
    model = base()
    shake(attach(model, LoraSpec(r=3, dropout=0.5), seed=0))
    model.eval()
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))


def test_the_engine_sees_what_is_attached(tmp_path):
    """Its kernels read weights alone: while hooks do something the modules are used."""
    tokenizer = tiny_tokenizer(tmp_path)
    model = tiny_model(tokenizer.vocab_size, context=64)
    prompt = Request(id="a", prompt_ids=(5, 6, 7), params=SamplingParams(max_tokens=12, temperature=0.0, stop_ids=()))

    def answer() -> tuple[int, ...]:
        return Engine(model, tokenizer).run([prompt])[0].outputs[0].ids

    plain = answer()
    delta = shake(attach(model, LoraSpec(r=4, alpha=64), seed=0), size=1.0)
    changed = answer()
    delta.merge()
    assert answer() == changed
    assert changed != plain


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "lora", "rank": 4}, "unknown key delta.rank"),
        ({"method": "lorra"}, "must be an entry whose method is one of 'lora'"),
        ({"r": 4}, "says its method, such as method: lora"),
        ({"method": "lora", "r": 0}, "delta.r=0: must be at least 1"),
        ({"method": "lora", "targets": []}, "a list of at least 1"),
        ({"method": "lora", "dropout": 1.0}, "less than 1"),
    ],
)
def test_bad_specifications(values, message):
    with pytest.raises(RecipeError, match=message):
        delta_spec(values)


def test_what_does_not_fit_the_model():
    model = base()
    with pytest.raises(ModelError, match=r"'q_porj', which fits nothing in this model; nearest: q_proj"):
        attach(model, LoraSpec(targets=("q_porj",)), seed=0)
    with pytest.raises(ModelError, match=r"r=25 is more than model.layers.0.self_attn.q_proj of 24 × 24"):
        attach(model, LoraSpec(r=25), seed=0)
    assert model.changes == ()
    assert all(parameter.requires_grad for parameter in model.parameters())
    delta = attach(model, SPEC, seed=0)
    with pytest.raises(ModelError, match="not merged"):
        delta.unmerge()
    delta.merge()
    for act, message in ((delta.merge, "merged already"), (delta.disable, "unmerge it first")):
        with pytest.raises(ModelError, match=message):
            act()
