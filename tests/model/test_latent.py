"""Latent attention: two ways to one result, what it keeps of a token, and what a step of decoding costs."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dunwu.model.blocks.latent import LatentAttention
from dunwu.model.cache import KeyValueCache
from dunwu.model.config import DecoderConfig, Latent
from dunwu.model.decoder import Decoder

from .helpers import TINY, lively

LATENT = Latent(q_rank=10, kv_rank=12, rope_dim=4, nope_dim=6, value_dim=5)
VARIANTS = {
    "plain queries": replace(TINY, head_dim=10, latent=replace(LATENT, q_rank=None), rope_interleaved=True),
    "bottlenecks and biases": replace(
        TINY, head_dim=10, latent=LATENT, attention_bias=True, attention_output_bias=True, attention_scale=0.4
    ),
    "values wider than keys": replace(TINY, head_dim=10, latent=replace(LATENT, value_dim=14)),
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def config(request: pytest.FixtureRequest) -> DecoderConfig:
    return request.param


def some_ids(*shape: int) -> Tensor:
    return torch.randint(0, TINY.vocab_size, shape, generator=torch.Generator().manual_seed(3))


def force(monkeypatch: pytest.MonkeyPatch, *, absorbed: bool) -> None:
    monkeypatch.setattr(LatentAttention, "_absorbing_is_cheaper", lambda *_: absorbed)


@pytest.mark.parametrize("starts", [None, [0, 6]])
@pytest.mark.parametrize("pieces", [[11], [1] * 11, [7, 3, 1]])
def test_absorbed_equals_expanded(
    config: DecoderConfig, pieces: list[int], starts: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, hidden = lively(config), []
    for absorbed in (False, True):
        force(monkeypatch, absorbed=absorbed)
        cache = KeyValueCache(config, 2, 11, "cpu", torch.float32)
        cache.starts_B = None if starts is None else torch.tensor(starts)
        with torch.no_grad():
            hidden.append(torch.cat([model(part, cache=cache) for part in some_ids(2, 11).split(pieces, dim=1)], dim=1))
    torch.testing.assert_close(hidden[0][:, 6:], hidden[1][:, 6:], atol=1e-5, rtol=1e-4)


def test_absorbed_gradients_equal_expanded(config: DecoderConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for absorbed in (False, True):
        force(monkeypatch, absorbed=absorbed)
        model = lively(config)
        cache = KeyValueCache(config, 2, 9, "cpu", torch.float32)
        model(some_ids(2, 9), cache=cache).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.model.layers.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_the_cache_keeps_the_latent_vector_and_the_rotated_channels_alone(config: DecoderConfig) -> None:
    cache = KeyValueCache(config, 3, 7, "cpu", torch.float32)
    kept = sum(part.numel() for part in (*cache.keys, *cache.values))
    assert kept == 3 * 7 * config.num_hidden_layers * (12 + 4)


def step_flops(model: Decoder, source: int) -> int:
    cache = KeyValueCache(model.config, 1, source + 1, "cpu", torch.float32)
    for part in (*cache.keys, *cache.values):
        part.normal_()
    cache.length = source
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(some_ids(1, 1), cache=cache)
    return counter.get_total_flops()


def test_a_step_of_decoding_works_on_the_latent_vectors_alone() -> None:
    config = replace(VARIANTS["plain queries"], num_hidden_layers=1, max_position_embeddings=512)
    model = lively(config)
    heads, rank, rope = 4, 12, 4
    # A source token costs one product with each head's query and one with its weight: no keys and values are made of it.
    assert step_flops(model, 400) - step_flops(model, 300) == 100 * 2 * heads * (2 * rank + rope)


def test_a_long_chunk_expands_and_a_short_one_absorbs() -> None:
    attention = LatentAttention(replace(TINY, head_dim=192, latent=Latent(
        q_rank=None, kv_rank=512, rope_dim=64, nope_dim=128, value_dim=128
    )))  # fmt: skip
    cheaper = [attention._absorbing_is_cheaper(new, 4096) for new in (1, 16, 128, 512, 4095)]
    assert cheaper == [True, True, True, False, False]
    assert not attention._absorbing_is_cheaper(4096, 4096)


class Adapted(nn.Module):
    """A projection with something added, as an adapter does it: `weight` alone is not the whole of it."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner, self.weight = inner, inner.weight
        generator = torch.Generator().manual_seed(9)
        self.added = nn.Parameter(0.3 * torch.randn(inner.weight.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + x @ self.added.T


def test_an_adapted_projection_counts_in_decoding_too() -> None:
    config = VARIANTS["plain queries"]
    model = lively(config)
    for block in model.model.layers:
        attention = block.self_attn
        assert isinstance(attention, LatentAttention)
        attention.kv_b_proj = Adapted(attention.kv_b_proj)  # pyright: ignore[reportAttributeAccessIssue] - as a rewrite does
    ids_BT = some_ids(2, 9)
    cache = KeyValueCache(config, 2, 9, "cpu", torch.float32)
    with torch.no_grad():
        parts = [model(part, cache=cache) for part in ids_BT.split(1, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(ids_BT), atol=1e-5, rtol=1e-4)
