"""Each member is updated as torch would update it alone."""

import pytest
import torch
from torch import nn

from dunwu.core.errors import CheckpointError, RecipeError
from dunwu.lab.grok.optimisers import MOMENTUM, Optimiser

DECAYS = [0.0, 0.3, 2.0]
BETAS = (0.9, 0.98)
THEIRS = {
    "adamw": lambda p, decay: torch.optim.AdamW([p], lr=0.01, betas=BETAS, weight_decay=decay),
    "adam": lambda p, decay: torch.optim.Adam([p], lr=0.01, betas=BETAS, weight_decay=decay),
    "sgd": lambda p, decay: torch.optim.SGD([p], lr=0.01, momentum=MOMENTUM, weight_decay=decay),
}


def new(name="adamw"):
    weight = nn.Parameter(torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)))
    return weight, Optimiser(name, {"w": weight}, lr=0.01, decays=DECAYS, betas=BETAS)


def step(weight, optimiser, number):
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
    optimiser.step(1.0)


@pytest.mark.parametrize("name", THEIRS)
def test_members_decay_each_on_their_own(name):
    weight, ours = new(name)
    singles = [nn.Parameter(weight.detach()[member].clone()) for member in range(3)]
    theirs = [THEIRS[name](single, decay) for single, decay in zip(singles, DECAYS, strict=True)]
    for number in range(20):
        step(weight, ours, number)
        gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
        for member, optimiser in enumerate(theirs):
            singles[member].grad = gradient[member]
            optimiser.step()
    assert torch.allclose(weight, torch.stack(singles), atol=1e-6)


@pytest.mark.parametrize("name", THEIRS)
def test_a_loaded_state_goes_on_to_the_bit(name):
    weight, ours = new(name)
    for number in range(3):
        step(weight, ours, number)
    weights, tensors = weight.detach().clone(), {key: value.clone() for key, value in ours.tensors().items()}
    step(weight, ours, 3)
    other, theirs = new(name)
    with torch.no_grad():
        other.copy_(weights)
    theirs.load(tensors)
    step(other, theirs, 3)
    assert torch.equal(weight, other)


def test_a_state_of_another_network_is_refused():
    _, ours = new("adamw")
    _, theirs = new("sgd")
    with pytest.raises(CheckpointError, match="belongs to other networks"):
        ours.load(theirs.tensors())


def test_an_optimiser_that_is_not_there_is_named():
    with pytest.raises(RecipeError, match="optimizer 'lion' is not known; use adamw, adam, sgd"):
        new("lion")
