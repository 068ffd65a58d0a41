"""Vectors of texts, through the same scheduler as everything else."""

import asyncio
from dataclasses import replace

import pytest
import torch

from dunwu.core.errors import DataError, ModelError
from dunwu.infer.async_engine import AsyncEngine
from dunwu.infer.engine import Engine
from dunwu.infer.sampling import SamplingParams
from dunwu.infer.sequence import Request
from dunwu.model.count import kv_bytes_per_token

from .test_engine import CONTEXT, assert_empty, ids_of, new_engine, plain, request

TEXTS = [[5], [7, 8, 9, 10, 11, 12], [6] * 30, [7, 8, 9, 10, 11, 12, 13, 14, 15], [6] * CONTEXT, [3, 4]]


def by_hand(model, text) -> torch.Tensor:
    mean_D = model(torch.tensor([text]))[0].mean(0)
    return mean_D / mean_D.norm()


@pytest.fixture
def engine(model, tokenizer) -> Engine:
    return new_engine(model, tokenizer)


@pytest.mark.parametrize("blocks", [12, 100])
def test_a_vector_is_the_mean_of_the_plain_forward_and_disturbs_nobody(model, tokenizer, blocks):
    engine = new_engine(model, tokenizer, cache_bytes=blocks * 4 * kv_bytes_per_token(model.config))
    running = [request([number, 9], max_tokens=14) for number in (30, 40, 50)]
    for one in running[:2]:
        engine.submit(one)
    written = engine.step()
    vectors_PD = engine.embed(TEXTS)
    assert torch.allclose(vectors_PD, torch.stack([by_hand(model, text) for text in TEXTS]), atol=1e-5)
    while engine.busy:
        written += engine.step()
    for one in running[:2]:
        ids = tuple(event.token_id for event in written if event.id == one.id and hasattr(event, "token_id"))
        assert ids == plain(model, tokenizer.vocab_size, one.prompt_ids, 14)
    assert_empty(engine)


def test_what_was_read_for_a_vector_serves_a_completion_but_not_the_other_way_round(engine, model, tokenizer):
    text = list(range(20, 40))
    engine.embed([text])
    one = engine.run([request(text, max_tokens=3)])[0]
    assert one.outputs[0].usage.cached_tokens == 16
    assert ids_of(one) == [plain(model, tokenizer.vocab_size, text, 3)]
    assert torch.allclose(engine.embed([text])[0], by_hand(model, text), atol=1e-5)


def test_what_has_no_vector_is_refused_and_none_of_its_list_is_read(engine, model):
    with pytest.raises(DataError, match=f"takes {CONTEXT + 1} tokens"):
        engine.embed([[5], [5] * (CONTEXT + 1)])
    with pytest.raises(DataError, match="empty"):
        engine.embed([[]])
    with pytest.raises(DataError, match="params"):
        engine.submit(Request(id="a", prompt_ids=(5,), params=SamplingParams(n=2), task="embed"))
    assert engine.embed([]).numel() == 0
    assert_empty(engine)
    assert engine.stats().read_tokens == 0


def test_a_damaged_model_has_no_vectors(model, tokenizer, monkeypatch):
    engine = new_engine(model, tokenizer)
    weight = model.model.norm.weight
    monkeypatch.setattr(weight, "data", torch.full_like(weight, torch.nan))
    with pytest.raises(ModelError, match="damaged"):
        engine.embed([[5]])
    assert_empty(engine)


def test_vectors_from_the_thread_beside_completions(model, tokenizer):
    async def both():
        engine = AsyncEngine(new_engine(model, tokenizer))
        try:
            wish = request([5], max_tokens=20)
            vectors_PD, one = await asyncio.gather(engine.embed(TEXTS * 4), engine.answer(wish))
            with pytest.raises(DataError, match="takes"):
                await engine.embed([*TEXTS, [5] * 60])
            await engine.drain()
            return vectors_PD, one, engine.open_texts
        finally:
            await engine.close()

    vectors_PD, one, still_open = asyncio.run(both())
    assert torch.allclose(vectors_PD, torch.stack([by_hand(model, text) for text in TEXTS * 4]), atol=1e-5)
    assert ids_of(one) == [plain(model, tokenizer.vocab_size, [5], 20)]
    assert still_open == 0


def test_a_cancelled_vector_frees_its_blocks(engine):
    wish = replace(request([6] * 40), params=SamplingParams(), task="embed")
    engine.submit(wish)
    engine.step()
    assert engine.stats().free_blocks < engine.stats().blocks
    engine.cancel(wish.id)
    assert [event.reason for event in engine.step()] == ["cancelled"]
    assert_empty(engine)
