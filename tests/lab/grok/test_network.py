"""The ensemble against a plain network, and its loss against float64."""

import torch
from torch.nn import functional as F

from dunwu.lab.grok.network import Ensemble, Shape, answer_losses

SHAPE = Shape(symbols=7, answers=7, width=12, heads=3, depth=1, inner=20)


def plain(network, member, a_B, b_B):
    """The same decoder written out: every example, every place, a causal mask."""
    weight = {name: w[member] for name, w in network.weights.items()}
    heads = network.shape.heads
    tokens_BTD = torch.stack(
        [weight["embed"][a_B], weight["embed"][b_B], torch.zeros(len(a_B), network.shape.width)], 1
    )
    x_BTD = tokens_BTD + weight["places"]
    for layer in range(network.shape.depth):
        q, k, v = ((x_BTD @ weight[f"{layer}_{name}"]).unflatten(-1, (heads, -1)).transpose(1, 2) for name in "qkv")
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x_BTD = x_BTD + attended @ weight[f"{layer}_o"]
        inner = (x_BTD @ weight[f"{layer}_up"] + weight[f"{layer}_up_bias"]).relu()
        x_BTD = x_BTD + inner @ weight[f"{layer}_down"] + weight[f"{layer}_down_bias"]
    return x_BTD[:, -1] @ weight["unembed"]


def check_against_plain(depth):
    network = Ensemble(Shape(**{**vars(SHAPE), "depth": depth, "init_scale": 1.5}), [3, 8]).double()
    with torch.no_grad():
        for weight in network.weights.values():
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    a_MB, b_MB = torch.randint(7, (2, 2, 9), generator=torch.Generator().manual_seed(1))
    logits_MBV = network(a_MB, b_MB)
    plain_MBV = torch.stack([plain(network, member, a_MB[member], b_MB[member]) for member in range(2)])
    assert torch.allclose(logits_MBV, plain_MBV, rtol=1e-9)
    weights = list(network.weights.values())
    ours = torch.autograd.grad(logits_MBV.square().sum(), weights)
    theirs = torch.autograd.grad(plain_MBV.square().sum(), weights)
    for our, their in zip(ours, theirs, strict=True):
        assert torch.allclose(our, their, rtol=1e-8)


def test_one_layer_gives_what_a_plain_decoder_gives():
    check_against_plain(1)


def test_three_layers_give_what_a_plain_decoder_gives():
    check_against_plain(3)


def test_a_member_does_not_know_its_neighbours():
    together, alone = Ensemble(SHAPE, [5, 1, 9]), Ensemble(SHAPE, [1])
    a_MB, b_MB = torch.randint(7, (2, 1, 6), generator=torch.Generator().manual_seed(1))
    assert torch.equal(together.alone(1)(a_MB, b_MB), alone(a_MB, b_MB))
    assert torch.allclose(together(a_MB.expand(3, -1), b_MB.expand(3, -1))[1], alone(a_MB, b_MB)[0], atol=1e-6)


def test_the_norm_is_of_all_weights():
    network = Ensemble(SHAPE, [0, 1])
    for member, norm in enumerate(network.norms()):
        flat = torch.cat([weight[member].detach().flatten() for weight in network.weights.values()])
        assert abs(norm - float(flat.norm())) < 1e-4


def test_the_loss_is_cross_entropy():
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)) * 4
    answers = torch.randint(7, (2, 5), generator=torch.Generator().manual_seed(1))
    expected = F.cross_entropy(logits.flatten(0, 1).double(), answers.flatten(), reduction="none").view(2, 5)
    assert torch.allclose(answer_losses(logits, answers).double(), expected, rtol=1e-5)


def test_tiny_losses_and_their_gradients_are_not_rounded_to_nothing():
    logits = torch.tensor([[40.0, 0.0, 1.0]], requires_grad=True)
    answer_losses(logits, torch.tensor([0])).sum().backward()
    exact = logits.detach().double().requires_grad_()
    loss = torch.log1p(torch.exp(exact[0, 1:] - exact[0, 0]).sum())
    loss.backward()
    assert float(F.cross_entropy(logits.detach(), torch.tensor([0]))) == 0.0  # what is avoided
    assert torch.allclose(answer_losses(logits, torch.tensor([0])).double(), loss, rtol=1e-5)
    assert logits.grad is not None
    assert exact.grad is not None
    assert torch.allclose(logits.grad.double(), exact.grad, rtol=1e-5, atol=0)
