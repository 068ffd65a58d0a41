"""Log-probabilities made in chunks equal the plain ones, in value and gradients."""

import math

import pytest
import torch

from dunwu.train.logprobs import token_logprobs


def plain(hidden, weight, targets, softcap=None):
    logits = hidden @ weight.T
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("chunk_rows", [1, 7, None])
def test_equals_the_plain_log_softmax(chunk_rows, softcap):
    torch.manual_seed(0)
    hidden, weight = torch.randn(23, 8, requires_grad=True), torch.randn(31, 8, requires_grad=True)
    targets, factors = torch.randint(0, 31, (23,)), torch.randn(23)
    ours = token_logprobs(hidden, weight, targets, softcap=softcap, chunk_rows=chunk_rows)
    theirs = plain(hidden, weight, targets, softcap)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad((ours * factors).sum(), (hidden, weight)),
        torch.autograd.grad((theirs * factors).sum(), (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_gradients_in_double_precision_by_finite_differences():
    torch.manual_seed(0)
    hidden, weight = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (5, 7))
    targets = torch.tensor([0, 6, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda h, w: token_logprobs(h, w, targets, chunk_rows=2).exp(), (hidden, weight))


def test_a_case_by_hand_and_a_frozen_head():
    hidden, weight = torch.tensor([[1.0]], requires_grad=True), torch.tensor([[0.0], [math.log(3.0)]])
    found = token_logprobs(hidden, weight, torch.tensor([1]))
    assert float(found.detach()) == pytest.approx(math.log(3 / 4))
    found.sum().backward()
    assert hidden.grad is not None
    assert float(hidden.grad) == pytest.approx(math.log(3.0) / 4)  # the logit's gradient is 1 - 3/4


def test_nothing_asked_gives_nothing():
    hidden, weight = torch.randn(0, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    found = token_logprobs(hidden, weight, torch.zeros(0, dtype=torch.long))
    found.sum().backward()
    assert found.shape == (0,)
