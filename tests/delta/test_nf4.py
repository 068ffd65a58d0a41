"""4-bit NormalFloat: the paper's values, by hand and as bitsandbytes packs them; deltas learn and merge on it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dunwu.core.deltas import DoraSpec, LoraSpec, PissaSpec
from dunwu.delta.quantise import dequantise, quantise_base, weight_bytes
from dunwu.delta.registry import attach
from dunwu.model.blocks.nf4 import BLOCK, NF4, NF4Linear, dynamic_numbers, pack_nf4, unpack_nf4
from tests.delta.helpers import base, logits, loss_of, same, shake, state


def test_the_sixteen_values_share_out_a_normal_distribution():
    """The paper's construction (equation 4): quantiles of a normal distribution, zero among them, scaled to one."""
    normal = torch.distributions.Normal(0.0, 1.0)
    offset = 0.9677083
    upper = normal.icdf(torch.linspace(offset, 0.5, 9)[:-1])
    lower = -normal.icdf(torch.linspace(offset, 0.5, 8)[:-1])
    values = torch.cat((upper, torch.zeros(1), lower)).sort().values
    assert torch.allclose(values / values.max(), torch.tensor(NF4), atol=1e-5)


def test_a_block_by_hand():
    values = torch.zeros(BLOCK)
    values[:4] = torch.tensor([2.0, -2.0, 0.9, 0.17])
    packed, scales = pack_nf4(values)
    assert scales.tolist() == [2.0]
    assert packed[:2].tolist() == [(15 << 4) | 0, (12 << 4) | 8]  # .45 is next to .4407, .085 to .0796
    assert set(packed[2:].tolist()) == {(7 << 4) | 7}
    assert torch.allclose(unpack_nf4(packed, scales, 4), 2 * torch.tensor([1.0, -1.0, NF4[12], NF4[8]]))


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 200), seed=st.integers(0, 99), double=st.booleans())
def test_every_number_becomes_the_nearest(rows, columns, seed, double):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    layer = NF4Linear(weight, None, twice=False)
    scales = layer.scales.repeat_interleave(BLOCK)[: weight.numel()]
    shares = weight.flatten() / scales
    nearest = (shares[:, None] - torch.tensor(NF4)).abs().min(1).values
    assert torch.allclose((layer.weight.flatten() / scales - shares).abs(), nearest, atol=1e-6)
    if double:
        twice = NF4Linear(weight, None, twice=True).weight
        assert (twice - layer.weight).abs().max() <= 0.05 * weight.abs().max()


def test_double_quantisation_takes_less_and_costs_little():
    weight = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    once, twice = (NF4Linear(weight, None, twice=double) for double in (False, True))
    assert once.bytes == pytest.approx(512 * 512 * 4.5 / 8)
    assert twice.bytes == pytest.approx(512 * 512 * (4 + 8 / 64 + 32 / 64 / 256) / 8, rel=1e-4)
    errors = [float((layer.weight - weight).square().mean().sqrt()) for layer in (once, twice)]
    assert 0.05 < errors[0] < 0.12
    assert errors[1] == pytest.approx(errors[0], rel=0.01)


def test_as_bitsandbytes_does():
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is not installed")
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    packed, told = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    ours = NF4Linear(weight, None, twice=False)
    assert torch.equal(packed.flatten(), ours.packed)
    assert torch.allclose(functional.dequantize_4bit(packed, told), ours.weight, atol=1e-6)
    assert torch.allclose(functional.create_dynamic_map(), dynamic_numbers(), atol=1e-7)


def test_the_dynamic_numbers():
    numbers = dynamic_numbers()
    assert len(numbers) == 256
    assert (numbers.diff() > 0).all()
    assert numbers.min() == pytest.approx(-0.99297, abs=1e-4)
    assert (numbers[-1], int((numbers == 0).sum())) == (1.0, 1)


def test_its_backward_pass_is_that_of_the_matrix_it_stands_for():
    layer = NF4Linear(torch.randn(12, 20), torch.randn(12))
    x = torch.randn(5, 20, requires_grad=True)
    grad = torch.randn(5, 12)
    (own,) = torch.autograd.grad(layer(x), x, grad)
    (plain,) = torch.autograd.grad(F.linear(x, layer.weight, layer.bias), x, grad)
    assert torch.equal(own, plain)


@pytest.mark.parametrize("spec", [LoraSpec(r=2), DoraSpec(r=2), PissaSpec(r=2)])
@pytest.mark.parametrize("weights", ["nf4", "int8"])
def test_deltas_learn_on_it_and_merging_says_its_error(weights, spec):
    model = base("qwen2")
    whole = weight_bytes(model)
    quantise_base(model, weights)
    assert weight_bytes(model) < whole
    before, said = state(model), logits(model)
    delta = shake(attach(model, spec, seed=0))
    loss_of(model).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in delta.trained().values())
    changed = logits(model)
    merged = delta.merge()
    assert (0.02 < merged.error < 0.2) if weights == "nf4" else (0.0 < merged.error < 0.02)
    assert not torch.equal(logits(model), changed)
    delta.unmerge()
    assert same(state(model), before)
    delta.detach()
    assert torch.equal(logits(model), said)
    assert torch.allclose(logits(dequantise(model)), said, atol=1e-4)
    assert math.isfinite(float(said.sum()))
