"""The decoder against transformers, against itself with a cache, and against itself without packing."""

import math
from dataclasses import replace

import pytest
import torch

from dunwu.model.blocks import mlp, norms, reading, rotary
from dunwu.model.cache import KeyValueCache
from dunwu.model.config import DecoderConfig
from dunwu.model.decoder import initialise, new_decoder

from .helpers import TINY, lively, transformers_twin

VARIANTS = {
    "llama": TINY,
    "llama tied": replace(TINY, tie_word_embeddings=True),
    "llama grouped": replace(TINY, num_key_value_heads=2),
    "llama one key head, wide heads": replace(TINY, num_key_value_heads=1, head_dim=10),
    "llama other theta and epsilon": replace(TINY, rope_theta=500.0, rms_norm_eps=1e-2),
    "qwen3": replace(TINY, architecture="qwen3", qk_norm="head"),
    "qwen3 tied, grouped, wide heads": replace(
        TINY, architecture="qwen3", qk_norm="head", tie_word_embeddings=True, num_key_value_heads=2, head_dim=8
    ),
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def config(request: pytest.FixtureRequest) -> DecoderConfig:
    return request.param


def some_ids(config: DecoderConfig, *shape: int) -> torch.Tensor:
    return torch.randint(0, config.vocab_size, shape, generator=torch.Generator().manual_seed(3))


def test_logits_and_gradients_equal_transformers(config: DecoderConfig) -> None:
    model = lively(config)
    twin = transformers_twin(model)
    ids_BT = some_ids(config, 3, 17)
    ours, theirs = model.logits(model(ids_BT)), twin(ids_BT).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    ours.square().mean().backward()
    theirs.square().mean().backward()
    twins = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, twins[name].grad, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("pieces", [[17], [1] * 17, [9, 1, 1, 6]])
def test_reading_in_pieces_with_a_cache_equals_reading_at_once(config: DecoderConfig, pieces: list[int]) -> None:
    model = lively(config)
    ids_BT = some_ids(config, 2, 17)
    cache = KeyValueCache(config, 2, 20, "cpu", torch.float32)
    with torch.no_grad():
        parts = [model(part, cache=cache) for part in ids_BT.split(pieces, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(ids_BT), atol=1e-5, rtol=1e-5)


def test_left_padded_rows_in_a_cache_equal_each_row_alone(config: DecoderConfig) -> None:
    model = lively(config)
    rows = [some_ids(config, 1, n) for n in (9, 4, 1)]
    cache = KeyValueCache(config, 3, 12, "cpu", torch.float32)
    cache.starts_B = torch.tensor([0, 5, 8])
    padded = torch.cat([torch.nn.functional.pad(r, (9 - r.shape[1], 0)) for r in rows])
    with torch.no_grad():
        together = [model(padded, cache=cache)[:, -1]]
        together.append(model(torch.tensor([[5], [6], [7]]), cache=cache)[:, -1])
        cache.select(torch.tensor([2, 0]))
        after = model(torch.tensor([[9], [8]]), cache=cache)[:, -1]
        for row, ids in enumerate(rows):
            alone = model(torch.cat([ids, torch.tensor([[5 + row]])], dim=1))
            torch.testing.assert_close(together[0][row], alone[0, -2], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(together[1][row], alone[0, -1], atol=1e-5, rtol=1e-5)
        for place, row, last in ((0, 2, 9), (1, 0, 8)):
            alone = model(torch.cat([rows[row], torch.tensor([[5 + row, last]])], dim=1))
            torch.testing.assert_close(after[place], alone[0, -1], atol=1e-5, rtol=1e-5)


def test_packed_documents_equal_each_document_alone(config: DecoderConfig) -> None:
    model = lively(config)
    lengths = [5, 1, 7, 4]
    documents = [some_ids(config, 1, n) for n in lengths]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    numbers = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))[None]
    with torch.no_grad():
        packed = model(torch.cat(documents, dim=1), positions_BT=positions, document_BT=numbers)
        alone = torch.cat([model(d) for d in documents], dim=1)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


def test_a_later_token_never_changes_an_earlier_one(config: DecoderConfig) -> None:
    model = lively(config)
    ids_BT = some_ids(config, 1, 12)
    changed = ids_BT.clone()
    changed[0, 8] = (changed[0, 8] + 1) % config.vocab_size
    with torch.no_grad():
        before, after = model(ids_BT), model(changed)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_a_full_cache_says_so() -> None:
    model = lively(TINY)
    cache = KeyValueCache(TINY, 1, 4, "cpu", torch.float32)
    with pytest.raises(Exception, match="5 tokens do not fit a cache of 4"):
        model(some_ids(TINY, 1, 5), cache=cache)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, again, other = (new_decoder(TINY, seed=s) for s in (1, 1, 2))
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.ndim == 1 or not torch.equal(a, c), name


def test_a_fresh_model_is_nearly_indifferent() -> None:
    config = replace(TINY, vocab_size=500, hidden_size=64, num_hidden_layers=6, head_dim=16)
    model = initialise(new_decoder(config, seed=0), seed=0)
    ids_BT = some_ids(config, 4, 32)
    loss = torch.nn.functional.cross_entropy(model.logits(model(ids_BT))[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten())
    assert abs(float(loss.detach()) - math.log(500.0)) < 0.1


@pytest.mark.parametrize("packed", [False, True])
def test_the_plain_formulas_equal_the_kernels(
    config: DecoderConfig, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    document_BT = torch.tensor([[0] * 4 + [1] * 7, [0] * 9 + [1] * 2]) if packed else None
    hidden, gradients = [], []
    for plain in (False, True):
        if plain:
            for module in (norms, rotary, reading, mlp):
                monkeypatch.setattr(module, "by_hand", lambda x: False)
        model = lively(config)
        hidden.append(model(some_ids(config, 2, 11), document_BT=document_BT))
        hidden[-1].square().mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(hidden[0], hidden[1], atol=1e-5, rtol=1e-5)
    assert len(gradients[0]) == len(gradients[1]) > 0
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_rows_longer_than_the_kernel_keeps_equal_transformers() -> None:
    config = replace(TINY, max_position_embeddings=600, num_key_value_heads=2)
    model = lively(config)
    ids_BT = some_ids(config, 1, 530)
    with torch.no_grad():
        theirs = transformers_twin(model)(ids_BT).logits
        torch.testing.assert_close(model.logits(model(ids_BT)), theirs, atol=1e-4, rtol=1e-3)
