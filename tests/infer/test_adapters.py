"""Requests of several adapters in one pass: each gets what it would from a model into which its own was merged."""

from dataclasses import replace

import pytest
import torch

from dunwu.core.errors import ModelError
from dunwu.infer.adapters import LowRank
from dunwu.infer.speculate import Draft
from dunwu.model.decoder import Decoder, new_decoder

from .test_engine import PROMPTS, assert_empty, ids_of, new_engine, plain, request
from .tiny import tiny_model

LAYERS = {
    "a": [
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
        "model.layers.1.self_attn.o_proj",
        "model.layers.1.mlp.down_proj",
    ],
    "b": ["model.layers.0.self_attn.v_proj", "model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.k_proj"],
    "c": ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.gate_proj", "model.layers.1.mlp.up_proj"],
}


def new_adapter(model: Decoder, name: str, *, seed: int) -> dict[str, LowRank]:
    noise = torch.Generator().manual_seed(seed)
    weights: dict[str, LowRank] = {}
    for layer in LAYERS[name]:
        outputs, inputs = model.get_submodule(layer).weight.shape
        rank = 2 + seed % 3
        a, b = (torch.randn(shape, generator=noise) for shape in ((rank, inputs), (outputs, rank)))
        weights[layer] = LowRank(a, b, 2.0 * (1 + seed))
    return weights


def merged(model: Decoder, weights: dict[str, LowRank]) -> Decoder:
    result = new_decoder(model.config, seed=0)
    result.load_state_dict(model.state_dict())
    for layer, one in weights.items():
        result.get_submodule(layer).weight.data += one.scale * one.b @ one.a
    return result.requires_grad_(False)


@pytest.mark.parametrize("guesses", [False, True])
def test_each_request_has_its_own_adapter_in_one_pass(model, tokenizer, guesses):
    engine = new_engine(
        model, tokenizer, max_sequences=12, token_budget=20, speculation=Draft(model, most=3) if guesses else None
    )
    adapters = {name: new_adapter(model, name, seed=seed) for seed, name in enumerate(LAYERS)}
    models = {name: merged(model, weights) for name, weights in adapters.items()}
    for name, weights in adapters.items():
        engine.add_adapter(name, weights)
    shared = list(range(20, 40))  # the same beginning for all: none may find another's keys
    wishes = [
        replace(request(prompt, max_tokens=9, n=1 + place % 2), adapter=name)
        for place, prompt in enumerate([shared, *PROMPTS[:4]])
        for name in (None, *LAYERS)
    ]
    seen = set()
    for _ in range(2):
        for wish, one in zip(wishes, engine.run(wishes), strict=True):
            own = model if wish.adapter is None else models[wish.adapter]
            expected = plain(own, tokenizer.vocab_size, wish.prompt_ids, 9)
            assert set(ids_of(one)) == {expected}
            if wish.prompt_ids == tuple(shared):
                seen.add(expected)
    assert len(seen) == 4  # each adapter made a difference
    assert engine.stats().hit_tokens > 0
    assert_empty(engine)


def test_beams_and_vectors_with_an_adapter(model, tokenizer):
    weights = new_adapter(model, "c", seed=2)
    engine, other = new_engine(model, tokenizer), new_engine(merged(model, weights), tokenizer)
    engine.add_adapter("c", weights)
    search = request([5, 6], max_tokens=5, beams=3)
    assert ids_of(engine.run([replace(search, adapter="c")])[0]) == ids_of(other.run([search])[0])
    wish = replace(request([5, 6, 7]), params=type(search.params)(), task="embed")
    mine = engine.run([replace(wish, adapter="c")])[0].embedding
    assert mine == pytest.approx(other.run([wish])[0].embedding, abs=1e-5)


def test_an_adapter_that_goes_leaves_nothing_behind(tokenizer):
    model = tiny_model(tokenizer.vocab_size, context=48)
    engine = new_engine(model, tokenizer)
    prompt = list(range(20, 40))
    before = engine.run([request(prompt, max_tokens=6)])[0]
    first, second = new_adapter(model, "a", seed=0), new_adapter(model, "b", seed=1)
    engine.add_adapter("x", first)
    wish = replace(request(prompt, max_tokens=6), adapter="x")
    assert ids_of(engine.run([wish])[0]) == [plain(merged(model, first), tokenizer.vocab_size, prompt, 6)]
    engine.submit(wish)
    with pytest.raises(ModelError, match="1 requests are being answered"):
        engine.remove_adapter("x")
    engine.cancel(wish.id)
    engine.step()
    engine.remove_adapter("x")
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ModelError, match="no adapter 'x'"):
        engine.submit(wish)
    engine.add_adapter("x", second)  # another of the same name: what the first one read serves it not
    assert ids_of(engine.run([wish])[0]) == [plain(merged(model, second), tokenizer.vocab_size, prompt, 6)]
    assert ids_of(engine.run([request(prompt, max_tokens=6)])[0]) == ids_of(before)


def test_what_does_not_fit_the_model_is_refused(model, tokenizer):
    engine = new_engine(model, tokenizer)
    good = new_adapter(model, "a", seed=0)
    layer = LAYERS["a"][0]
    engine.add_adapter("a", good)
    for name, weights, message in (
        ("a", good, "already"),
        ("b", {"model.layers.7.mlp.up_proj": good[layer]}, "no linear layer"),
        ("b", {"lm_head": good[layer]}, "no linear layer"),
        ("b", {layer: LowRank(torch.zeros(2, 5), torch.zeros(32, 2))}, "takes 32 and gives 32 channels"),
        ("b", {layer: LowRank(torch.zeros(2, 32), torch.zeros(32, 3))}, r"give \[r, in\]"),
    ):
        with pytest.raises(ModelError, match=message):
            engine.add_adapter(name, weights)
    with pytest.raises(ModelError, match="there are: a"):
        engine.remove_adapter("b")
