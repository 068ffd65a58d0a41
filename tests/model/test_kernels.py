"""Each kernel equals its plain formula, in value and in every gradient."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dunwu.model import kernels


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def assert_same(ours: Tensor, plain: Tensor, inputs: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(ours, plain)
    upstream = torch.randn(plain.shape, generator=torch.Generator().manual_seed(9), dtype=plain.dtype)
    ours_grads, plain_grads = torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(plain, inputs, upstream)
    for a, b in zip(ours_grads, plain_grads, strict=True):
        torch.testing.assert_close(a, b)


def test_rms_norm() -> None:
    x, weight = random(3, 5, 8), random(8, seed=1)
    assert_same(kernels.rms_norm(x, weight, 1e-2), F.rms_norm(x, (8,), weight, 1e-2), (x, weight))


def test_rms_norm_of_nothing_but_zeros_is_finite() -> None:
    x, weight = torch.zeros(2, 4, requires_grad=True), torch.ones(4, requires_grad=True)
    kernels.rms_norm(x, weight, 1e-6).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_gated_silu() -> None:
    gate, up = random(4, 7), random(4, 7, seed=1)
    assert_same(kernels.gated_silu(gate, up), F.silu(gate) * up, (gate, up))


def test_rotation_is_multiplication_by_a_unit_complex_number() -> None:
    x_BTHC, angles_B1TC = random(2, 5, 3, 8), random(2, 1, 5, 4, seed=1).detach()
    x_BHTC = x_BTHC.transpose(1, 2)
    turned = torch.complex(x_BHTC[..., :4], x_BHTC[..., 4:]) * torch.polar(torch.ones_like(angles_B1TC), angles_B1TC)
    plain = torch.cat((turned.real, turned.imag), dim=-1)
    assert_same(kernels.rotate_to_heads(x_BTHC, angles_B1TC.cos(), angles_B1TC.sin()), plain, (x_BTHC,))


@pytest.mark.parametrize("time", [1, 5, 128, 130, 300])
@pytest.mark.parametrize("packed", [False, True])
def test_attention(time: int, packed: bool) -> None:
    q, k, v = (random(2, 3, time, 4, seed=s) for s in range(3))
    document_BT = torch.randint(0, 2, (2, time), generator=torch.Generator().manual_seed(3)).cumsum(1)
    allowed = (
        (document_BT[:, :, None] == document_BT[:, None, :]) if packed else torch.ones(time, time, dtype=torch.bool)
    )
    allowed = allowed.tril()
    bias = torch.zeros(allowed.shape, dtype=torch.float64).masked_fill_(~allowed, -torch.inf)
    plain = F.scaled_dot_product_attention(
        q, k, v, attn_mask=allowed[:, None] if packed else allowed, scale=0.3
    ).transpose(1, 2)
    assert_same(kernels.attention(q, k, v, bias, 0.3), plain, (q, k, v))


def test_a_single_packed_row_is_not_taken_for_a_causal_one() -> None:
    q, k, v = (random(1, 1, 150, 4, seed=s) for s in range(3))
    document_T = torch.arange(150) // 10
    allowed = (document_T[:, None] == document_T[None]).tril()[None]
    bias = torch.zeros(1, 150, 150, dtype=torch.float64).masked_fill_(~allowed, -torch.inf)
    plain = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed[:, None], scale=0.3).transpose(1, 2)
    torch.testing.assert_close(kernels.attention(q, k, v, bias, 0.3), plain)
