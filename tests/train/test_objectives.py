"""The chunked cross-entropy equals the plain one, in value and gradients."""

import math

import pytest
import torch
from torch.nn import functional as F

from dunwu.train.objectives import linear_cross_entropy


def plain(hidden_ND: torch.Tensor, weight_VD: torch.Tensor, targets_N: torch.Tensor, scale: float) -> torch.Tensor:
    return F.cross_entropy(hidden_ND @ weight_VD.T, targets_N, ignore_index=-100, reduction="sum") * scale


@pytest.mark.parametrize("chunk_rows", [1, 3, 7, 100, None])
def test_equals_the_plain_cross_entropy(chunk_rows: int | None) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(23, 8, requires_grad=True)
    weight = torch.randn(31, 8, requires_grad=True)
    targets = torch.randint(0, 31, (23,))
    targets[[0, 5, 22]] = -100
    ours = linear_cross_entropy(hidden, weight, targets, scale=0.3, chunk_rows=chunk_rows)
    ours_grads = torch.autograd.grad(ours * 1.7, (hidden, weight))
    theirs = plain(hidden, weight, targets, 0.3)
    theirs_grads = torch.autograd.grad(theirs * 1.7, (hidden, weight))
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(ours_grads, theirs_grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_gradients_in_double_precision_by_finite_differences() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 6, -100, 2, 2])
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, targets, chunk_rows=2), (hidden, weight))


def test_a_case_by_hand() -> None:
    # logits (0, ln 3): probabilities 1/4 and 3/4
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[0.0], [math.log(3.0)]])
    assert float(linear_cross_entropy(hidden, weight, torch.tensor([1]))) == pytest.approx(math.log(4 / 3))


def test_huge_logits_stay_finite() -> None:
    hidden = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    weight = torch.tensor([[2.0], [-2.0]], requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.tensor([1, 1]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1200.0)
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()


def test_nothing_to_learn_gives_nothing() -> None:
    hidden, weight = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.full((4,), -100))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_only_the_wanted_gradients_are_made() -> None:
    hidden, weight = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3)
    linear_cross_entropy(hidden, weight, torch.tensor([1, 2, 3, 4])).backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_under_autocast_it_is_the_same_to_the_precision_of_bfloat16() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(23, 16, requires_grad=True), torch.randn(31, 16, requires_grad=True)
    targets = torch.randint(0, 31, (23,))
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_cross_entropy(hidden, weight, targets, chunk_rows=7)
    ours.backward()
    theirs = plain(hidden, weight, targets, 1.0)
    expected = torch.autograd.grad(theirs, (hidden, weight))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=0.1)
    for got, want in zip((hidden.grad, weight.grad), expected, strict=True):
        assert got is not None
        assert got.dtype == torch.float32
        assert float((got - want).norm() / want.norm()) < 2e-2


def test_without_gradients_only_the_loss_is_made() -> None:
    hidden, weight = torch.randn(4, 3), torch.randn(5, 3, requires_grad=True)
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, torch.tensor([1, 2, 3, 4]))
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain(hidden, weight, torch.tensor([1, 2, 3, 4]), 1.0).detach())


def test_capped_logits_are_capped_before_the_softmax_and_in_the_gradient() -> None:
    generator = torch.Generator().manual_seed(5)
    hidden, weight = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (9, 11))
    hidden.requires_grad_(), weight.requires_grad_()
    targets = torch.tensor([3, -100, 0, 10, 5, 5, -100, 1, 2])
    ours = linear_cross_entropy(hidden, weight, targets, softcap=1.5, chunk_rows=4)
    capped = 1.5 * torch.tanh(hidden @ weight.T / 1.5)
    theirs = torch.nn.functional.cross_entropy(capped, targets, reduction="sum")
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, (hidden, weight)), torch.autograd.grad(theirs, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(mine, other)
