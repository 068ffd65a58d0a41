"""The mask by Fisher information: which numbers are chosen, that they alone move, and how little is saved."""

import pytest
import torch

from dunwu.core.deltas import FisherSpec, PatternSpec, delta_spec
from dunwu.core.errors import ModelError, RecipeError
from dunwu.delta.registry import attach
from dunwu.delta.storing import load_delta, save_delta
from tests.delta.helpers import ALL, base, ids_of, logits, loss_of, same, shake, slopes, state

SPEC = FisherSpec(share=0.02)


def losses(model, rows=3):
    """The loss of each row."""
    ids = ids_of(model, rows=rows)

    def loss(row):
        said = model.logits(model(row[None, :-1]))
        return torch.nn.functional.cross_entropy(said[0], row[1:])

    return [lambda row=row: loss(row) for row in ids]


@pytest.mark.parametrize("name", list(ALL))
def test_on_every_architecture(name, tmp_path):
    model = base(name)
    before, said = state(model), logits(model)
    delta = attach(model, SPEC, seed=0)
    delta.start_from(losses(model))
    assert torch.equal(logits(model), said)
    assert delta.count == delta.wanted
    shake(delta, size=0.5)
    loss_of(model).backward()
    assert all(value.grad is not None for value in delta.trained().values())
    changed = logits(model)
    assert not torch.allclose(changed, said, atol=1e-3)
    moved = sum(int((tensor != before[key]).sum()) for key, tensor in state(model).items() if key in delta.places)
    assert moved == delta.count
    save_delta(delta, tmp_path)
    assert (tmp_path / "delta.safetensors").stat().st_size < 8 * delta.count + 250 * len(delta.values) + 200
    delta.merge()
    assert torch.equal(logits(model), changed)
    delta.unmerge()
    delta.detach()
    assert same(state(model), before)
    load_delta(tmp_path, model)
    assert torch.equal(logits(model), changed)


def test_the_most_sensitive_are_chosen():
    """The mean of the squared gradients of each loss, by an independent way: the whole model's own gradients."""
    model, twin = base(), base()
    delta = attach(model, FisherSpec(share=0.1, targets=("q_proj.weight", "norm.weight")), seed=0)
    names = delta.candidates
    fisher = {name: torch.zeros_like(twin.get_parameter(name)) for name in names}
    for run in losses(twin):
        twin.zero_grad()
        run().backward()
        for name in names:
            fisher[name] += twin.get_parameter(name).grad.square()
    every = torch.cat([fisher[name].flatten() for name in names])
    threshold = every.sort(descending=True).values[round(0.1 * len(every)) - 1]
    delta.start_from(losses(model))
    for name in names:
        wanted = (fisher[name].flatten() >= threshold).nonzero().flatten().tolist()
        assert delta.places.get(name, torch.tensor([])).tolist() == wanted
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_are_those_of_the_formula():
    model = base().double()
    delta = attach(model, SPEC, seed=0)
    delta.start_from(losses(model))
    shake(delta.double())
    delta.weight = 0.7
    for name, slope, measured in slopes(model, delta):
        assert torch.isclose(measured, slope, rtol=1e-4, atol=1e-8), name


def test_with_another_on_the_same_parameter():
    model = base()
    name = "model.layers.0.mlp.up_proj.weight"
    mask = attach(model, FisherSpec(share=0.1, targets=(name,)), seed=0)
    whole = shake(attach(model, PatternSpec(targets=(name,)), seed=0))
    mask.start_from(losses(model))  # what the other makes of the model counts
    shake(mask)
    mask.weight, whole.weight = 2.0, 0.5
    logits(model)
    wanted = base().get_parameter(name).flatten().clone() + 0.5 * whole.values[name].flatten()
    wanted[mask.places[name].long()] += 2.0 * mask.values[name]
    assert torch.allclose(model.get_parameter(name).flatten(), wanted, atol=1e-6)
    loss_of(model).backward()
    own = whole.values[name].grad.flatten()[mask.places[name].long()]
    assert torch.allclose(mask.values[name].grad, 4.0 * own, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("share", [0, 1.5, -0.1])
def test_shares_that_are_none(share):
    with pytest.raises(RecipeError, match=r"delta\.share="):
        delta_spec({"method": "fisher_mask", "share": share})


def test_what_does_not_fit(tmp_path):
    model = base()
    with pytest.raises(ModelError, match="'q_porj', which fits nothing"):
        attach(model, FisherSpec(targets=("q_porj",)), seed=0)
    delta = attach(model, SPEC, seed=0)
    with pytest.raises(ModelError, match="no batch to take them from"):
        delta.start_from([])
    with pytest.raises(ModelError, match="each batch must give its loss"):
        delta.start_from([lambda: model(ids_of(model))])
    save_delta(attach(base("mistral"), SPEC, seed=0), tmp_path)
    with pytest.raises(ModelError, match="another base"):
        load_delta(tmp_path, base(), any_base=True)
    bad = {**delta.tensors()}
    key = next(name for name in bad if name.endswith(".places"))
    bad[key] = bad[key] + 10**6
    with pytest.raises(ModelError, match="lack; it belongs to another base"):
        delta.load(bad)
