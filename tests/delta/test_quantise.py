"""A quantised model is near the original; what it says equals the float model of the weights that it stands for."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dunwu.core.errors import ModelError
from dunwu.delta.quantise import dequantise, quantise, quantised, weight_bytes
from dunwu.infer.engine import Engine
from dunwu.infer.sampling import SamplingParams
from dunwu.infer.sequence import Request
from dunwu.model.blocks.quantised import QuantisedMatrix, pack, unpack
from dunwu.model.decoder import new_decoder
from dunwu.model.native import library
from tests.infer.tiny import tiny_model, tiny_tokenizer
from tests.model.helpers import TINY
from tests.model.test_families import CONFIGS, strong
from tests.model.test_mixtures import VARIANTS

ALL = {**CONFIGS, **VARIANTS}


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_four_bits_come_out_as_they_went_in(rows, units, seed):
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(-8, 8, (rows, 32 * units), generator=generator, dtype=torch.int8)
    assert torch.equal(unpack(pack(numbers)), numbers)


@pytest.mark.parametrize(("bits", "most"), [(8, 0.01), (4, 0.11)])
def test_the_weights_are_near_and_rounding_is_to_the_nearest(bits, most):
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    matrix = QuantisedMatrix(*quantised(weight, bits), bits=bits)
    error = matrix.weight - weight
    assert error.std() / weight.std() < most
    if bits == 8:
        assert (error.abs() <= matrix.scales / 2 + 1e-6).all()
    zero = QuantisedMatrix(*quantised(torch.zeros(3, 32), bits), bits=bits)
    assert torch.equal(zero.weight, torch.zeros(3, 32))


@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 70),
    units=st.integers(1, 5),
    odd=st.integers(0, 31),
    rows=st.integers(1, 19),
    bits=st.sampled_from([8, 4]),
    biased=st.booleans(),
)
def test_the_kernels_product_is_that_of_the_weights_it_stands_for(outputs, units, odd, rows, bits, biased):
    generator = torch.Generator().manual_seed(outputs * 31 + rows)
    inputs = 32 * units + (odd if bits == 8 else 0)
    weight, x = (torch.randn(size, inputs, generator=generator) for size in (outputs, rows))
    bias = torch.randn(outputs, generator=generator) if biased else None
    matrix = QuantisedMatrix(*quantised(weight, bits), bits=bits)
    exact = nn.functional.linear(x.double(), matrix.weight.double(), None if bias is None else bias.double())
    atol = (2e-4 if bits == 8 and inputs % 64 == 0 else 1e-5) * math.sqrt(inputs)  # rows may be rounded to 16 bits
    torch.testing.assert_close(matrix.product(x, bias).double(), exact, atol=atol, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    outputs=st.integers(1, 70), spans=st.integers(1, 9), rows=st.integers(1, 19), outlier=st.sampled_from([1.0, 300.0])
)
def test_an_int8_product_is_off_by_no_more_than_rows_rounded_to_16_bits_allow(outputs, spans, rows, outlier):
    generator = torch.Generator().manual_seed(outputs * 31 + rows)
    weight, x = (torch.randn(size, 64 * spans, generator=generator) for size in (outputs, rows))
    x[:, ::97] *= outlier
    matrix = QuantisedMatrix(*quantised(weight, 8), bits=8)
    exact = x.double() @ matrix.weight.double().T
    half_a_step = x.unflatten(1, (spans, 64)).abs().amax(2).double() / 32767 / 2
    most = half_a_step @ matrix.weight.unflatten(1, (spans, 64)).abs().sum(2).double().T
    rounding = 1e-6 * (x.abs().double() @ matrix.weight.abs().double().T)
    assert ((matrix.product(x) - exact).abs() <= most + rounding).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_spoils_itself_alone_and_zeros_stay_zero(bad):
    matrix = QuantisedMatrix(*quantised(torch.randn(70, 128, generator=torch.Generator().manual_seed(2)), 8), bits=8)
    x = torch.ones(3, 128)
    x[1, 70] = bad
    x[2] = 0
    found = matrix.product(x)
    assert not found[1].isfinite().any()
    assert found[0].isfinite().all()
    assert torch.equal(found[2], torch.zeros(70))


def test_int8_groups_of_inputs_have_their_own_scales():
    generator = torch.Generator().manual_seed(3)
    numbers = torch.randint(-127, 128, (10, 100), generator=generator, dtype=torch.int8)
    scales = torch.rand(10, 4, generator=generator) + 0.1
    matrix = QuantisedMatrix(numbers, scales, bits=8)
    x = torch.randn(5, 100, generator=generator)
    for rows in (1, 5):
        torch.testing.assert_close(matrix.product(x[:rows]), x[:rows] @ matrix.weight.T, atol=2e-2, rtol=1e-4)


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("config", ALL.values(), ids=list(ALL))
def test_every_family_quantises_and_reads_as_its_dequantised_self(config, weights):
    model = strong(config).requires_grad_(False)
    ids = torch.randint(0, config.vocab_size, (1, 9), generator=torch.Generator().manual_seed(4))
    before = weight_bytes(model)
    quantise(model, weights)
    assert weight_bytes(model) < before
    found = model.logits(model(ids))
    plain = dequantise(model)
    assert not any(isinstance(module, QuantisedMatrix) for module in plain.modules())
    torch.testing.assert_close(found, plain.logits(plain(ids)), atol=2e-3, rtol=1e-3)


def test_float_changes_nothing_and_other_kinds_are_refused():
    model = new_decoder(TINY, seed=1)
    kept = dict(model.named_parameters())
    assert all(kept[name] is tensor for name, tensor in quantise(model, "float").named_parameters())
    with pytest.raises(ModelError, match="int8"):
        quantise(model, "int5")  # pyright: ignore[reportArgumentType]


def _written(model, tokenizer, **options) -> list[list[int]]:
    engine = Engine(model, tokenizer, block_size=4, **options)
    generator = torch.Generator().manual_seed(7)
    prompts = [torch.randint(0, 250, (size,), generator=generator).tolist() for size in (3, 17, 9)]
    params = SamplingParams(temperature=0, max_tokens=12)
    requests = [Request(id=str(i), prompt_ids=tuple(ids), params=params) for i, ids in enumerate(prompts)]
    return [[*answer.outputs[0].ids] for answer in engine.run(requests)]


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_the_engine_writes_what_the_dequantised_model_writes_with_and_without_kernels(tmp_path, monkeypatch, weights):
    tokenizer = tiny_tokenizer(tmp_path)
    model = quantise(tiny_model(tokenizer.vocab_size, context=48), weights)
    written = _written(model, tokenizer)
    monkeypatch.setenv(library.SWITCH, "off")
    assert _written(model, tokenizer) == written
    assert _written(dequantise(model), tokenizer) == written
