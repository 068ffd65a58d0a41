"""LoRA's kin: each begins as the base, learns, merges to the same logits, and comes off without a trace."""

import json

import pytest
import torch

from dunwu.core.deltas import DoraSpec, EvaSpec, LoraSpec, PissaSpec, VeraSpec
from dunwu.core.errors import ModelError
from dunwu.delta.lora import LowRank
from dunwu.delta.pissa import principal
from dunwu.delta.places import places
from dunwu.delta.registry import attach
from dunwu.delta.storing import load_delta, save_delta
from tests.delta.helpers import base, ids_of, logits, loss_of, same, shake, slopes, state

SPECS = {
    "dora": DoraSpec(r=2, alpha=3),
    "pissa": PissaSpec(r=2, alpha=3),
    "eva": EvaSpec(r=2, alpha=3),
    "vera": VeraSpec(r=8),
}


def started(model, spec, seed=1):
    delta = attach(model, spec, seed=seed)
    ids = ids_of(model)
    delta.start_from([lambda: model(ids), lambda: model(ids.flip(0))])
    return delta


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3", "phi3", "gemma2", "qwen2_moe", "deepseek_v3", "gpt_oss"])
@pytest.mark.parametrize("method", list(SPECS))
def test_each_on_many_architectures(method, architecture, tmp_path):
    model = base(architecture)
    before, said = state(model), logits(model)
    delta = started(model, SPECS[method])
    near = 1e-5 * float(said.abs().max())
    assert torch.allclose(logits(model), said, atol=near)  # it begins as the base
    shake(delta)
    loss_of(model).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in delta.trained().values())
    assert all(parameter.grad is None for parameter in model.parameters())
    changed = logits(model)
    assert not torch.allclose(changed, said, atol=100 * near)
    near = 2e-5 * float(changed.abs().max())
    for weight in (1.0, 0.5):
        delta.weight = weight
        weighed = logits(model)
        delta.merge()
        assert torch.allclose(logits(model), weighed, atol=near)
        delta.unmerge()
        assert same(state(model), before)
    save_delta(delta, tmp_path)
    again = load_delta(tmp_path, base(architecture))
    assert torch.allclose(logits(again.model), changed, atol=near)
    delta.detach()
    assert torch.equal(logits(model), said)


@pytest.mark.parametrize("method", list(SPECS))
def test_gradients_are_those_of_finite_differences(method):
    model = base()
    delta = shake(started(model, SPECS[method]))
    if (
        method == "dora"
    ):  # the length that is divided by has no gradient, by intent: only the lengths that learn are checked
        for pair in delta.pairs.values():
            pair.a.requires_grad_(False)
            pair.b.requires_grad_(False)
    model.double()
    delta.double()
    for name, slope, measured in slopes(model, delta):
        assert torch.isclose(measured, slope, rtol=1e-3, atol=1e-7), name


def test_dora_by_hand():
    model = base()
    name = "model.layers.0.mlp.up_proj"
    layer = model.get_submodule(name)
    delta = shake(attach(model, DoraSpec(r=2, alpha=4, targets=(name,)), seed=0))
    pair = delta.pairs[name]
    turned = layer.weight + 2.0 * pair.b @ pair.a
    x = torch.randn(3, 24)
    wanted = x @ (pair.magnitude[:, None] * turned / turned.norm(dim=1, keepdim=True)).T
    assert torch.allclose(layer(x), wanted, atol=1e-5)


def test_the_principal_part_is_that_of_the_decomposition():
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(size, 60, generator=generator)).Q for size in (200, 90))
    matrix = left @ torch.diag(0.7 ** torch.arange(60)) @ right.T  # values that fall: the drawn directions find them
    b, a = principal(matrix, 4, generator)
    best = left[:, :4] @ torch.diag(0.7 ** torch.arange(4)) @ right[:, :4].T
    assert torch.allclose(b @ a, best, atol=1e-5)
    assert torch.allclose(b.norm(dim=0), a.norm(dim=1), atol=1e-5)


def test_pissa_learns_the_principal_part_and_others_read_it_as_lora(tmp_path):
    model = base()
    delta = attach(model, PissaSpec(r=3, alpha=6, targets=("q_proj",)), seed=0)
    pair = delta.pairs["model.layers.0.self_attn.q_proj"]
    weight = model.get_submodule("model.layers.0.self_attn.q_proj").weight
    left, values, right = torch.linalg.svd(weight)
    assert torch.allclose(2.0 * pair.b @ pair.a, left[:, :3] @ torch.diag(values[:3]) @ right[:3], atol=1e-4)
    shake(delta)
    save_delta(delta, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], set(config["rank_pattern"].values())) == (3, {6})
    assert type(next(iter(load_delta(tmp_path, base()).pairs.values()))) is LowRank


def test_eva_gives_rank_to_where_inputs_vary_most():
    model = base()
    with torch.no_grad():  # what the first layer's queries are given lies in a plane; elsewhere it does not
        model.get_submodule("model.layers.0.input_layernorm").weight[2:] = 0.0
    delta = attach(model, EvaSpec(r=4, rho=2.0, targets=("q_proj", "o_proj")), seed=0)
    watched = []
    module = model.get_submodule("model.layers.0.self_attn.o_proj")
    handle = module.register_forward_pre_hook(lambda _, inputs: watched.append(inputs[0].flatten(0, -2)))
    ids = ids_of(model)
    delta.start_from([lambda: model(ids), lambda: model(ids + 1)])
    handle.remove()
    ranks = {name: pair.rank for name, pair in delta.pairs.items()}
    assert ranks["model.layers.0.self_attn.q_proj"] == 2
    assert sum(ranks.values()) <= 4 * 4
    pair = delta.pairs["model.layers.0.self_attn.o_proj"]
    right = torch.linalg.svd(torch.cat(watched), full_matrices=False).Vh[: pair.rank]
    assert torch.allclose((pair.a @ right.T).abs(), torch.eye(pair.rank), atol=0.05)
    assert all(own.scale == 2.0 for own in delta.pairs.values())


def test_they_say_what_they_cannot():
    model = base("qwen3_moe")
    for method in ("dora", "vera", "eva"):
        spec = SPECS[method].model_copy(update={"targets": ("experts.up_proj",)})
        with pytest.raises(ModelError, match=f"{method} has no form for model.layers.*a stack of experts"):
            attach(model, spec, seed=0)
    assert model.changes == ()


def test_mixed_on_one_model():
    """Different methods together: what they do adds up on different matrices, merged in any order."""
    model = base("llama")
    before = state(model)
    deltas = [
        shake(attach(model, spec.model_copy(update={"targets": (target,)}), seed=seed), seed=seed)
        for seed, (spec, target) in enumerate(
            [(SPECS["dora"], "q_proj"), (LoraSpec(r=2), "v_proj"), (SPECS["vera"], "mlp.*"), (SPECS["pissa"], "o_proj")]
        )
    ]
    changed = logits(model)
    for delta in reversed(deltas):
        delta.merge()
    assert torch.allclose(logits(model), changed, atol=2e-5 * float(changed.abs().max()))
    for delta in deltas:
        delta.unmerge()
    assert same(state(model), before)
    assert {place.name for place in places(model).values()} >= set(deltas[0].pairs)
