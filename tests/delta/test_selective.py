"""Methods by which a part of the model's own parameters learns."""

from dataclasses import replace

import pytest
import torch

from dunwu.core.deltas import BitFitSpec, LastLayersSpec, LoraSpec, NormsSpec, PatternSpec, delta_spec
from dunwu.core.errors import ModelError
from dunwu.delta.quantise import quantise
from dunwu.delta.registry import attach
from dunwu.delta.storing import load_delta, save_delta
from dunwu.infer.engine import Engine
from dunwu.infer.sampling import SamplingParams
from dunwu.infer.sequence import Request
from tests.delta.helpers import ALL, assert_comes_and_goes, base, logits, loss_of, same, shake, slopes, state
from tests.infer.tiny import tiny_model, tiny_tokenizer

SPECS = {
    "bitfit": BitFitSpec(),
    "norms": NormsSpec(),
    "last_layers": LastLayersSpec(layers=1),
    "pattern": PatternSpec(targets=("o_proj.*", "model.embed_tokens.weight")),
}


@pytest.mark.parametrize("name", list(ALL))
@pytest.mark.parametrize("spec", list(SPECS.values()), ids=list(SPECS))
def test_on_every_architecture(name, spec, tmp_path):
    model = base(name)
    assert_comes_and_goes(model, spec, tmp_path, refusal="bitfit cannot be merged", idle=0.3, exact=False).detach()
    assert all(parameter.requires_grad or name.endswith("correction") for name, parameter in model.named_parameters())


@pytest.mark.parametrize("spec", list(SPECS.values()), ids=list(SPECS))
def test_gradients_are_those_of_the_formula(spec):
    model = base("llama").double()
    delta = shake(attach(model, spec, seed=0))
    delta.weight = 0.7
    for name, slope, measured in slopes(model, delta):
        assert torch.isclose(measured, slope, rtol=1e-4, atol=1e-8), name


def test_gradients_are_those_of_learning_the_parameter_itself():
    model, twin = base(), base()
    delta = attach(model, PatternSpec(targets=("down_proj.weight",)), seed=0)
    for _ in range(2):  # they add up
        loss_of(model).backward()
        loss_of(twin).backward()
    for name, value in delta.values.items():
        assert torch.allclose(value.grad, twin.get_parameter(name).grad, rtol=1e-5, atol=1e-7)


def test_a_step_shows_at_once_and_in_the_kernels(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    model = tiny_model(tokenizer.vocab_size, context=64)
    engine = Engine(model, tokenizer, prefix_cache=False)
    prompt = Request(id="a", prompt_ids=(5, 6, 7), params=SamplingParams(max_tokens=12, temperature=0.0, stop_ids=()))

    def answer() -> tuple[int, ...]:
        return engine.run([replace(prompt)])[0].outputs[0].ids

    plain = answer()
    delta = attach(model, NormsSpec(), seed=0)
    assert answer() == plain
    with torch.no_grad():
        for value in delta.values.values():
            value += 3.0 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    changed = answer()
    ids = torch.tensor([[5, 6, 7, *changed]])
    assert changed == tuple(model.logits(model(ids))[0, 2:-1].argmax(-1).tolist())
    assert changed != plain
    delta.detach()
    assert answer() == plain


def test_several_on_one_parameter_add_up_and_learn():
    """A third and a half of two differences, and the model's own numbers again once they are off."""
    model = base()
    name = "model.layers.1.mlp.up_proj.weight"
    own = model.get_parameter(name).detach().clone()
    first, second = (shake(attach(model, PatternSpec(targets=(name,)), seed=n), seed=n) for n in (1, 2))
    first.weight, second.weight = 1 / 3, 0.5
    one, two = (delta.values[name].detach().clone() for delta in (first, second))
    logits(model)
    assert torch.allclose(model.get_parameter(name), own + one / 3 + two / 2, atol=1e-6)
    loss_of(model).backward()
    assert torch.allclose(first.values[name].grad * 1.5, second.values[name].grad, atol=1e-7)
    first.merge()
    logits(model)
    assert torch.allclose(model.get_parameter(name), own + one / 3 + two / 2, atol=1e-6)
    second.merge()
    first.unmerge()
    assert torch.allclose(model.get_parameter(name), own + one / 3 + two / 2, atol=1e-6)
    second.detach()
    first.detach()
    assert torch.equal(model.get_parameter(name), own)


def test_merging_lora_into_a_matrix_that_also_learns():
    model = base()
    before = state(model)
    lora = shake(attach(model, LoraSpec(r=2, targets=("o_proj",)), seed=0))
    own = shake(attach(model, LastLayersSpec(layers=2), seed=0))
    both = logits(model)
    for first, second in ((lora, own), (own, lora)):
        first.merge()
        assert torch.allclose(logits(model), both, atol=1e-5 * float(both.abs().max()))
        second.merge()
        assert torch.allclose(logits(model), both, atol=1e-5 * float(both.abs().max()))
        first.unmerge()
        second.unmerge()
        assert torch.equal(logits(model), both)
    own.detach()
    lora.detach()
    assert same(state(model), before)


def test_what_learns():
    tied = base("qwen3")
    assert set(attach(tied, LastLayersSpec(layers=1), seed=0).trained()) == {
        name for name, _ in tied.named_parameters() if name.startswith("model.layers.2.")
    }
    gpt2 = base("gpt2")
    biases = [name for name, _ in gpt2.named_parameters() if name.endswith("bias")]
    assert list(attach(gpt2, BitFitSpec(), seed=0).trained()) == biases
    llama = base()
    added = attach(llama, BitFitSpec(targets=("q_proj", "mlp.*")), seed=0)
    assert added.count == 2 * (24 + 2 * 40 + 24)
    assert "model.layers.0.self_attn.q_proj.bias" in added.trained()
    qwen2 = base("qwen2")
    own = attach(qwen2, BitFitSpec(), seed=0)
    assert own.mergeable
    own.detach()
    assert not attach(qwen2, BitFitSpec(add=True), seed=0).mergeable


def test_on_a_quantised_base():
    model = quantise(base(seed=2), "int8")
    said = logits(model)
    delta = shake(attach(model, NormsSpec(), seed=0))
    bias = shake(attach(model, BitFitSpec(targets=("v_proj",)), seed=0))
    changed = logits(model)
    loss_of(model).backward()
    assert all(value.grad is not None for one in (delta, bias) for value in one.trained().values())
    delta.merge()
    assert torch.allclose(logits(model), changed, atol=1e-5 * float(changed.abs().max()))
    delta.detach()
    bias.detach()
    assert torch.equal(logits(model), said)
    with pytest.raises(ModelError, match="weights of few bits, which cannot learn"):
        attach(model, LastLayersSpec(), seed=0)
    assert model.changes == ()


def test_a_bias_by_hand():
    model = base()
    layer = model.get_submodule("model.layers.0.self_attn.q_proj")
    delta = attach(model, BitFitSpec(targets=("q_proj",)), seed=0)
    x = torch.randn(3, 24)
    before = x @ layer.weight.T
    shake(delta)
    delta.weight = 2.0
    assert torch.allclose(layer(x), before + 2.0 * delta.added["model.layers.0.self_attn.q_proj"], atol=1e-6)


def test_mixed_with_lora_and_loaded_together(tmp_path):
    model = base()
    lora = shake(attach(model, LoraSpec(r=2, targets=("self_attn.*",)), seed=0))
    norms = shake(attach(model, NormsSpec(), seed=0))
    said = logits(model)
    save_delta(lora, tmp_path / "lora")
    save_delta(norms, tmp_path / "norms")
    fresh = base()
    load_delta(tmp_path / "norms", fresh)
    load_delta(tmp_path / "lora", fresh)  # the base is known by what it was before norms stood in it
    assert torch.allclose(logits(fresh), said, atol=1e-5 * float(said.abs().max()))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "last_layers", "layers": 3}, "layers=3 are more than the 2 of this model; use 1 to 2"),
        ({"method": "pattern", "targets": ["q_porj.*"]}, r"'q_porj.\*', which fits nothing in this model; nearest: q_proj.weight"),
        ({"method": "norms", "targets": ["layernorm"]}, "'layernorm', which fits nothing in this model; nearest: .*layernorm"),
        ({"method": "bitfit", "add": False}, "bitfit finds no bias in this model; let it add some"),
        ({"method": "bitfit", "targets": ["q_porj"]}, "'q_porj', which fits nothing in this model; nearest: q_proj"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_model(values, message):
    model = base()
    with pytest.raises(ModelError, match=message):
        attach(model, delta_spec(values), seed=0)
    assert model.changes == ()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_of_another_base(tmp_path):
    save_delta(attach(base(), LastLayersSpec(), seed=0), tmp_path)
    with pytest.raises(ModelError, match="trained on another base"):
        load_delta(tmp_path, base(seed=3))
    other = base("qwen3")
    with pytest.raises(ModelError, match=r"does not fit this model|belongs to another base"):
        load_delta(tmp_path, other, any_base=True)
    assert other.changes == ()
