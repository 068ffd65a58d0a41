"""The optimisers against torch's own, by hand, and across a saved state."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from dunwu.core.errors import CheckpointError
from dunwu.core.recipe import TrainSection
from dunwu.model.config import DecoderConfig, Experts
from dunwu.model.decoder import Decoder, new_decoder
from dunwu.train.objectives import linear_cross_entropy
from dunwu.train.optim import Optimizer, build_optimizer, orthogonalise

CONFIG = DecoderConfig(
    vocab_size=20,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    max_position_embeddings=32,
    qk_norm="head",
)


def train(model: Decoder, optimizer: Optimizer, steps: int, *, first: int = 0, clip: float = 1.0) -> list[float]:
    losses = []
    for step in range(first, first + steps):
        ids = torch.randint(0, 20, (2, 9), generator=torch.Generator().manual_seed(step % 3))
        hidden = model(ids[:, :-1]).flatten(0, 1)
        loss = linear_cross_entropy(hidden, model.head_weight, ids[:, 1:].flatten(), scale=1 / 16)
        loss.backward()
        optimizer.step(1.0, clip)
        losses.append(float(loss.detach()))
    return losses


def test_adamw_and_clipping_equal_torch() -> None:
    ours, theirs = new_decoder(CONFIG, seed=0), new_decoder(CONFIG, seed=0)
    section = TrainSection(optimizer="adamw", weight_decay=0.1, betas=(0.9, 0.99))
    optimizer = build_optimizer(ours, section, (0.0, 1e-2))
    matrices = [p for p in theirs.parameters() if p.ndim >= 2]
    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    reference = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=1e-2,
        betas=(0.9, 0.99),
        foreach=False,
    )
    for step in range(5):
        norms = []
        ids = torch.randint(0, 20, (2, 9), generator=torch.Generator().manual_seed(step))
        for model in (ours, theirs):
            logits = model.logits(model(ids[:, :-1]))
            nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        norms.append(optimizer.step(0.5, 0.3)["grad_norm"])
        norms.append(float(nn.utils.clip_grad_norm_(theirs.parameters(), 0.3)))
        for group in reference.param_groups:
            group["lr"] = 0.5e-2
        reference.step()
        reference.zero_grad()
        assert norms[0] == pytest.approx(norms[1], rel=1e-5)
        assert norms[0] > 0.3
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 12, 40), (1, 40, 12)])
def test_orthogonalised_matrices_have_singular_values_near_one_and_keep_their_directions(
    shape: tuple[int, ...],
) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    inside = u.mT @ orthogonalise(matrices) @ vh.mT
    singular = torch.diagonal(inside, dim1=1, dim2=2)
    assert singular.median() > 0.6
    assert singular.max() < 1.3
    assert (inside - torch.diag_embed(singular)).abs().max() < 1e-3


def test_muon_moves_a_matrix_by_its_orthogonalised_gradient_and_decays_it() -> None:
    model = new_decoder(CONFIG, seed=0)
    optimizer = build_optimizer(model, TrainSection(weight_decay=0.5), (0.1, 0.0))
    matrix = model.model.layers[0].mlp.down_proj.weight
    before = matrix.detach().clone()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    gradient = matrix.grad.clone()
    optimizer.step(0.5, math.inf)
    expected = before * (1 - 0.05 * 0.5) - 0.05 * max(1.0, 16 / 24) ** 0.5 * orthogonalise(gradient[None])[0]
    torch.testing.assert_close(matrix.detach(), expected, atol=1e-5, rtol=1e-4)


def test_muon_takes_the_blocks_matrices_only() -> None:
    optimizer = build_optimizer(new_decoder(CONFIG, seed=0), TrainSection(), (0.02, 1e-3))
    names = set(optimizer.state_tensors())
    assert "adamw.model.embed_tokens.weight.exp_avg" in names
    assert "adamw.model.layers.1.self_attn.q_norm.weight.exp_avg" in names
    assert not any(n.startswith("adamw.") and "_proj" in n for n in names)
    assert {n for n in names if n.startswith("muon.")} == {"muon.16x16", "muon.8x16", "muon.24x16", "muon.16x24"}


MIXTURE = replace(CONFIG, architecture="gpt_oss", qk_norm="none", experts=Experts(
    count=4, per_token=2, intermediate_size=24, scores="softmax_after", router_bias=True, bias=True
))  # fmt: skip


class Apart(nn.Module):
    """The same experts as stacks have, each a matrix of its own."""

    def __init__(self, stacks: list[torch.Tensor]) -> None:
        super().__init__()
        layers = [nn.ParameterList(matrix.detach().clone() for matrix in stack) for stack in stacks]
        self.model = nn.ModuleDict({"layers": nn.ModuleList(layers)})


def test_muon_moves_each_of_stacked_experts_as_if_it_were_held_alone() -> None:
    model = new_decoder(MIXTURE, seed=0)
    stacks = [
        getattr(layer.mlp.experts, f"{name}_proj") for layer in model.model.layers for name in ("gate", "up", "down")
    ]
    alone = Apart(stacks)
    section = TrainSection(weight_decay=0.3)
    together, apart = build_optimizer(model, section, (0.1, 0.0)), build_optimizer(alone, section, (0.1, 0.0))
    for step in range(3):
        for stack, matrices in zip(stacks, alone.model["layers"], strict=True):
            stack.grad = torch.randn(stack.shape, generator=torch.Generator().manual_seed(step))
            for matrix, gradient in zip(matrices.parameters(), stack.grad, strict=True):
                matrix.grad = gradient.clone()
        together.step(1.0, math.inf)
        apart.step(1.0, math.inf)
    for stack, matrices in zip(stacks, alone.model["layers"], strict=True):
        for expert, matrix in zip(stack, matrices.parameters(), strict=True):
            torch.testing.assert_close(expert, matrix, atol=1e-6, rtol=1e-5)


def test_of_a_mixture_muon_takes_the_experts_and_neither_router_nor_biases() -> None:
    optimizer = build_optimizer(new_decoder(MIXTURE, seed=0), TrainSection(), (0.02, 1e-3))
    names = set(optimizer.state_tensors())
    assert "adamw.model.layers.0.mlp.router.weight.exp_avg" in names
    assert "adamw.model.layers.0.mlp.experts.gate_proj_bias.exp_avg" in names
    assert not any(n.startswith("adamw.") and n.endswith("_proj.exp_avg") for n in names)
    assert {n for n in names if n.startswith("muon.")} == {"muon.16x16", "muon.8x16", "muon.24x16", "muon.16x24"}
    undecayed = next(part for part in optimizer.parts if part.name == "adamw").inner.param_groups[1]["params"]
    biases = [p for n, p in new_decoder(MIXTURE, seed=0).named_parameters() if "experts" in n and n.endswith("bias")]
    assert {tuple(p.shape) for p in biases} <= {tuple(p.shape) for p in undecayed}


def test_a_mixture_learns_and_its_saved_state_continues_bit_for_bit() -> None:
    section = TrainSection()
    straight = new_decoder(MIXTURE, seed=0)
    optimizer = build_optimizer(straight, section, (0.02, 1e-2))
    losses = train(straight, optimizer, 30)
    assert losses[-1] < 0.7 * losses[0]
    saved_weights = {n: t.clone() for n, t in straight.state_dict().items()}
    saved_state = {n: t.clone() for n, t in optimizer.state_tensors().items()}
    train(straight, optimizer, 3, first=30)
    resumed = new_decoder(MIXTURE, seed=5)
    resumed.load_state_dict(saved_weights)
    fresh = build_optimizer(resumed, section, (0.02, 1e-2))
    fresh.load_state_tensors(saved_state)
    train(resumed, fresh, 3, first=30)
    for (name, a), b in zip(straight.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_saved_state_continues_bit_for_bit(kind: str) -> None:
    section = TrainSection.model_validate({"optimizer": kind})
    straight = new_decoder(CONFIG, seed=0)
    optimizer = build_optimizer(straight, section, (0.02, 1e-2))
    train(straight, optimizer, 3)
    saved_weights = {n: t.clone() for n, t in straight.state_dict().items()}
    saved_state = {n: t.clone() for n, t in optimizer.state_tensors().items()}
    train(straight, optimizer, 3, first=3)

    resumed = new_decoder(CONFIG, seed=5)
    resumed.load_state_dict(saved_weights)
    fresh = build_optimizer(resumed, section, (0.02, 1e-2))
    fresh.load_state_tensors(saved_state)
    train(resumed, fresh, 3, first=3)
    for (name, a), b in zip(straight.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_either_learns_three_batches_by_heart(kind: str) -> None:
    model = new_decoder(CONFIG, seed=0)
    losses = train(model, build_optimizer(model, TrainSection.model_validate({"optimizer": kind}), (0.02, 1e-2)), 90)
    assert losses[0] > 2.8
    assert losses[-1] < 0.5


def test_a_norm_that_is_not_finite_changes_nothing() -> None:
    model = new_decoder(CONFIG, seed=0)
    optimizer = build_optimizer(model, TrainSection(), (0.02, 1e-3))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    assert math.isnan(optimizer.step(1.0, 1.0)["grad_norm"])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.grad is None for p in model.parameters())


def test_a_state_of_another_model_is_refused() -> None:
    model = new_decoder(CONFIG, seed=0)
    muon = build_optimizer(model, TrainSection(), (0.02, 1e-3))
    adamw = build_optimizer(model, TrainSection(optimizer="adamw"), (0.02, 1e-3))
    with pytest.raises(CheckpointError, match="another model or optimiser"):
        adamw.load_state_tensors(muon.state_tensors())
