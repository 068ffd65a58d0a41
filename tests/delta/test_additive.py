"""Bottleneck adapters and (IA)³."""

import pytest
import torch
from torch.nn import functional as F

from dunwu.core.deltas import HoulsbySpec, Ia3Spec, LastLayersSpec, LoraSpec, ParallelSpec, PfeifferSpec, delta_spec
from dunwu.core.errors import ModelError, RecipeError
from dunwu.delta.places import places
from dunwu.delta.quantise import quantise
from dunwu.delta.registry import attach
from tests.delta.helpers import (
    ALL,
    assert_comes_and_goes,
    assert_says_the_same,
    base,
    logits,
    same,
    shake,
    slopes,
    state,
)

SPECS = {
    "houlsby": HoulsbySpec(bottleneck=3),
    "pfeiffer": PfeifferSpec(bottleneck=3, activation="gelu"),
    "parallel_adapter": ParallelSpec(bottleneck=3, activation="silu"),
    "ia3": Ia3Spec(),
}


@pytest.mark.parametrize("name", list(ALL))
@pytest.mark.parametrize("spec", list(SPECS.values()), ids=list(SPECS))
def test_on_every_architecture(name, spec, tmp_path):
    assert_comes_and_goes(base(name), spec, tmp_path, refusal="cannot be merged: no weights do the same")


@pytest.mark.parametrize("spec", list(SPECS.values()), ids=list(SPECS))
def test_gradients_are_those_of_the_formula(spec):
    model = base("llama").double()
    delta = shake(attach(model, spec, seed=0).double(), size=0.2)
    delta.weight = 0.7
    for name, slope, measured in slopes(model, delta):
        assert torch.isclose(measured, slope, rtol=1e-4, atol=1e-8), name


@pytest.mark.parametrize("spec", list(SPECS.values()), ids=list(SPECS))
def test_the_engine_writes_the_same(spec, tmp_path):
    assert_says_the_same(tmp_path, lambda model: shake(attach(model, spec, seed=0), size=3.0))


def test_an_adapter_by_hand():
    model = base()
    block = model.get_submodule("model.layers.1")
    x = torch.randn(1, 5, 24)
    plain = block.mlp(x)
    serial = shake(attach(model, PfeifferSpec(bottleneck=2, targets=("layers.1.mlp",), scale=3), seed=0))
    assert serial.count == 2 * 24 * 2 + 2 + 24
    one = serial.adapters["model.layers.1.mlp"]
    wanted = plain + 3 * (F.relu(plain @ one.down.T + one.down_bias) @ one.up.T + one.up_bias)
    assert torch.allclose(block.mlp(x), wanted, atol=1e-5)
    serial.detach()
    beside = shake(attach(model, ParallelSpec(bottleneck=2, targets=("layers.1.mlp",)), seed=0))
    beside.weight = 0.5
    two = beside.adapters["model.layers.1.mlp"]
    wanted = plain + 2 * (F.relu(x @ two.down.T + two.down_bias) @ two.up.T + two.up_bias)
    assert torch.allclose(block.mlp(x), wanted, atol=1e-5)


def test_scales_by_hand():
    model = base("llama")  # with biases
    attention, mlp = model.get_submodule("model.layers.0.self_attn"), model.get_submodule("model.layers.0.mlp")
    delta = shake(attach(model, Ia3Spec(), seed=0))
    assert delta.count == 3 * (2 * 24 + 48)
    x, middle = torch.randn(4, 32), torch.randn(4, 48)
    keys, down = (delta.scales[f"model.layers.0.{name}"].scale for name in ("self_attn.k_proj", "mlp.down_proj"))
    delta.weight = 0.5
    wanted = (x @ attention.k_proj.weight.T + attention.k_proj.bias) * (1 + 0.5 * (keys - 1))
    assert torch.allclose(attention.k_proj(x), wanted, atol=1e-5)
    wanted = (middle * (1 + 0.5 * (down - 1))) @ mlp.down_proj.weight.T + mlp.down_proj.bias
    assert torch.allclose(mlp.down_proj(middle), wanted, atol=1e-5)
    delta.merge()
    assert torch.allclose(mlp.down_proj(middle), wanted, atol=1e-5)


def test_scales_and_sums_on_one_matrix_are_merged_in_turn():
    model = base()
    before = state(model)
    lora = shake(attach(model, LoraSpec(r=2, targets=("v_proj",)), seed=0))
    scales = shake(attach(model, Ia3Spec(), seed=0))
    both = logits(model)
    with pytest.raises(ModelError, match="merge lora first, or disable it"):
        scales.merge()
    lora.merge()
    assert torch.allclose(logits(model), both, atol=1e-5 * float(both.abs().max()))
    scales.merge()
    assert torch.allclose(logits(model), both, atol=1e-5 * float(both.abs().max()))
    with pytest.raises(ModelError, match="unmerge ia3 first"):
        lora.unmerge()
    scales.unmerge()
    lora.unmerge()
    assert same(state(model), before)
    lora.detach()
    last = attach(model, LastLayersSpec(), seed=0)
    with pytest.raises(ModelError, match="merge last_layers first"):
        scales.merge()
    last.merge()
    scales.merge()


def test_scales_of_a_quantised_base_with_biases():
    model = quantise(base("llama"), "int8")
    said = logits(model)
    delta = shake(attach(model, Ia3Spec(), seed=0))
    changed = logits(model)
    assert 0.0 < delta.merge().error < 0.01
    assert (logits(model) - changed).abs().max() <= 0.05 * changed.abs().max()
    delta.detach()
    assert torch.equal(logits(model), said)


def test_experts_have_scales_of_their_own():
    model = base("mixtral")
    delta = attach(model, Ia3Spec(targets=("experts.down_proj", "experts.up_proj")), seed=0)
    stack = places(model)["model.layers.0.mlp.experts.down_proj"]
    assert delta.scales[stack.name].scale.shape == (stack.experts, stack.inputs)
    assert delta.exchanged() is None


def test_adapters_add_up_with_others():
    """Two adapters in parallel on what both read are their sum; a half of each is half the sum."""
    model = base()
    one = shake(attach(model, ParallelSpec(bottleneck=2, targets=("layers.1.mlp",)), seed=0))
    two = shake(attach(model, ParallelSpec(bottleneck=3, targets=("layers.1.mlp",)), seed=1))
    mlp, x = model.get_submodule("model.layers.1.mlp"), torch.randn(3, 24)
    one.weight, two.weight = 0.5, 2.0
    both = mlp(x)
    with one.disabled(), two.disabled():
        plain = mlp(x)
    with one.disabled():
        second = mlp(x)
    with two.disabled():
        first = mlp(x)
    assert torch.allclose(both - plain, (first - plain) + (second - plain), atol=1e-5)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"method": "houlsby", "bottleneck": 25}, ModelError, "bottleneck=25 is more than the 24 channels of the model; use 6"),
        ({"method": "pfeiffer", "bottleneck": 2, "targets": ["mlpp"]}, ModelError, "'mlpp', which fits .* nearest: mlp"),
        ({"method": "ia3", "targets": ["kk_proj"]}, ModelError, "'kk_proj', which fits nothing in this model; nearest: k_proj"),
        ({"method": "houlsby", "bottleneck": 0}, RecipeError, "delta.bottleneck=0: must be at least 1"),
        ({"method": "pfeiffer", "activation": "tanh"}, RecipeError, "delta.activation='tanh'"),
    ],
)  # fmt: skip
def test_what_does_not_fit(values, error, message):
    model = base()
    with pytest.raises(error, match=message):
        attach(model, delta_spec(values), seed=0)
    assert model.changes == ()
