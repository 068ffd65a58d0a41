"""Routing against a rule written token by token, and the experts against plain sums."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dunwu.model.blocks import experts as room
from dunwu.model.blocks import mlp, norms
from dunwu.model.blocks.experts import ExpertStack, Router, SparseMLP
from dunwu.model.config import DecoderConfig, Experts

from .helpers import TINY

PLAIN = Experts(count=8, per_token=3, intermediate_size=10)
KINDS = {
    "after": replace(PLAIN, scores="softmax_after", router_bias=True),
    "softmax": PLAIN,
    "normalised": replace(PLAIN, normalise=True),
    "groups by best": replace(PLAIN, groups=4, groups_per_token=2, scale=16.0, router_float32=True),
    "groups by best two": replace(
        PLAIN, scores="sigmoid", groups=2, groups_per_token=1, group_score="best_two", normalise=True, scale=2.5,
        correction=True,
    ),
    "three of four groups": replace(
        PLAIN, scores="sigmoid", groups=4, groups_per_token=3, group_score="best_two", correction=True
    ),
}  # fmt: skip


def lively(module: torch.nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))


def some(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def expected_routes(router: Router, x_D: Tensor) -> dict[int, float]:
    """One token's experts and their weights, chosen by trying all sets of groups and of experts."""
    config = router.config
    weight_ED, bias_E = router.weight.detach(), 0.0 if router.bias is None else router.bias.detach()
    logits = weight_ED @ x_D + bias_E
    scores = 1 / (1 + (-logits).exp()) if config.scores == "sigmoid" else logits.exp() / logits.exp().sum()
    rank = scores if router.correction is None else scores + router.correction.detach()
    size = config.count // config.groups
    best = 1 if config.group_score == "best" else 2

    def group_value(group: int) -> float:
        return float(sum(sorted((float(v) for v in rank[group * size : (group + 1) * size]), reverse=True)[:best]))

    opened = max(
        itertools.combinations(range(config.groups), config.groups_per_token), key=lambda g: sum(map(group_value, g))
    )
    allowed = [e for e in range(config.count) if e // size in opened]
    chosen = max(itertools.combinations(allowed, config.per_token), key=lambda es: sum(float(rank[e]) for e in es))
    weights = {e: float(scores[e]) for e in chosen}
    if config.scores == "softmax_after" or config.normalise:
        total = sum(weights.values())
        weights = {e: w / total for e, w in weights.items()}
    return {e: w * config.scale for e, w in weights.items()}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_each_token_goes_where_the_rule_says(kind: Experts) -> None:
    router = Router(6, kind)
    lively(router)
    x_ND = some(40, 6)
    chosen_NP, weights_NP = router(x_ND)
    for x_D, chosen_P, weights_P in zip(x_ND, chosen_NP.tolist(), weights_NP.tolist(), strict=True):
        assert dict(zip(chosen_P, weights_P, strict=True)) == pytest.approx(expected_routes(router, x_D), rel=1e-4)


def test_the_correction_moves_the_choice_and_neither_weights_nor_gradients() -> None:
    router = Router(6, replace(PLAIN, scores="sigmoid", correction=True))
    lively(router)
    assert router.correction is not None
    with torch.no_grad():
        router.correction.zero_()
        router.correction[5] = 100.0
    x_ND = some(20, 6)
    chosen_NP, weights_NP = router(x_ND)
    assert (chosen_NP == 5).any(dim=1).all()
    torch.testing.assert_close(weights_NP, (x_ND @ router.weight.T).sigmoid().gather(1, chosen_NP))
    router.correction.requires_grad_(True)
    router(x_ND)[1].sum().backward()
    assert router.correction.grad is None
    assert router.weight.grad is not None


def test_the_correction_stays_in_float32_whatever_the_model_becomes() -> None:
    config = replace(TINY, experts=replace(PLAIN, scores="sigmoid", correction=True))
    sparse = SparseMLP(config)
    lively(sparse)
    kept = sparse.router.correction.detach().clone()
    sparse.to(torch.bfloat16)
    assert sparse.router.weight.dtype == torch.bfloat16
    assert torch.equal(sparse.router.correction, kept)
    with torch.device("meta"):
        empty = SparseMLP(config)
    assert empty.to(torch.bfloat16).to_empty(device="cpu").router.correction.dtype == torch.float32
    assert sparse(some(4, 24).to(torch.bfloat16)).dtype == torch.bfloat16


def plain_experts(stack: ExpertStack, x_ND: Tensor, chosen_NP: Tensor, weights_NP: Tensor) -> Tensor:
    out = []
    for x_D, chosen_P, weights_P in zip(x_ND, chosen_NP.tolist(), weights_NP, strict=True):
        total = torch.zeros_like(x_D)
        for expert, weight in zip(chosen_P, weights_P, strict=True):
            gate, up = stack.gate_proj[expert] @ x_D, stack.up_proj[expert] @ x_D
            if stack.gate_proj_bias is not None and stack.up_proj_bias is not None:
                gate, up = gate + stack.gate_proj_bias[expert], up + stack.up_proj_bias[expert]
            if stack.activation == "clamped_silu":
                gate, up = gate.clamp(max=stack.limit), up.clamp(-stack.limit, stack.limit) + 1
                middle = gate * torch.sigmoid(1.702 * gate) * up
            else:
                middle = (F.silu(gate) if stack.activation == "silu" else F.gelu(gate, approximate="tanh")) * up
            down = stack.down_proj[expert] @ middle
            total = total + weight * (down if stack.down_proj_bias is None else down + stack.down_proj_bias[expert])
        out.append(total)
    return torch.stack(out)


STACKS = {
    "silu": replace(TINY, hidden_size=8, experts=replace(PLAIN, intermediate_size=12)),
    "gelu": replace(TINY, hidden_size=6, activation="gelu_tanh", experts=PLAIN),
    "clamped": replace(
        TINY, hidden_size=6, activation="clamped_silu", activation_limit=0.7, experts=replace(PLAIN, bias=True)
    ),
}
ROUTES = {
    "mixed": torch.stack([torch.randperm(8, generator=torch.Generator().manual_seed(n))[:3] for n in range(11)]),
    "all to the same three": torch.tensor([[7, 0, 3]] * 9),
    "one token": torch.tensor([[4, 2, 6]]),
}


@pytest.mark.parametrize("routes", ROUTES.values(), ids=ROUTES.keys())
@pytest.mark.parametrize("config", STACKS.values(), ids=STACKS.keys())
@pytest.mark.parametrize("plain_formulas", [False, True])
def test_experts_equal_a_sum_over_each_tokens_own(
    config: DecoderConfig, routes: Tensor, plain_formulas: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_has_grouped", lambda *_: not plain_formulas and config.activation == "silu")
    if plain_formulas:
        for module in (norms, mlp, room):
            monkeypatch.setattr(module, "by_hand", lambda x: False)
    assert config.experts is not None
    stack = ExpertStack(config, config.experts)
    lively(stack)
    weights_NP = some(*routes.shape, seed=2).abs().requires_grad_()
    x_ND = some(len(routes), config.hidden_size).requires_grad_()
    inputs = (x_ND, weights_NP, *stack.parameters())
    ours = stack(x_ND, routes, weights_NP)
    wanted = plain_experts(stack, x_ND, routes, weights_NP)
    torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)
    slope = some(*ours.shape, seed=3)
    given = torch.autograd.grad(wanted, inputs, slope)
    for one, other in zip(torch.autograd.grad(ours, inputs, slope), given, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_an_expert_that_nobody_chose_has_no_slope_and_frozen_stacks_cost_none() -> None:
    stack = some(4, 5, 6).requires_grad_()
    x = some(7, 6)
    ends = torch.tensor([3, 3, 7, 7])
    room.one_by_one(x, stack, ends).square().sum().backward()
    assert stack.grad is not None
    assert (stack.grad.abs().amax(dim=(1, 2)) > 0).tolist() == [True, False, True, False]
    assert not room.one_by_one(x, stack.detach(), ends).requires_grad


def test_torchs_grouped_product_equals_one_product_an_expert() -> None:
    x, stack = some(16, 8).requires_grad_(), some(4, 24, 8).requires_grad_()
    ends = torch.tensor([5, 5, 15, 16])
    slope = some(16, 24, seed=5)
    ours = room.one_by_one(x, stack, ends)
    theirs = room.grouped_product(x, stack, ends)
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(
        torch.autograd.grad(ours, (x, stack), slope), torch.autograd.grad(theirs, (x, stack), slope), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_compiled_mixture_equals_the_plain_one(grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # With the grouped product, as on CUDA, the whole is one graph: nothing in it depends on who chose whom.
    monkeypatch.setattr(room, "_has_grouped", lambda *_: grouped)
    sparse = SparseMLP(replace(TINY, experts=replace(PLAIN, intermediate_size=12)))
    lively(sparse)
    compiled = torch.compile(sparse, backend="eager", fullgraph=grouped)
    for tokens in (9, 4):
        x_BTD = some(2, tokens, 24)
        torch.testing.assert_close(compiled(x_BTD), sparse(x_BTD), atol=1e-4, rtol=1e-4)


def test_what_all_share_is_added_and_its_gate_weighs_it() -> None:
    config = replace(TINY, experts=replace(PLAIN, shared_intermediate_size=12, shared_gate=True))
    sparse = SparseMLP(config)
    lively(sparse)
    assert sparse.shared is not None
    assert sparse.shared_gate is not None
    x_BTD = some(2, 3, 24)
    routed = sparse.experts(x_BTD.flatten(0, 1), *sparse.router(x_BTD.flatten(0, 1))).view(2, 3, 24)
    shared = torch.sigmoid(x_BTD @ sparse.shared_gate.weight[0])[..., None] * sparse.shared(x_BTD)
    torch.testing.assert_close(sparse(x_BTD), routed + shared, atol=1e-4, rtol=1e-4)


def test_under_autocast_all_products_of_experts_are_in_its_dtype() -> None:
    stack = ExpertStack(replace(TINY, experts=PLAIN), PLAIN)
    lively(stack)
    x_ND, chosen_NP = some(5, TINY.hidden_size), torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 0], [1, 2, 3], [4, 5, 6]])
    weights_NP = torch.full((5, 3), 1 / 3)
    plain_ND = stack(x_ND, chosen_NP, weights_NP)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low_ND = stack(x_ND.bfloat16(), chosen_NP, weights_NP)
        assert room.expert_product(x_ND, stack.up_proj, torch.tensor([5] * 8)).dtype == torch.bfloat16
    assert float((low_ND - plain_ND).norm() / plain_ND.norm()) < 0.03
    low_ND.float().sum().backward()
    assert stack.up_proj.grad is not None
    assert stack.up_proj.grad.dtype == torch.float32
