"""The kernels of training in C: each equals the plain formula in double precision, in value and in every gradient."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dunwu.model import kernels
from dunwu.model.blocks.linear import project
from dunwu.model.native import training
from dunwu.model.native.library import SWITCH
from dunwu.train.objectives import linear_cross_entropy

from .helpers import TINY, lively

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on this machine")


@pytest.fixture(params=[1, 3], autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def assert_same(
    ours: Callable[..., Tensor], plain: Callable[..., Tensor], *inputs: Tensor, tolerance: float = 2e-5
) -> None:
    """Ours in float32, through the kernels, against the plain formula in float64."""
    assert training.serves(*inputs)
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    found, exact = ours(*inputs), plain(*exact_inputs)
    upstream = torch.randn(exact.shape, generator=torch.Generator().manual_seed(9))
    grads = torch.autograd.grad(found, inputs, upstream)
    exact_grads = torch.autograd.grad(exact, exact_inputs, upstream.double())
    for a, b in zip((found, *grads), (exact, *exact_grads), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("rows", [1, 7, 400])
@pytest.mark.parametrize("size", [1, 5, 16, 33, 48, 130])
def test_rms_norm(rows: int, size: int) -> None:
    assert_same(
        lambda x, w: kernels.rms_norm(x, w, 1e-2),
        lambda x, w: F.rms_norm(x, (size,), w, 1e-2),
        random(rows, size), random(size, seed=1), tolerance=1e-4,
    )  # fmt: skip


def test_a_norm_of_every_second_column() -> None:
    assert_same(
        lambda x, w: kernels.rms_norm(x[..., ::2], w, 1e-2),
        lambda x, w: F.rms_norm(x[..., ::2], (8,), w, 1e-2),
        random(3, 4, 16), random(8, seed=1),
    )  # fmt: skip


@pytest.mark.parametrize("count", [1, 15, 16, 17, 40_003])
def test_gated_silu(count: int) -> None:
    assert_same(kernels.gated_silu, lambda gate, up: F.silu(gate) * up, random(count), random(count, seed=1))


@pytest.mark.parametrize("rows", [64, 131])
@pytest.mark.parametrize("outputs", [16, 320])
def test_a_product_behind_a_gate(rows: int, outputs: int) -> None:
    gate, up, weight_OI = random(rows, 48), random(rows, 48, seed=1), random(outputs, 48, seed=2)
    assert training.linear_serves(gate, weight_OI)
    assert_same(
        kernels.gated_linear,
        lambda gate, up, weight: (F.silu(gate) * up) @ weight.T,
        gate,
        up,
        weight_OI,
        tolerance=1e-4,
    )


def test_a_product_behind_a_gate_keeps_nothing_of_its_own() -> None:
    gate, up, weight_OI = random(64, 48), random(64, 48, seed=1), random(16, 48, seed=2)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.data_ptr()) or x, lambda x: x):
        kernels.gated_linear(gate, up, weight_OI)
    assert sorted(kept) == sorted(x.data_ptr() for x in (gate, up, weight_OI))


def test_a_gate_far_out_is_shut_or_open() -> None:
    gate = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4])
    torch.testing.assert_close(kernels.gated_silu(gate, torch.ones(5)), torch.tensor([0.0, 0.0, 0.0, 100.0, 1e4]))


@pytest.mark.parametrize("channels", [2, 6, 32, 70])
@pytest.mark.parametrize("rows_of_tables", [1, 2])
def test_rotation_is_multiplication_by_a_unit_complex_number(channels: int, rows_of_tables: int) -> None:
    angles = torch.randn(rows_of_tables, 1, 50, channels // 2, generator=torch.Generator().manual_seed(1))

    def plain(x_BTHC: Tensor) -> Tensor:
        left, right = x_BTHC.transpose(1, 2).chunk(2, dim=-1)
        unit = torch.polar(torch.ones_like(angles, dtype=torch.float64), angles.double())
        turned = torch.complex(left, right) * unit
        return torch.cat((turned.real, turned.imag), dim=-1)

    assert_same(lambda x: kernels.rotate_to_heads(x, angles.cos(), angles.sin()), plain, random(2, 50, 5, channels))


@settings(max_examples=40, deadline=None)
@given(
    time=st.sampled_from([1, 2, 31, 32, 33, 63, 64, 65, 130, 200]),
    channels=st.sampled_from([16, 32, 48, 64]),
    kv_heads=st.integers(1, 2),
    group=st.integers(1, 3),
    packed=st.booleans(),
)
def test_attention(time: int, channels: int, kv_heads: int, group: int, packed: bool) -> None:
    q = random(2, kv_heads * group, time, channels)
    k, v = (random(2, kv_heads, time, channels, seed=s) for s in (1, 2))
    document_BT = torch.randint(0, 2, (2, time), generator=torch.Generator().manual_seed(time)).cumsum(1)
    allowed = torch.ones(time, time, dtype=torch.bool).tril()
    if packed:
        allowed = allowed & (document_BT[:, :, None] == document_BT[:, None, :])
    bias = torch.zeros(allowed.shape).masked_fill_(~allowed, -torch.inf)
    assert training.attention_serves(channels)
    assert_same(
        lambda q, k, v: kernels.attention(q, k, v, bias, 0.3),
        lambda q, k, v: F.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed[:, None] if packed else allowed, scale=0.3, enable_gqa=True
        ).transpose(1, 2),
        q, k, v, tolerance=1e-4,
    )  # fmt: skip


def test_attention_reads_heads_where_they_lie() -> None:
    """Views that are not contiguous, as the projections give them, and a gradient that is not."""
    bias = torch.zeros(70, 70).masked_fill_(torch.ones(70, 70, dtype=torch.bool).triu(1), -torch.inf)

    def heads(x_BTW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (x.unflatten(2, (3, 32)).transpose(1, 2) for x in x_BTW.chunk(3, dim=-1))
        return q, k, v

    assert_same(
        lambda x: kernels.attention(*heads(x), bias, 0.2).transpose(1, 2),
        lambda x: F.scaled_dot_product_attention(*heads(x), is_causal=True, scale=0.2),
        random(2, 70, 3 * 3 * 32), tolerance=1e-4,
    )  # fmt: skip


def test_attention_with_a_head_of_odd_width_falls_back() -> None:
    q, k, v = (random(1, 1, 9, 5, seed=s) for s in range(3))
    bias = torch.zeros(9, 9).masked_fill_(torch.ones(9, 9, dtype=torch.bool).triu(1), -torch.inf)
    plain = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(kernels.attention(q, k, v, bias, 0.3), plain)


@pytest.mark.parametrize("size", [1, 13, 64, 1000])
@pytest.mark.parametrize("rows", [1, 50])
@pytest.mark.parametrize("width", [5, 16, 48])
def test_cross_entropy(size: int, rows: int, width: int) -> None:
    targets = torch.randint(0, size, (rows,), generator=torch.Generator().manual_seed(2))
    targets[::7] = -100
    assert_same(
        lambda h, w: linear_cross_entropy(h, w, targets, scale=0.3, chunk_rows=20),
        lambda h, w: F.cross_entropy(h @ w.T, targets, ignore_index=-100, reduction="sum") * 0.3,
        random(rows, width), random(size, width, seed=1), tolerance=1e-4,
    )  # fmt: skip


def test_a_cross_entropy_of_frozen_weights_gives_the_other_gradient_and_without_gradients_the_value() -> None:
    hidden, weight, targets = random(70, 16), random(40, 16, seed=1), torch.arange(70) % 40
    plain = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(hidden, weight, targets), plain)
    for inputs in ((hidden, weight.detach()), (hidden.detach(), weight)):
        (learned,) = (x for x in inputs if x.requires_grad)
        (found,) = torch.autograd.grad(linear_cross_entropy(*inputs, targets), learned)
        (expected,) = torch.autograd.grad(plain, learned, retain_graph=True)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 40, 300, 777])
def test_a_frozen_head_is_passed_block_by_block(rows: int) -> None:
    hidden, weight = random(rows, 32), random(1001, 32, seed=1).detach()
    with torch.no_grad():
        weight[700:] *= 2.0  # greater logits come late: what was summed before has to shrink
    targets = torch.randint(0, 1001, (rows,), generator=torch.Generator().manual_seed(2))
    targets[rows // 2] = -100
    exact_hidden = hidden.detach().double().requires_grad_()
    exact = F.cross_entropy(exact_hidden @ weight.double().T, targets, reduction="sum")
    loss = linear_cross_entropy(hidden, weight, targets, scale=0.5)
    found, wanted = torch.autograd.grad(loss, hidden)[0], torch.autograd.grad(exact, exact_hidden)[0]
    torch.testing.assert_close(loss.double(), 0.5 * exact.detach(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found.double(), 0.5 * wanted, atol=5e-5, rtol=5e-5)


@pytest.mark.parametrize("rows", [64, 67, 300])
@pytest.mark.parametrize("inputs", [16, 48, 288])
@pytest.mark.parametrize("outputs", [(16,), (160,), (48, 16, 16), (32, 400)])
def test_linear(rows: int, inputs: int, outputs: tuple[int, ...]) -> None:
    x, weights = random(rows, inputs), [random(size, inputs, seed=1 + i) for i, size in enumerate(outputs)]
    assert training.linear_serves(x, *weights)
    assert_same(
        lambda x, *ws: torch.cat(kernels.linear(x, ws), dim=-1),
        lambda x, *ws: torch.cat([F.linear(x, w) for w in ws], dim=-1),
        x, *weights, tolerance=3e-4,
    )  # fmt: skip


def test_linear_of_odd_or_few_rows_falls_back() -> None:
    for rows, inputs, outputs in ((100, 15, 32), (100, 32, 15), (3, 32, 32)):
        x, weight = random(rows, inputs), random(outputs, inputs, seed=1)
        assert not training.linear_serves(x, weight)
        torch.testing.assert_close(kernels.linear(x, [weight])[0], F.linear(x, weight))


def test_linear_leaves_frozen_weights_without_gradient() -> None:
    x, weight = random(64, 16), random(16, 16, seed=1).detach()
    (y,) = kernels.linear(x, [weight])
    y.sum().backward()
    assert x.grad is not None
    assert weight.grad is None
    torch.testing.assert_close(x.grad, weight.sum(0).expand(64, 16), atol=1e-5, rtol=1e-5)


def test_frozen_matrices_with_one_input_keep_none_and_share_its_gradient() -> None:
    weights = [random(outputs, 32, seed=outputs).detach() for outputs in (32, 8, 8)]
    kept: list[int] = []
    x = random(4, 20, 32)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: kept.append(saved.data_ptr()) or saved, lambda saved: saved
    ):
        kernels.linear(x, weights)
    assert kept == [weight.data_ptr() for weight in weights]
    assert_same(lambda x: torch.cat(kernels.linear(x, weights), -1), lambda x: x @ torch.cat(weights).mT.to(x.dtype), x)
    assert all(out.grad_fn is None for out in kernels.linear(x.detach(), weights))


def add_one(_module: nn.Module, _args: tuple[Tensor, ...], out: Tensor) -> Tensor:
    return out + 1.0


def test_layers_that_are_more_than_a_product_are_called() -> None:
    plain, biased, hooked = (nn.Linear(16, 16, bias=b) for b in (False, True, False))
    hooked.register_forward_hook(add_one)
    x = random(64, 16)
    for layers in ((plain, biased), (plain, hooked), (nn.Identity(),)):
        for found, layer in zip(project(x, layers), layers, strict=True):
            torch.testing.assert_close(found, layer(x))


def test_a_target_outside_the_vocabulary_is_an_error_and_not_a_write() -> None:
    with pytest.raises(IndexError, match="2 targets are not within the vocabulary of 5"):
        linear_cross_entropy(random(3, 16), random(5, 16), torch.tensor([5, 0, -3]))


def test_what_is_not_a_number_stays_visible() -> None:
    """The guard of the training loop looks for it in the loss and in the gradients."""
    hidden = random(3, 16)
    with torch.no_grad():
        hidden[1, 2] = torch.nan
    assert torch.isnan(linear_cross_entropy(hidden, random(50, 16), torch.tensor([1, 2, 3])))
    q, k, v = (random(1, 1, 40, 16, seed=s) for s in range(3))
    with torch.no_grad():
        q[0, 0, 20, 3] = torch.nan
    out = kernels.attention(q, k, v, torch.zeros(40, 40), 1.0)
    assert torch.isnan(out[0, 20]).all()
    assert not torch.isnan(out[0, :20]).any()
    assert torch.isnan(kernels.rms_norm(hidden, torch.ones(16), 1e-5)[1]).all()


def test_a_step_gives_the_same_bits_again_and_nearly_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(TINY, hidden_size=32, intermediate_size=48, head_dim=16, num_key_value_heads=2)
    ids = torch.randint(0, config.vocab_size, (3, 65), generator=torch.Generator().manual_seed(0))

    def gradients() -> list[Tensor]:
        model = lively(config)
        hidden = model(ids_BT=ids[:, :-1])
        loss = linear_cross_entropy(hidden.flatten(0, 1), model.head_weight, ids[:, 1:].flatten())
        return list(torch.autograd.grad(loss, list(model.parameters())))

    first, again = gradients(), gradients()
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    monkeypatch.setenv(SWITCH, "off")
    for a, b in zip(first, gradients(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
