"""Rotary tables against transformers, at lengths within and beyond the trained context, and what caches make of them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dunwu.model.blocks.rotary import attention_factor, crosses_border, plain_frequencies, rotary_tables, rotate
from dunwu.model.cache import KeyValueCache
from dunwu.model.config import DecoderConfig, RopeScaling
from dunwu.model.decoder import Decoder
from dunwu.model.families import config_to_hf

from .helpers import TINY, lively, new_twin, transformers_twin

LLAMA = replace(TINY, head_dim=16, max_position_embeddings=64)
FACTORS = tuple(1.0 + 0.25 * n for n in range(8)), tuple(1.0 + 1.5 * n for n in range(8))
YARN = RopeScaling(kind="yarn", factor=4.0, original_max_position_embeddings=16)
LONGROPE = RopeScaling(
    kind="longrope",
    factor=4.0,
    original_max_position_embeddings=16,
    short_factor=FACTORS[0],
    long_factor=FACTORS[1],
)
SCALINGS = {
    "none": None,
    "linear": RopeScaling(kind="linear", factor=2.5),
    "dynamic": RopeScaling(kind="dynamic", factor=3.3),
    "yarn": YARN,
    "yarn with its attention factor": replace(YARN, attention_factor=0.7),
    "yarn with mscale": replace(YARN, mscale=0.707, mscale_all_dim=1.0, factor=40.0),
    "yarn, other bounds, not truncated": replace(YARN, beta_fast=3.0, beta_slow=0.5, truncate=False),
    "llama3": RopeScaling(
        kind="llama3", factor=8.0, original_max_position_embeddings=32, low_freq_factor=1.0, high_freq_factor=4.0
    ),
    "longrope": LONGROPE,
    "longrope with its attention factor": replace(LONGROPE, attention_factor=1.19),
    "longrope, not longer": replace(LONGROPE, factor=1.0),
}


def their_tables(config: DecoderConfig, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
    rotary: Any = new_twin(config_to_hf(config)).model.rotary_emb
    return rotary(torch.zeros(1), positions_BT)


@pytest.mark.parametrize("last", [0, 15, 16, 63, 64, 200, 5000])
@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
def test_tables_equal_transformers(scaling: RopeScaling | None, last: int) -> None:
    config = replace(LLAMA, rope_scaling=scaling)
    positions_BT = torch.tensor([[0, 3, 7, last], [0, 0, last // 2, last]])
    ours, theirs = (
        rotary_tables(config, positions_BT, local=False, dtype=torch.float32),
        their_tables(config, positions_BT),
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one[:, 0], other[..., :8], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("scaling", [None, YARN, replace(LONGROPE, short_factor=(1.0, 2.0), long_factor=(3.0, 4.0))])
def test_a_part_of_the_head_turns_as_in_transformers(scaling: RopeScaling | None) -> None:
    glm = replace(LLAMA, architecture="glm", rotary_dim=4, rope_interleaved=True, rope_scaling=scaling)
    positions_BT = torch.tensor([[0, 1, 40]])
    ours = rotary_tables(glm, positions_BT, local=False, dtype=torch.float32)
    for one, other in zip(ours, their_tables(glm, positions_BT), strict=True):
        torch.testing.assert_close(one[:, 0], other[..., :2], atol=1e-6, rtol=1e-6)


def test_linear_reads_position_2p_as_plain_reads_p() -> None:
    stretched = replace(LLAMA, rope_scaling=RopeScaling(kind="linear", factor=2.0))
    plain = rotary_tables(LLAMA, torch.tensor([[0, 5, 9]]), local=False, dtype=torch.float64)
    twice = rotary_tables(stretched, torch.tensor([[0, 10, 18]]), local=False, dtype=torch.float64)
    torch.testing.assert_close(plain, twice)


def test_yarn_keeps_the_fast_channels_and_slows_the_slow_ones() -> None:
    config = replace(LLAMA, rope_scaling=replace(YARN, original_max_position_embeddings=4096, attention_factor=1.0))
    one = torch.tensor([[1]])
    plain, stretched = (rotary_tables(c, one, local=False, dtype=torch.float32)[1].asin() for c in (LLAMA, config))
    torch.testing.assert_close(stretched[..., 0], plain[..., 0])
    torch.testing.assert_close(stretched[..., -1], plain[..., -1] / 4.0)


def test_the_local_theta_is_not_stretched() -> None:
    config = replace(
        LLAMA,
        local_rope_theta=50.0,
        rope_scaling=replace(YARN),
        sliding_window=3,
        sliding_layers=(0,),
    )
    plain = replace(LLAMA, rope_theta=50.0)
    positions_BT = torch.arange(30)[None]
    local = rotary_tables(config, positions_BT, local=True, dtype=torch.float32)
    torch.testing.assert_close(local, rotary_tables(plain, positions_BT, local=False, dtype=torch.float32))


def test_attention_factors_by_hand() -> None:
    assert attention_factor(replace(YARN, factor=10.0)) == pytest.approx(1.2302585)
    assert attention_factor(replace(LONGROPE, factor=16.0)) == pytest.approx(2**0.5)
    assert attention_factor(RopeScaling(kind="linear", factor=10.0)) == 1.0


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("turned", [4, 8])
def test_rotation_turns_pairs_and_leaves_the_rest(interleaved: bool, turned: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x_BTHC = torch.randn(2, 5, 3, 8, generator=generator, dtype=torch.float64).requires_grad_()
    angles_B1TC = torch.arange(5)[None, None, :, None] * plain_frequencies(100.0, turned).double()
    out_BHTC = rotate(x_BTHC, angles_B1TC.cos(), angles_B1TC.sin(), interleaved=interleaved)
    x_BHTC = x_BTHC.transpose(1, 2)
    half = turned // 2
    left, right = (
        (x_BHTC[..., :turned:2], x_BHTC[..., 1:turned:2])
        if interleaved
        else (x_BHTC[..., :half], x_BHTC[..., half:turned])
    )
    spun = torch.complex(left, right) * torch.polar(torch.ones_like(angles_B1TC), angles_B1TC)
    parts = (
        torch.stack((spun.real, spun.imag), dim=-1).flatten(-2)
        if interleaved
        else torch.cat((spun.real, spun.imag), dim=-1)
    )
    plain = torch.cat((parts, x_BHTC[..., turned:]), dim=-1)
    torch.testing.assert_close(out_BHTC, plain)
    upstream = torch.randn(plain.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(*(torch.autograd.grad(y, x_BTHC, upstream)[0] for y in (out_BHTC, plain)))


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_a_row_reads_the_same_beside_a_longer_one(name: str) -> None:
    model = lively(replace(LLAMA, rope_scaling=SCALINGS[name]))
    ids_BT = some_ids(2, 80)
    positions_BT = torch.stack((torch.arange(80), torch.arange(80).clamp(max=11)))
    with torch.no_grad():
        together = model(ids_BT, positions_BT=positions_BT)
        torch.testing.assert_close(together[0], model(ids_BT[:1])[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together[1, :12], model(ids_BT[1:, :12])[0], atol=1e-5, rtol=1e-5)


def test_the_border_is_that_of_the_row_that_crosses_it() -> None:
    config = replace(LLAMA, rope_scaling=LONGROPE)
    cache = KeyValueCache(config, 2, 40, "cpu", torch.float32)
    cache.starts_B = torch.tensor([0, 10])
    found: list[int] = []
    for length in range(1, 40):
        cache.length = length - 1
        if crosses_border(config, cache, 1):
            found.append(length)
    assert found == [17, 27]


def some_ids(*shape: int) -> Tensor:
    return torch.randint(0, TINY.vocab_size, shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("time", [12, 40, 90])
@pytest.mark.parametrize("name", ["dynamic", "longrope", "yarn", "linear"])
def test_reading_at_once_within_and_beyond_equals_transformers(name: str, time: int) -> None:
    model = lively(replace(LLAMA, rope_scaling=SCALINGS[name]))
    ids_BT = some_ids(1, time)
    with torch.no_grad():
        theirs = transformers_twin(model)(ids_BT).logits
        torch.testing.assert_close(model.logits(model(ids_BT)), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_a_cache_that_crosses_the_border_keeps_its_keys_as_transformers_does(name: str) -> None:
    model = lively(replace(LLAMA, rope_scaling=SCALINGS[name]))
    twin = transformers_twin(model)
    pieces = some_ids(1, 90).split([10, 4, 46, 20, 1, 9], dim=1)
    cache, past = KeyValueCache(model.config, 1, 90, "cpu", torch.float32), None
    with torch.no_grad():
        for piece in pieces:
            theirs = twin(piece, past_key_values=past, use_cache=True)
            past = theirs.past_key_values
            ours = model.logits(model(piece, cache=cache))
            torch.testing.assert_close(ours, theirs.logits, atol=1e-4, rtol=1e-4)


def greedy(model: Decoder, ids: Tensor, new: int) -> list[int]:
    """Greedy text; the cache is filled anew once the text outgrows the short factors."""
    cache = KeyValueCache(model.config, 1, ids.shape[1] + new, "cpu", torch.float32)
    with torch.no_grad():
        for _ in range(new):
            if crosses_border(model.config, cache, ids.shape[1] - cache.length):
                cache.length = 0
            hidden = model(ids[:, cache.length :], cache=cache)
            ids = torch.cat((ids, model.logits(hidden[:, -1:]).argmax(-1)), dim=1)
    return ids[0].tolist()


def test_greedy_text_across_the_border_equals_transformers() -> None:
    config = replace(
        TINY,
        architecture="phi3",
        head_dim=6,
        rope_scaling=replace(LONGROPE, short_factor=FACTORS[0][:3], long_factor=FACTORS[1][:3]),
    )
    model, prompt = lively(config), some_ids(1, 9)
    theirs = transformers_twin(model).generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=30, do_sample=False, pad_token_id=0
    )
    assert greedy(model, prompt, 30) == theirs[0].tolist()
    assert not crosses_border(TINY, KeyValueCache(TINY, 1, 5, "cpu", torch.float32), 5)
