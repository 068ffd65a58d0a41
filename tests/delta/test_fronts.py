"""What stands in front of every text: prefixes and prompts, in packed rows, caches and the engine."""

from dataclasses import replace

import pytest
import torch

from dunwu.core.deltas import LoraSpec, NormsSpec, PrefixSpec, PromptSpec, PTuningV2Spec, delta_spec
from dunwu.core.errors import ModelError, RecipeError
from dunwu.delta.registry import attach
from dunwu.delta.storing import load_delta, save_delta
from dunwu.infer.engine import Engine
from dunwu.model.cache import KeyValueCache
from tests.delta.helpers import ALL, assert_says_the_same, base, ids_of, logits, loss_of, same, shake, slopes, state
from tests.infer.tiny import tiny_model, tiny_tokenizer
from tests.model.helpers import TINY, lively

SPECS = {
    "prefix": PrefixSpec(length=3),
    "prefix out of an MLP": PrefixSpec(length=3, mlp=5),
    "p_tuning_v2": PTuningV2Spec(length=4),
    "prompt": PromptSpec(length=3),
}
SOME = ("tiny", "deepseek_v3")


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in ALL for kind in SPECS if kind in ("prefix", "prompt") or name in SOME]
)
def test_on_every_architecture(name, kind, tmp_path):
    """What it says, learns, and keeps; the same token by token with a cache, and in rows that are padded."""
    model, spec = base(name), SPECS[kind]
    before, said = state(model), logits(model)
    delta = shake(attach(model, spec, seed=1), size=0.3)
    loss_of(model).backward()
    assert all(value.grad is not None and value.grad.any() for value in delta.trained().values())
    assert all(parameter.grad is None for parameter in model.parameters())
    changed = logits(model)
    assert not torch.allclose(changed, said, atol=1e-3)
    ids = ids_of(model)
    for weight in (1.0, 0.6):
        delta.weight = weight
        assert_close(by_token(model, ids), logits(model))
        delta.weight = 1.0
    with pytest.raises(ModelError, match="cannot be merged"):
        delta.merge()
    save_delta(delta, tmp_path)
    with delta.disabled():
        assert torch.equal(logits(model), said)
    delta.detach()
    assert same(state(model), before)
    assert model.changes == ()
    load_delta(tmp_path, model)
    assert_close(logits(model), changed)


def assert_close(one, other):
    assert (one - other).abs().max() <= 3e-5 * other.abs().max()


@torch.no_grad()
def by_token(model, ids):
    """Two rows, the second padded by two columns on the left, read in pieces; the padding is cut off and the row's end too."""
    rows, time = ids.shape
    cache = KeyValueCache(model.config, rows, time + 2, "cpu", torch.float32)
    cache.starts_B = torch.tensor([0, 2])
    padded = torch.cat((ids[1:].new_zeros(1, 2), ids[1:]), dim=1)
    both = torch.cat((torch.cat((ids[:1], ids[:1, :2]), dim=1), padded))
    pieces = [model(both[:, start:end], cache=cache) for start, end in ((0, 4), (4, 5), (5, time + 2))]
    found = model.logits(torch.cat(pieces, dim=1))
    return torch.stack((found[0, :-2], found[1, 2:]))


@pytest.mark.parametrize("name", ["tiny", "gpt2", "mistral", "qwen2", "gemma2", "gpt_oss", "deepseek_v3", "phi3"])
@pytest.mark.parametrize("spec", list(SPECS.values()), ids=list(SPECS))
def test_each_document_of_a_packed_row_sees_it(name, spec):
    model = base(name)
    shake(attach(model, spec, seed=1), size=0.3).weight = 0.8
    ids = ids_of(model, rows=1, time=14)
    document = torch.tensor([[0] * 5 + [1] * 7 + [2] * 2])
    positions = torch.tensor([[*range(5), *range(7), *range(2)]])
    with torch.no_grad():
        packed = model.logits(model(ids, positions_BT=positions, document_BT=document))[0]
    alone = torch.cat([logits(model, part)[0] for part in ids.split((5, 7, 2), dim=1)])
    assert_close(packed, alone)


@pytest.mark.parametrize("name", ["tiny", "gpt2", "qwen3", "gemma3_text", "smollm3", "mixtral", "deepseek_v2"])
def test_a_prompt_is_embeddings_in_front(name):
    """As if its columns were read with each row, and cut off again."""
    model = base(name)
    delta = shake(attach(model, PromptSpec(length=4), seed=1))
    said = logits(model)
    delta.detach()
    ids = ids_of(model)
    swap = model.model.embed_tokens.register_forward_hook(
        lambda _, inputs, output: torch.cat(
            (delta.prompt.detach()[None].expand(len(ids), -1, -1) / model.config.embedding_scale, output[:, 4:]), dim=1
        )
    )
    padded = torch.cat((ids[:, :1].expand(-1, 4), ids), dim=1)
    with_prompt = logits(model, padded)[:, 4:]
    swap.remove()
    assert_close(said, with_prompt)


def test_words_as_a_prefix_are_a_text_in_front():
    """A prefix that starts as words does what these words do when they are read."""
    model = base("llama")
    words = torch.randint(0, model.config.vocab_size, (1, 5), generator=torch.Generator().manual_seed(3))
    ids = ids_of(model, rows=1)
    wanted = logits(model, torch.cat((words, ids), dim=1))[:, 5:]
    for spec in (PrefixSpec(length=5), PromptSpec(length=5)):
        delta = attach(model, spec, seed=3)
        assert_close(logits(model, ids), wanted)
        delta.detach()


def test_attention_by_hand():
    """One head, one layer, one token, one column: the share of the column's value, counted `weight` times."""
    model = lively(replace(TINY, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=24))
    attention = model.get_submodule("model.layers.0.self_attn")
    delta = attach(model, PrefixSpec(length=1, start="random"), seed=0)
    shake(delta, size=1.0)
    delta.weight = 2.0
    caught = []
    attention.register_forward_hook(lambda _, inputs, output: caught.append((inputs[0], output)))
    logits(model, torch.tensor([[7]]))
    x, out = caught[0]
    q = x[0] @ attention.q_proj.weight.T
    k, v = x[0] @ attention.k_proj.weight.T, x[0] @ attention.v_proj.weight.T
    key, value = delta.own[0, :24], delta.own[0, 24:]
    angle = 1.0 / 10_000.0 ** (torch.arange(0, 24, 2) / 24)
    cos, sin = torch.cos(angle).repeat(2), torch.sin(angle).repeat(2)
    turned = q * cos + torch.cat((-q[:, 12:], q[:, :12]), dim=-1) * sin
    own, front = (q * k).sum() / 24**0.5, (turned * key).sum() / 24**0.5
    share = 2.0 * front.exp() / (2.0 * front.exp() + own.exp())
    wanted = (share * value + (1.0 - share) * v) @ attention.o_proj.weight.T
    assert torch.allclose(out[0], wanted, atol=1e-4)


@pytest.mark.parametrize("spec", list(SPECS.values()), ids=list(SPECS))
def test_gradients_are_those_of_the_formula(spec):
    model = base().double()
    delta = shake(attach(model, spec, seed=0).double())
    delta.weight = 0.7
    for name, slope, measured in slopes(model, delta):
        assert torch.isclose(measured, slope, rtol=1e-4, atol=1e-8), name


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "deepseek_v2", "gpt_oss", "phi3"])
@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_the_engine_writes_the_same(name, kind, tmp_path):
    assert_says_the_same(tmp_path, lambda model: shake(attach(model, SPECS[kind], seed=0), size=3.0), name=name)


def test_a_prompt_is_read_anew_when_anything_moves():
    model = base()
    prompt = attach(model, PromptSpec(length=3), seed=0)
    lora = shake(attach(model, LoraSpec(r=2), seed=0))
    norms = shake(attach(model, NormsSpec(), seed=0), size=0.2)

    def fresh():
        prompt._known = None
        return logits(model)

    logits(model)
    for move in (
        lambda: shake(lora),
        lambda: shake(norms),
        lambda: shake(prompt),
        lora.disable,
        lora.enable,
        lora.merge,
        lambda: setattr(norms, "weight", 0.5),
        norms.merge,
    ):
        move()
        assert torch.equal(logits(model), fresh())
    with torch.inference_mode():
        model.logits(model(ids_of(model)))
    loss_of(model).backward()
    assert prompt.prompt.grad.abs().max() > 0


def test_two_in_front_and_lora_beside():
    """A column of weight 0 is not there; two halves of the same prefix are one of it."""
    model = base("mistral without a window")
    one = shake(attach(model, PrefixSpec(length=3, start="random"), seed=0), size=0.5)
    alone = logits(model)
    two = attach(model, PrefixSpec(length=3, start="random"), seed=1)
    two.load({"own": one.own.detach()})
    shake(attach(model, LoraSpec(r=2), seed=0)).weight = 0.0
    two.weight = 0.0
    assert torch.equal(logits(model), alone)
    one.weight = two.weight = 0.5
    ids = ids_of(model)
    # the same keys, six positions away, not three
    one.detach()
    two.detach()
    double = attach(model, PrefixSpec(length=6, start="random"), seed=0)
    double.load({"own": torch.cat((one.own.detach(), two.own.detach()))})
    double.weight = 0.5
    wanted = logits(model, ids)
    double.detach()
    first = attach(model, PrefixSpec(length=3, start="random"), seed=0)
    first.load({"own": one.own.detach()})
    second = attach(model, PrefixSpec(length=3, start="random"), seed=0)
    second.load({"own": one.own.detach()})
    first.weight = second.weight = 0.5
    assert model.columns_in_front == 6
    assert_close(logits(model, ids), wanted)


def test_room_for_positions(tmp_path):
    model = base("gpt2")
    attach(model, PromptSpec(length=8), seed=0)
    logits(model, ids_of(model, rows=1, time=120))
    with pytest.raises(ModelError, match="129 tokens are more than the 128"):
        logits(model, ids_of(model, rows=1, time=121))
    tokenizer = tiny_tokenizer(tmp_path)
    network = tiny_model(tokenizer.vocab_size, context=64)
    attach(network, PrefixSpec(length=8), seed=0)
    engine = Engine(network, tokenizer)
    assert engine.context_length == 56
    with pytest.raises(ModelError, match="a prefix or a prompt in front of all texts; take that off first"):
        engine.add_adapter("a", {})


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"method": "prefix", "length": 0}, RecipeError, "delta.length=0: must be at least 1"),
        ({"method": "prompt", "length": 64}, ModelError, "length=64 leaves no room for a text among the 64 positions"),
        ({"method": "prompt", "mlp": 3}, RecipeError, "with method: prompt there is no mlp"),
        ({"method": "prefix", "mlp": -1}, RecipeError, "delta.mlp=-1"),
        ({"method": "prefix", "start": "text"}, RecipeError, "delta.start='text'"),
    ],
)
def test_what_does_not_fit(values, error, message):
    model = base()
    with pytest.raises(error, match=message):
        attach(model, delta_spec(values), seed=0)
    assert model.changes == ()


def test_a_column_does_not_count_less_than_never():
    delta = attach(base(), PrefixSpec(length=2), seed=0)
    with pytest.raises(ModelError, match=r"prefix cannot weigh -0\.5"):
        delta.weight = -0.5
    assert delta.weight == 1.0
