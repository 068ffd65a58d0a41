"""Guesses: whatever is guessed, the same tokens come out, sooner."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.core.errors import ModelError, RecipeError
from dunwu.infer.async_engine import AsyncEngine
from dunwu.infer.constrain import Constraint
from dunwu.infer.engine import Engine
from dunwu.infer.sampling import History, SamplingParams, distribution
from dunwu.infer.speculate import Draft, Endings, PromptLookup
from dunwu.model.config import DecoderConfig
from dunwu.model.count import kv_bytes_per_token
from dunwu.model.decoder import Decoder, new_decoder
from tests.model.test_families import CONFIGS, strong

from .chance import comes_from, counts_of
from .test_engine import CONTEXT, PROMPTS, assert_empty, ids_of, new_engine, plain, request
from .tiny import tiny_model


@pytest.fixture(scope="module")
def near(model) -> Decoder:
    """A draft model: the model itself, a little off, as one that learned the same from less."""
    draft = new_decoder(model.config, seed=0)
    draft.load_state_dict(model.state_dict())
    noise = torch.Generator().manual_seed(3)
    for weight in draft.parameters():
        weight.data += 0.03 * weight.data.std(correction=0) * torch.randn(weight.shape, generator=noise)
    return draft.requires_grad_(False)


@pytest.fixture(scope="module", params=["look-up", "draft", "draft that knows nothing"])
def speculation(request, near, tokenizer):
    return {
        "look-up": PromptLookup(most=4, shortest=1),
        "draft": Draft(near, most=3),
        "draft that knows nothing": Draft(tiny_model(tokenizer.vocab_size, context=20), most=2),
    }[request.param]


def room_for(blocks: int, speculation, model) -> int:
    stores = 2 if isinstance(speculation, Draft) else 1
    return blocks * 4 * kv_bytes_per_token(model.config) * stores


@pytest.mark.parametrize("blocks", [14, 100])
def test_greedy_tokens_are_those_of_the_plain_forward(model, tokenizer, speculation, blocks):
    engine = new_engine(
        model, tokenizer, speculation=speculation, cache_bytes=room_for(blocks, speculation, model), token_budget=16
    )
    wishes = [request(prompt, max_tokens=12, n=1 + place % 2) for place, prompt in enumerate(PROMPTS)]
    for _ in range(2):  # the second time most prompts are found in the cache
        for prompt, one in zip(PROMPTS, engine.run(wishes), strict=True):
            assert set(ids_of(one)) == {plain(model, tokenizer.vocab_size, prompt, 12)}
    stats = engine.stats()
    assert stats.proposed_tokens > 0
    assert (stats.preemptions > 0) == (blocks == 14)
    assert_empty(engine)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "phi3", "deepseek_v3", "gpt_oss"])
def test_other_architectures_too(name, tokenizer):
    from tests.model.test_mixtures import VARIANTS

    config = replace({**CONFIGS, **VARIANTS}[name], vocab_size=tokenizer.vocab_size, tie_word_embeddings=False)
    model = strong(config).requires_grad_(False)
    engine = new_engine(model, tokenizer, speculation=Draft(model, most=3))
    answers = engine.run([request(prompt, max_tokens=9) for prompt in PROMPTS])
    for prompt, one in zip(PROMPTS, answers, strict=True):
        assert ids_of(one) == [plain(model, tokenizer.vocab_size, prompt, 9)]
    assert_empty(engine)


def test_a_draft_that_is_the_model_saves_most_of_the_passes(model, tokenizer):
    engine = new_engine(model, tokenizer, speculation=Draft(model, most=4))
    one = engine.run([request([5], max_tokens=21)])[0].outputs[0]
    assert one.ids == plain(model, tokenizer.vocab_size, [5], 21)
    # The prompt and its first token, then four times four guesses and one more.
    assert engine.stats().steps == 5
    assert (one.usage.proposed_tokens, one.usage.accepted_tokens) == (16, 16)
    assert (engine.stats().proposed_tokens, engine.stats().accepted_tokens) == (16, 16)


def test_a_text_that_repeats_itself_is_looked_up(model, tokenizer):
    repeats = new_decoder(replace(model.config, tie_word_embeddings=True), seed=1).requires_grad_(False)
    repeats.model.embed_tokens.weight.data.mul_(50)
    engine = new_engine(repeats, tokenizer, speculation=PromptLookup(most=4))
    one = engine.run([request([5, 6], max_tokens=24)])[0].outputs[0]
    assert one.ids == plain(repeats, tokenizer.vocab_size, [5, 6], 24) == (6,) * 24
    assert one.usage.accepted_tokens >= 16
    assert engine.stats().steps == 24 - one.usage.accepted_tokens


texts = st.lists(st.integers(0, 250), min_size=1, max_size=CONTEXT + 3)
wishes = st.tuples(texts, st.integers(1, 8), st.integers(0, 3), st.integers(1, 3), st.integers(0, 3))


@settings(max_examples=8, deadline=None)
@given(wishes=st.lists(wishes, min_size=1, max_size=5), blocks=st.integers(13, 40))
def test_a_seed_gives_the_same_tokens_with_and_without_guesses_whatever_else_happens(
    model, tokenizer, speculation, wishes, blocks
):
    styles = (
        {"temperature": 0.0},
        {"temperature": 1.3, "top_p": 0.9},
        {"temperature": 0.8, "frequency_penalty": 1.5, "repetition_penalty": 1.2, "logit_bias": {7: 3.0}},
        {"temperature": 1.0, "min_tokens": 1, "logprobs": 2, "stop": ("a", "e ")},
    )

    def asked():
        return [
            request(text, max_tokens=tokens, seed=seed, n=n, **styles[style]) for text, tokens, seed, n, style in wishes
        ]

    alone = [new_engine(model, tokenizer).run([one])[0] for one in asked()]
    crowded = new_engine(
        model, tokenizer, speculation=speculation, cache_bytes=room_for(blocks, speculation, model), token_budget=12
    )
    ended = crowded.submit(request([1, 2, 3], max_tokens=30))
    for _ in range(3):
        crowded.step()
    crowded.cancel(ended)
    assert crowded.step()[-1].reason == "cancelled"
    for one, other in zip(alone, crowded.run(asked()), strict=True):
        for plain_output, output in zip(one.outputs, other.outputs, strict=True):
            assert (plain_output.ids, plain_output.text, plain_output.finish_reason) == (
                output.ids,
                output.text,
                output.finish_reason,
            )
            assert output.logprobs == pytest.approx(plain_output.logprobs, abs=1e-4)
    assert_empty(crowded)


def test_a_stop_string_in_the_midst_of_right_guesses_ends_the_text_there(model, tokenizer):
    whole = new_engine(model, tokenizer).run([request([5], max_tokens=20)])[0].outputs[0]
    stop = whole.text[3:6]
    engine = new_engine(model, tokenizer, speculation=Draft(model, most=8))
    one = engine.run([request([5], max_tokens=20, stop=(stop,))])[0].outputs[0]
    assert (one.text, one.finish_reason) == (whole.text[: whole.text.find(stop)], "stop")
    assert one.ids == whole.ids[: len(one.ids)]
    assert one.usage.accepted_tokens <= len(one.ids)
    free = plain(model, tokenizer.vocab_size, [5], 12)
    one = engine.run([request([5], max_tokens=12, stop_ids=(free[6],))])[0].outputs[0]
    assert (one.ids, one.finish_reason) == (free[: free.index(free[6])], "stop")
    assert_empty(engine)


def test_grammars_hold_with_guesses(model, tokenizer, speculation):
    pytest.importorskip("llguidance")
    wishes = [
        request([5], max_tokens=40, n=3, temperature=1.0, seed=1, constraint=Constraint.regex("(ab|cd){2,9}")),
        request([6], max_tokens=40, constraint=Constraint.choice(["abababababab", "no"])),
        request([5], max_tokens=12),
    ]
    expected = new_engine(model, tokenizer).run(wishes)
    answers = new_engine(model, tokenizer, speculation=speculation).run(wishes)
    assert [[output.text for output in one.outputs] for one in answers] == [
        [output.text for output in one.outputs] for one in expected
    ]
    for output in answers[0].outputs:
        assert re.fullmatch("(ab|cd){2,9}", output.text)


def test_new_weights_are_used_at_once(tokenizer):
    model, other = (tiny_model(tokenizer.vocab_size, context=CONTEXT) for _ in range(2))
    for weight in other.parameters():
        weight.data.mul_(torch.linspace(0.5, 1.5, weight.shape[-1]))
    draft = tiny_model(tokenizer.vocab_size, context=CONTEXT)
    engine = new_engine(model, tokenizer, speculation=Draft(draft, most=3))
    engine.submit(request([7, 8, 9], id="a", max_tokens=20))
    written = []
    while len(written) < 6:
        written += [event.token_id for event in engine.step()]
    engine.update_weights(other.state_dict())
    before = len(written)
    while engine.busy:
        written += [event.token_id for event in engine.step() if hasattr(event, "token_id")]
    assert tuple(written[:before]) == plain(tiny_model(tokenizer.vocab_size, context=CONTEXT), 280, [7, 8, 9], before)
    assert tuple(written[before:]) == plain(other, tokenizer.vocab_size, [7, 8, 9, *written[:before]], 20 - before)


def test_guesses_are_left_out_where_a_step_is_full(model, tokenizer):
    crowd = [request([number, 3], max_tokens=10) for number in range(8)]
    busy = new_engine(model, tokenizer, speculation=Draft(model, most=4, busy_rows=8), max_sequences=8, token_budget=64)
    busy.run(crowd)
    assert busy.stats().proposed_tokens == 0
    idle = new_engine(model, tokenizer, speculation=Draft(model, most=4, busy_rows=8), max_sequences=8, token_budget=64)
    idle.run(crowd[:1])
    assert idle.stats().proposed_tokens > 0


def test_guesses_wait_for_prompts_and_fit_the_context(model, tokenizer):
    engine = new_engine(model, tokenizer, speculation=Draft(model, most=8), token_budget=8)
    engine.submit(request([5, 6], id="writes", max_tokens=30))
    engine.step()
    engine.submit(request([9] * 40, id="reads"))
    engine.step()
    assert engine.stats().read_tokens == 2 + 8
    assert engine.stats().proposed_tokens == 0
    while engine.busy:
        engine.step()
    full = engine.run([request([9] * (CONTEXT - 5))])[0].outputs[0]
    assert (len(full.ids), full.finish_reason) == (5, "context")


def test_speculation_in_the_thread(model, tokenizer, near):
    async def all_together():
        engine = AsyncEngine(new_engine(model, tokenizer, speculation=Draft(near)))
        try:
            return await asyncio.gather(*(engine.answer(request(prompt, max_tokens=12)) for prompt in PROMPTS))
        finally:
            await engine.close()

    for prompt, one in zip(PROMPTS, asyncio.run(all_together()), strict=True):
        assert ids_of(one) == [plain(model, tokenizer.vocab_size, prompt, 12)]


V = 5
TEXTS = 6_000


class FewIds:
    """Of a tokenizer, what an engine asks where no text is wanted: five ids, none of which ends anything."""

    vocab_size = rows_needed = V
    unused_ids: tuple[int, ...] = ()
    stop_ids: tuple[int, ...] = ()
    special_ids: Mapping[str, int] = {}
    eos_id = 0

    def decode(self, ids, **_) -> str:
        return "".join("abcde"[number] for number in ids)

    def id_bytes(self, number: int) -> bytes:
        return b"abcde"[number : number + 1]


def five_ids(seed: int, scale: float) -> Decoder:
    config = DecoderConfig(
        architecture="qwen3",
        qk_norm="head",
        vocab_size=V,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=16,
        tie_word_embeddings=False,
    )
    decoder = new_decoder(config, seed=seed)
    decoder.lm_head.weight.data.mul_(scale)
    decoder.model.embed_tokens.weight.data.mul_(50)
    return decoder.requires_grad_(False)


@pytest.mark.parametrize("kind", ["look-up", "draft"])
def test_what_is_drawn_follows_the_exact_distribution(kind):
    """All that matters at once: n completions of many seeds, forks, guesses accepted and refused; each text's three tokens."""
    model, draft = five_ids(1, 40.0), five_ids(1, 25.0)
    speculation = Draft(draft, most=2) if kind == "draft" else PromptLookup(most=2, shortest=1)
    engine = Engine(
        model, FewIds(), speculation=replace(speculation, busy_rows=4096), max_sequences=512, token_budget=4096
    )
    prompt, style = [1, 2, 1, 3, 4, 0, 2], {"temperature": 0.9, "top_k": 4}
    answers = [
        engine.run([request(prompt, max_tokens=3, n=500, seed=seed, **style)])[0] for seed in range(TEXTS // 500)
    ]
    found = [output.ids for one in answers for output in one.outputs]

    def shares(*ids: int) -> list[float]:
        params = SamplingParams(**style, seed=0).resolved(())
        logits_1V = model.logits(model(torch.tensor([[*prompt, *ids]]))[0, -1:])
        return distribution(logits_1V, [params], [History(prompt, ids)])[0].tolist()

    expected = [
        one * two * three
        for first, one in enumerate(shares())
        for second, two in enumerate(shares(first))
        for three in shares(first, second)
    ]
    expected = [share if share > 1e-12 else 0.0 for share in expected]
    seen = counts_of([V * V * a + V * b + c for a, b, c in found], V**3)
    assert comes_from(seen, expected)
    assert not comes_from(seen, expected[::-1])
    stats = engine.stats()
    assert 0.1 < stats.accepted_tokens / stats.proposed_tokens < 0.95


def test_look_up_by_hand():
    def follow(ids, most, shortest=2, **values):
        return Endings(shortest, 4, **values).follow(ids, most)

    assert follow([1, 2, 3, 4, 9, 2, 3], 2) == (4, 9)
    assert follow([1, 2, 3, 4, 9, 2, 3], 9) == (4, 9, 2, 3, 4, 9, 2, 3, 4)  # it goes round
    assert follow([5, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3], 1) == (8,)  # the longest match: 1 2 3
    assert follow([2, 3, 7, 2, 3, 8, 2, 3], 1) == (8,)  # of equally long ones the latest
    assert follow([4, 4, 4, 4], 3) == (4, 4, 4)
    assert follow([1, 2, 3], 3) == follow([], 3) == follow([1, 5, 1], 3) == ()
    assert follow([1, 5, 1], 1, shortest=1) == (5,)
    assert follow([1, 2, 9, *range(20, 60), 1, 2], 1, window=10) == ()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 5), st.integers(0, 40))
def test_a_look_up_is_what_followed_the_longest_ending_however_the_text_grew(ids, most, early):
    growing = Endings(2, 4)
    growing.follow(ids[:early], most)
    found = growing.follow(ids, most)
    for length in (4, 3, 2):
        starts = [start for start in range(len(ids) - length) if ids[start : start + length] == ids[-length:]]
        if starts:
            after = ids[starts[-1] + length :]
            assert [*found] == [after[place % len(after)] for place in range(most)]
            return
    assert found == ()


def test_wishes_that_make_no_sense_are_refused(model, tokenizer):
    for wrong in (lambda: PromptLookup(most=0), lambda: Draft(model, most=0), lambda: PromptLookup(shortest=5)):
        with pytest.raises(RecipeError, match="must be at least 1"):
            wrong()
    with pytest.raises(ModelError, match="same tokenizer"):
        new_engine(model, tokenizer, speculation=Draft(tiny_model(50, context=CONTEXT)))
