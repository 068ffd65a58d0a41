"""The engine from outside: the tokens of the plain forward pass, whatever else is in the batch; text, ends, errors."""

import asyncio
import math
import re
import time
from dataclasses import replace
from itertools import count

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwu.core.errors import BusyError, DataError, ModelError, RecipeError
from dunwu.infer import engine as engine_module
from dunwu.infer import sieve
from dunwu.infer.async_engine import AsyncEngine
from dunwu.infer.constrain import Constraint
from dunwu.infer.engine import Engine
from dunwu.infer.events import Answer, FinishEvent, TokenEvent
from dunwu.infer.sampling import SamplingParams
from dunwu.infer.sequence import Request
from dunwu.infer.speculate import PromptLookup
from dunwu.infer.writer import Writer
from dunwu.model.count import kv_bytes_per_token
from dunwu.tokenizer.load import load_tokenizer
from tests.model.test_families import CONFIGS, strong
from tests.model.test_mixtures import VARIANTS
from tests.tokenizer import foreign

from .tiny import tiny_model

CONTEXT = 48
_numbers = count()


def request(prompt, *, id=None, priority=0, **params) -> Request:
    params.setdefault("stop_ids", ())
    return Request(
        id=id or f"request {next(_numbers)}",
        prompt_ids=tuple(prompt),
        params=SamplingParams(**params),
        priority=priority,
    )


def plain(model, vocabulary: int, prompt, tokens: int) -> tuple[int, ...]:
    """Greedy tokens with no cache at all: the whole text is read again for each."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(tokens):
            ids.append(int(model.logits(model(torch.tensor([ids]))[0, -1])[:vocabulary].argmax()))
    return tuple(ids[len(prompt) :])


def new_engine(model, tokenizer, **settings) -> Engine:
    return Engine(model, tokenizer, **{"block_size": 4, "max_sequences": 4, "token_budget": 8, **settings})


def ids_of(one: Answer) -> list[tuple[int, ...]]:
    return [output.ids for output in one.outputs]


@pytest.fixture
def engine(model, tokenizer) -> Engine:
    return new_engine(model, tokenizer)


def assert_empty(engine: Engine) -> None:
    stats = engine.stats()
    assert (stats.waiting, stats.running, stats.free_blocks) == (0, 0, stats.blocks)
    assert not engine.busy


PROMPTS = [[5], [7, 8, 9, 10, 11, 12], [30, 31], [100, 3, 44, 90], [6] * 20, [7, 8, 9, 10, 11, 12, 13]]


@pytest.mark.parametrize("blocks", [12, 100])
def test_greedy_tokens_are_those_of_the_plain_forward(model, tokenizer, blocks):
    engine = new_engine(model, tokenizer, cache_bytes=blocks * 4 * kv_bytes_per_token(model.config))
    answers = engine.run(request(prompt, max_tokens=12) for prompt in PROMPTS)
    for prompt, one in zip(PROMPTS, answers, strict=True):
        assert ids_of(one) == [plain(model, tokenizer.vocab_size, prompt, 12)]
        assert one.outputs[0].text == tokenizer.decode(one.outputs[0].ids)
        assert one.outputs[0].finish_reason == "length"
    assert (engine.stats().preemptions > 0) == (blocks == 12)
    assert_empty(engine)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "phi3", "deepseek_v3", "gpt_oss"])
def test_other_architectures_too(name, tokenizer):
    config = replace({**CONFIGS, **VARIANTS}[name], vocab_size=tokenizer.vocab_size, tie_word_embeddings=False)
    model = strong(config).requires_grad_(False)
    engine = new_engine(model, tokenizer, cache_bytes=12 * 4 * kv_bytes_per_token(config))
    answers = engine.run([request(prompt, max_tokens=9, n=1 + place % 2) for place, prompt in enumerate(PROMPTS)])
    for prompt, one in zip(PROMPTS, answers, strict=True):
        assert set(ids_of(one)) == {plain(model, tokenizer.vocab_size, prompt, 9)}
    assert_empty(engine)


texts = st.lists(st.integers(0, 250), min_size=1, max_size=CONTEXT + 3)
wishes = st.tuples(texts, st.integers(1, 8), st.integers(0, 3), st.integers(1, 3), st.booleans())


@settings(max_examples=12, deadline=None)
@given(st.lists(wishes, min_size=1, max_size=6), st.integers(12, 40))
def test_a_seed_gives_the_same_tokens_whatever_else_happens(model, tokenizer, wishes, blocks):
    def asked():
        return [
            request(text, max_tokens=tokens, seed=seed, n=n, temperature=1.3 if hot else 0.0, top_p=0.9)
            for text, tokens, seed, n, hot in wishes
        ]

    alone = [new_engine(model, tokenizer).run([one])[0] for one in asked()]
    crowded = new_engine(model, tokenizer, cache_bytes=blocks * 4 * kv_bytes_per_token(model.config))
    ended = crowded.submit(request([1, 2, 3], max_tokens=30))
    crowded.step()
    crowded.cancel(ended)
    assert [event.reason for event in crowded.step()] == ["cancelled"]
    together = crowded.run(asked())
    for one, other in zip(alone, together, strict=True):
        assert [(out.ids, out.finish_reason, out.text) for out in one.outputs] == [
            (out.ids, out.finish_reason, out.text) for out in other.outputs
        ]
    assert_empty(crowded)


def test_completions_of_one_prompt_share_it_and_differ(engine, model, tokenizer):
    one = engine.run([request([9] * 21, max_tokens=6, n=7, temperature=5.0, seed=4)])[0]
    assert [output.index for output in one.outputs] == list(range(7))
    assert len(set(ids_of(one))) == 7
    # Four run at once and fork; the three that had to wait read the last, unfinished block anew.
    stats = engine.stats()
    assert stats.read_tokens - 7 * 5 <= 21 + 3 * 4
    assert_empty(engine)


def test_a_shared_beginning_is_read_once_and_usage_says_so(engine):
    beginning = list(range(20, 40))
    usages = [one.outputs[0].usage for one in engine.run(request([*beginning, 50 + n], max_tokens=1) for n in range(4))]
    assert [usage.cached_tokens for usage in usages] == [0, 20, 20, 20]
    assert {(usage.prompt_tokens, usage.completion_tokens) for usage in usages} == {(21, 1)}
    stats = engine.stats()
    assert (stats.hit_tokens, stats.prompt_tokens, stats.read_tokens) == (60, 84, 24)
    off = new_engine(engine.model, engine.tokenizer, prefix_cache=False)
    assert [
        one.outputs[0].usage.cached_tokens for one in off.run(request(beginning, max_tokens=1) for _ in range(2))
    ] == [0, 0]


def test_a_continuation_keeps_the_space_before_its_first_word(tmp_path):
    tokenizer = load_tokenizer(foreign.llama2(tmp_path))
    prompt = tokenizer.encode("the quick")
    word = tokenizer.encode("dog")[0]
    engine = new_engine(tiny_model(tokenizer.vocab_size, context=CONTEXT), tokenizer)
    output = engine.run([request(prompt, max_tokens=2, logit_bias={word: 100.0})])[0].outputs[0]
    assert tokenizer.decode(prompt) + output.text == tokenizer.decode([*prompt, *output.ids])
    assert output.text.startswith(" ")


def test_stop_ids_end_a_text_and_are_not_in_it(engine, model, tokenizer):
    free = plain(model, tokenizer.vocab_size, [5], 12)
    output = engine.run([request([5], max_tokens=12, stop_ids=(free[6],))])[0].outputs[0]
    assert (output.ids, output.finish_reason) == (free[: free.index(free[6])], "stop")


def test_a_full_context_ends_a_text(engine):
    outputs = [
        one.outputs[0] for one in engine.run([request([9] * (CONTEXT - 2)), request([9] * CONTEXT), request([9] * 60)])
    ]
    assert [(len(output.ids), output.finish_reason) for output in outputs] == [
        (2, "context"),
        (0, "context"),
        (0, "context"),
    ]


def test_logprobs_of_completion_and_prompt_are_those_of_the_plain_forward(model, tokenizer):
    prompt = [7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]
    engine = new_engine(model, tokenizer, cache_bytes=12 * 4 * kv_bytes_per_token(model.config))
    wanted = request(prompt, max_tokens=20, logprobs=3, prompt_logprobs=2, temperature=1.0, seed=1)
    crowd = [request([number] * 20, max_tokens=20) for number in range(3)]
    one = engine.run([crowd[0], wanted, *crowd[1:]])[1]
    output = one.outputs[0]
    logits_TV = model.logits(model(torch.tensor([[*prompt, *output.ids]]))[0])
    logits_TV[:, [*tokenizer.unused_ids]] = -math.inf
    logprobs_TV = logits_TV[:, : tokenizer.vocab_size].log_softmax(-1)
    assert one.prompt is not None
    assert one.prompt[0] is None
    assert len(one.prompt) == len(prompt)
    for place, token in enumerate(one.prompt[1:]):
        assert token.logprob == pytest.approx(float(logprobs_TV[place, prompt[place + 1]]), abs=1e-4)
        assert [scored.id for scored in token.top] == logprobs_TV[place].topk(2).indices.tolist()
    for place, (number, logprob, top) in enumerate(zip(output.ids, output.logprobs, output.top_logprobs, strict=True)):
        row_V = logprobs_TV[len(prompt) - 1 + place]
        assert logprob == pytest.approx(float(row_V[number]), abs=1e-4)
        assert [scored.id for scored in top] == row_V.topk(3).indices.tolist()


def test_cancelling_frees_blocks_at_any_step(engine):
    for steps in range(6):
        ids = [engine.submit(request([number] * 15, max_tokens=9, n=2)) for number in range(3)]
        for _ in range(steps):
            engine.step()
        assert all(engine.cancel(one) for one in ids)
        ends = [event for event in engine.step() if isinstance(event, FinishEvent)]
        assert len(ends) == 6
        assert {end.reason for end in ends} == {"cancelled"}
        assert not engine.cancel(ids[0])
        assert_empty(engine)


def test_an_error_of_one_hurts_nobody_else(model, tokenizer):
    class Broken:
        def __init__(self, fails: str) -> None:
            self.fails = fails

        finished = False

        def mask(self):
            if self.fails == "mask":
                raise ValueError("the grammar is stuck")
            return torch.zeros(
                model.config.vocab_size if self.fails == "wide" else tokenizer.vocab_size, dtype=torch.bool
            )

        def accept(self, number: int) -> None:
            raise ModelError("the grammar broke")

    class Source:
        def matcher(self, constraint, stop_ids=None):
            return Broken(constraint.source)

    engine = new_engine(model, tokenizer, grammars=Source())
    good = request([5], max_tokens=12)
    bad = [
        request([5, 6], max_tokens=12, n=2, constraint=Constraint("regex", fails))
        for fails in ("mask", "wide", "none", "accept")
    ]
    answers = engine.run([bad[0], good, *bad[1:]])
    assert ids_of(answers[1]) == [plain(model, tokenizer.vocab_size, [5], 12)]
    for one in (answers[0], *answers[2:]):
        assert [output.finish_reason for output in one.outputs] == ["error", "error"]
        assert all(output.error for output in one.outputs)
    assert_empty(engine)


def test_each_text_keeps_to_its_own_grammar(model, tokenizer):
    pytest.importorskip("llguidance")
    engine = new_engine(model, tokenizer)
    wishes = [
        request([5], max_tokens=12),
        request([5], max_tokens=40, n=3, temperature=1.0, seed=1, constraint=Constraint.regex("(ab|cd){2,3}")),
        request([6], max_tokens=40, constraint=Constraint.choice(["yes", "no"])),
    ]
    free, expression, choice = engine.run(wishes)
    assert ids_of(free) == [plain(model, tokenizer.vocab_size, [5], 12)]
    for output in expression.outputs:
        assert re.fullmatch("(ab|cd){2,3}", output.text)
        assert output.finish_reason == "stop"
    assert choice.outputs[0].text in ("yes", "no")
    with pytest.raises(RecipeError):
        engine.submit(request([5], constraint=Constraint.regex("(")))
    assert_empty(engine)


def with_kernels(engine: Engine) -> Engine:
    if engine._runner._kernels is None:
        pytest.skip("no C compiler on this machine: every step is one pass")
    return engine


@pytest.mark.parametrize("passes", [2, 3, 8])
def test_several_passes_a_step_write_and_read_what_one_does(model, tokenizer, passes):
    """Texts of unlike lengths, one of which is stopped by an id and one by a string."""
    tokens = plain(model, tokenizer.vocab_size, PROMPTS[1], 20)
    stop_string = tokenizer.decode(tokens)[5:8]
    wishes = [
        (PROMPTS[1], {"max_tokens": 20, "stop_ids": tokens[9:10]}),
        (PROMPTS[3], {"max_tokens": 17}),
        (PROMPTS[1], {"max_tokens": 20, "stop": (stop_string,)}),
        (PROMPTS[4], {"max_tokens": 5}),
    ]

    def answers(engine: Engine):
        steps = 0
        for place, (prompt, params) in enumerate(wishes):
            engine.submit(request(prompt, id=str(place), **params))
        events = []
        while engine.busy:
            events += engine.step()
            steps += 1
        assert_empty(engine)
        found = {str(place): [one for one in events if one.id == str(place)] for place in range(len(wishes))}
        return found, steps, engine.stats()

    one, steps, counted = answers(new_engine(model, tokenizer, passes=1))
    several, fewer, also = answers(with_kernels(new_engine(model, tokenizer, passes=passes)))
    assert several == one
    assert steps == counted.steps
    assert fewer < also.steps
    assert also.written_tokens == counted.written_tokens
    assert 0 <= also.read_tokens - counted.read_tokens < passes, "behind the string that stops"
    alone = with_kernels(new_engine(model, tokenizer, passes=passes))
    alone.run([request(PROMPTS[1], max_tokens=20, stop_ids=tokens[9:10])])
    assert alone.stats().read_tokens == len(PROMPTS[1]) + tokens.index(tokens[9])


def test_what_wants_more_than_the_likeliest_token_takes_one_pass_a_step(model, tokenizer):
    engine = with_kernels(new_engine(model, tokenizer))
    others = ({"temperature": 1.0}, {"logprobs": 1}, {"repetition_penalty": 1.1}, {"min_tokens": 3}, {"beams": 2})
    for params in others:
        engine.submit(request([5, 6], max_tokens=9))
        engine.submit(request([7, 6], max_tokens=9, **params))
        before = engine.stats().steps
        engine.step()
        engine.step()
        assert engine.stats().steps == before + 2, params
        while engine.busy:
            engine.step()


def test_a_newcomer_waits_for_no_more_than_the_passes_of_a_step(model, tokenizer):
    engine = with_kernels(new_engine(model, tokenizer, max_sequences=2))
    engine.submit(request([5, 6], max_tokens=30))
    while engine.stats().written_tokens < 9:
        engine.step()
    late = engine.submit(request([8] * 12, max_tokens=3))
    events = [event for _ in range(3) for event in engine.step()]
    assert [event.token_id for event in events if isinstance(event, TokenEvent) and event.id == late]
    engine = with_kernels(new_engine(model, tokenizer, max_sequences=1))
    engine.submit(request([5, 6], max_tokens=30))
    while engine.stats().written_tokens < 9:
        engine.step()
    engine.submit(request([8] * 12, max_tokens=3))
    before = engine.stats().steps
    engine.step()
    assert engine.stats().steps == before + 1, "somebody waits for the text to end"


def test_what_takes_long_is_one_pass_a_step(model, tokenizer, monkeypatch):
    weights = sum(one.nbytes for one in (*model.parameters(), *model.buffers()))
    token = kv_bytes_per_token(model.config)

    def passes(texts: int, length: int, most: int) -> int:
        monkeypatch.setattr(engine_module, "BYTES_TOGETHER", most)
        engine = with_kernels(new_engine(model, tokenizer, max_sequences=texts, token_budget=40))
        for number in range(texts):
            engine.submit(request([number] * length, max_tokens=9))
        while engine.stats().written_tokens < 2 * texts:
            before = engine.stats().steps
            engine.step()
        return engine.stats().steps - before

    assert passes(1, 2, 9 * (weights + 4 * token)) == 8
    assert passes(1, 2, 3 * (weights + 4 * token)) == 3
    assert passes(1, 30, 3 * (weights + 4 * token)) < 3, "a long text is read at each pass"
    assert passes(9, 2, 3 * (weights + 4 * token)) == 1, "so many texts take longer"
    with pytest.raises(ModelError, match="passes=0"):
        new_engine(model, tokenizer, passes=0)


@pytest.mark.parametrize("size", [4, 16])
def test_as_much_is_remembered_of_texts_that_end_within_a_step(model, tokenizer, size):
    def cached(passes: int) -> list[int]:
        engine = new_engine(model, tokenizer, passes=passes, block_size=size)
        found = []
        for tokens in range(3, 30, 4):
            first = engine.run([request([tokens, 7, 8], max_tokens=tokens)])[0]
            second = engine.run([request([tokens, 7, 8, *first.outputs[0].ids, 9], max_tokens=2)])[0]
            found.append(second.outputs[0].usage.cached_tokens)
        return found

    assert cached(8) == cached(1)
    assert sum(cached(1)) > 0


def test_a_model_that_breaks_between_two_passes_ends_with_an_error(tokenizer):
    model = tiny_model(tokenizer.vocab_size, context=CONTEXT)
    engine = with_kernels(new_engine(model, tokenizer))
    tokens = plain(model, tokenizer.vocab_size, PROMPTS[1], 12)
    broken = next(place for place in range(3, 12) if tokens[place] not in (*PROMPTS[1], *tokens[:place]))
    model.model.embed_tokens.weight.data[tokens[broken]] = math.nan
    answer = engine.run([request(PROMPTS[1], max_tokens=12)])[0]
    assert ids_of(answer) == [tokens[: broken + 1]]
    assert answer.outputs[0].finish_reason == "error"
    assert_empty(engine)


def test_a_pass_that_fails_ends_those_in_it_and_no_others(engine, monkeypatch):
    first = engine.submit(request([5] * 8, max_tokens=3))
    second = engine.submit(request([6] * 8, max_tokens=3))
    monkeypatch.setattr(engine._runner, "run", lambda work: (_ for _ in ()).throw(RuntimeError("out of memory")))
    assert [(event.id, event.reason, event.error) for event in engine.step()] == [(first, "error", "out of memory")]
    monkeypatch.undo()
    events = []
    while engine.busy:
        events += engine.step()
    assert events[-1].id == second
    assert events[-1].reason == "length"
    assert_empty(engine)


def test_what_cannot_be_answered_is_refused_and_leaves_nothing(engine, model):
    engine.submit(request([5], id="twice", max_tokens=2))
    for wrong, message in (
        (request([5], id="twice"), "own id"),
        (request([]), "empty"),
        (request([3, 10_000]), "10000"),
        (request([-1]), "-1"),
        (replace(request([5]), adapter="law"), "law"),
    ):
        with pytest.raises((DataError, ModelError), match=message):
            engine.submit(wrong)
    while engine.busy:
        engine.step()
    assert_empty(engine)
    with pytest.raises(ModelError, match="cache_bytes=10"):
        Engine(model, engine.tokenizer, cache_bytes=10)


def test_new_weights_are_used_at_once_and_nothing_old_is_remembered(tokenizer):
    model, other = (tiny_model(tokenizer.vocab_size, context=CONTEXT) for _ in range(2))
    for weight in other.parameters():
        weight.data.mul_(torch.linspace(0.5, 1.5, weight.shape[-1]))
    engine = new_engine(model, tokenizer, passes=1)
    prompt = [7, 8, 9, 10, 11, 12, 13, 14, 15]
    before = plain(model, tokenizer.vocab_size, prompt, 4)
    written = []
    engine.submit(request(prompt, max_tokens=12))
    while len(written) < 4:
        written += [event.token_id for event in engine.step()]
    assert tuple(written) == before
    pointer = model.head_weight.data_ptr()
    with pytest.raises(ModelError, match="no weights named"):
        engine.update_weights({"lm_head.weight": torch.zeros_like(other.lm_head.weight), "lost": torch.zeros(1)})
    with pytest.raises(ModelError, match="shape"):
        engine.update_weights({"lm_head.weight": torch.zeros(1)})
    assert plain(model, tokenizer.vocab_size, prompt, 4) == before
    assert engine.stats().free_blocks < engine.stats().blocks
    engine.update_weights(other.state_dict())
    assert engine.stats().idle_blocks == 0
    assert engine.stats().free_blocks == engine.stats().blocks
    assert model.head_weight.data_ptr() == pointer
    while engine.busy:
        written += [event.token_id for event in engine.step() if isinstance(event, TokenEvent)]
    assert tuple(written[4:]) == plain(other, tokenizer.vocab_size, [*prompt, *before], 8)
    again = engine.run([request(prompt, max_tokens=5)])[0]
    assert ids_of(again) == [plain(other, tokenizer.vocab_size, prompt, 5)]


def test_new_weights_under_load_serve_every_text_from_then_on(tokenizer):
    model, other = (tiny_model(tokenizer.vocab_size, context=CONTEXT) for _ in range(2))
    for weight in other.parameters():
        weight.data.mul_(torch.linspace(0.5, 1.5, weight.shape[-1]))
    old = tiny_model(tokenizer.vocab_size, context=CONTEXT)
    engine = new_engine(model, tokenizer, speculation=PromptLookup(shortest=1))
    wishes = [request(prompt, max_tokens=12, n=1 + place % 2) for place, prompt in enumerate(PROMPTS)]
    for wish in wishes:
        engine.submit(wish)
    written: dict[tuple[str, int], list[int]] = {}

    def step() -> None:
        for event in engine.step():
            if isinstance(event, TokenEvent):
                written.setdefault((event.id, event.index), []).append(event.token_id)

    for _ in range(5):
        step()
    before = {key: len(ids) for key, ids in written.items()}
    engine.update_weights(other.state_dict())
    while engine.busy:
        step()
    assert len(written) == 9
    for wish in wishes:
        for index in range(wish.params.n):
            ids = written[wish.id, index]
            done = before.get((wish.id, index), 0)
            assert tuple(ids[:done]) == plain(old, tokenizer.vocab_size, wish.prompt_ids, done)
            assert tuple(ids[done:]) == plain(other, tokenizer.vocab_size, [*wish.prompt_ids, *ids[:done]], 12 - done)
    assert_empty(engine)


@settings(max_examples=60, deadline=None)
@given(st.text("ab猫\U0001f600 ", max_size=30), st.lists(st.text("ab猫 ", min_size=1, max_size=5), max_size=3))
def test_text_comes_in_whole_characters_and_ends_before_the_first_stop_string(tokenizer, text, stops):
    writer, shown, stopped = Writer(tokenizer, stops), "", False
    for number in tokenizer.encode(text):
        piece, stopped = writer.push(number)
        shown += piece
        assert text.startswith(shown)
        if stopped:
            break
    else:
        piece, stopped = writer.finish()
        shown += piece
    places = [text.find(stop) for stop in stops if stop in text]
    assert stopped == bool(places)
    # Two stop strings may overlap: then the one that is complete first counts.
    assert not any(stop in shown for stop in stops)
    assert shown == text if not places else any(text.startswith(shown + stop) for stop in stops)


def test_a_stop_string_ends_a_request_across_tokens(engine, model, tokenizer):
    whole = engine.run([request([5], max_tokens=20)])[0].outputs[0]
    stop = whole.text[3:6]
    place = whole.text.find(stop)
    output = engine.run([request([5], max_tokens=20, stop=(stop, "never there"))])[0].outputs[0]
    assert (output.text, output.finish_reason) == (whole.text[:place], "stop")
    assert output.ids == whole.ids[: len(output.ids)]
    assert len(output.ids) < 20
    assert_empty(engine)


def test_many_tasks_share_the_engine_and_it_drains(model, tokenizer):
    async def all_together():
        engine = AsyncEngine(new_engine(model, tokenizer))
        try:
            wishes = [request(prompt, max_tokens=12) for prompt in PROMPTS]
            tasks = [asyncio.create_task(engine.answer(wish)) for wish in wishes]
            await asyncio.sleep(0)
            answers = await asyncio.gather(*tasks)
            await engine.drain()
            with pytest.raises(ModelError, match="closing"):
                await engine.submit(request([5]))
            return answers
        finally:
            await engine.close()

    for prompt, one in zip(PROMPTS, asyncio.run(all_together()), strict=True):
        assert ids_of(one) == [plain(model, tokenizer.vocab_size, prompt, 12)]


def test_more_than_may_wait_is_refused_at_once_and_room_comes_back(model, tokenizer):
    async def crowd():
        engine = AsyncEngine(new_engine(model, tokenizer, max_sequences=2), max_waiting=2)
        try:
            await engine.call(slow)
            with pytest.raises(DataError, match="empty"):  # what is refused takes no place
                await engine.submit(request([]))
            first = await engine.submit(request([9], max_tokens=30, n=3))
            with pytest.raises(BusyError, match="3 completions are written or wait, and at most 4"):
                await engine.submit(request([8], n=2))
            second = await engine.submit(request([8], max_tokens=2))
            assert (engine.open_texts, engine.full) == (4, True)
            with pytest.raises(BusyError):
                await engine.submit(request([7]))
            await first.aclose()
            assert [event async for event in second][-1].reason == "length"
            await engine.drain()
            return engine.open_texts, engine.full, engine.stats.finished
        finally:
            await engine.close()

    assert asyncio.run(crowd()) == (0, False, {"cancelled": 3, "length": 1})


def test_events_of_one_step_come_to_a_loop_together(model, tokenizer):
    async def count_wakes():
        engine = AsyncEngine(new_engine(model, tokenizer, max_sequences=32, token_budget=64))
        loop, wakes = asyncio.get_running_loop(), 0
        wake = loop.call_soon_threadsafe

        def counting(callback, *args):
            nonlocal wakes
            wakes += 1
            return wake(callback, *args)

        try:
            streams = [await engine.submit(request([number], max_tokens=12)) for number in range(32)]
            loop.call_soon_threadsafe = counting  # type: ignore[method-assign]
            for stream in streams:
                assert [event async for event in stream][-1].reason == "length"
            return wakes, engine.stats.steps
        finally:
            await engine.close()

    wakes, steps = asyncio.run(count_wakes())
    assert wakes <= steps


def test_whoever_asks_a_closed_engine_is_told_so_and_not_left_waiting(model, tokenizer):
    async def ask_late():
        engine = AsyncEngine(new_engine(model, tokenizer))
        engine._calls.put(None)  # the thread ends while these are on their way
        asked = [asyncio.create_task(engine.submit(request([5]))) for _ in range(3)]
        async with asyncio.timeout(10):
            told = await asyncio.gather(*asked, return_exceptions=True)
        await engine.close()
        assert all(isinstance(one, ModelError) or one.id for one in told)

    asyncio.run(ask_late())


def test_whoever_goes_away_frees_the_blocks(model, tokenizer):
    async def leave_in_every_way():
        engine = AsyncEngine(new_engine(model, tokenizer))
        await engine.call(slow)
        wish = [request([9] * 10, max_tokens=30) for _ in range(4)]
        async with await engine.submit(wish[0]) as stream:
            await anext(stream)
        stream = await engine.submit(wish[1])
        del stream
        task = asyncio.create_task(engine.answer(wish[2]))
        stream = await engine.submit(wish[3])
        await anext(stream)
        task.cancel()
        await stream.aclose()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(100):
            stats = await engine.call(lambda engine: engine.stats())
            if stats.finished.get("cancelled") == 4:
                break
            await asyncio.sleep(0.01)
        assert dict(stats.finished) == {"cancelled": 4}
        assert (stats.waiting, stats.running, stats.free_blocks) == (0, 0, stats.blocks)
        with pytest.raises(DataError, match="empty"):
            await engine.submit(request([]))
        running = await engine.submit(request([9], max_tokens=30))
        await engine.close()
        assert [event async for event in running][-1].reason == "cancelled"
        with pytest.raises(ModelError, match="closed"):
            await engine.submit(request([5]))

    asyncio.run(leave_in_every_way())


def slow(engine: Engine) -> None:
    """So slow that 30 tokens take longer than it takes to leave."""
    run, engine._passes = engine._runner.run, 1

    def run_slowly(work):
        time.sleep(0.02)
        return run(work)

    engine._runner.run = run_slowly


@pytest.fixture
def sieving(tokenizer, monkeypatch) -> Engine:
    """An engine that reads any head through a sieve."""
    monkeypatch.setattr(sieve, "LEAST_BYTES", 0)
    config = replace(tiny_model(tokenizer.vocab_size, context=CONTEXT).config, hidden_size=64)
    engine = with_kernels(new_engine(strong(config).requires_grad_(False), tokenizer, passes=1))
    if not engine._runner._kernels._kernels.can_sieve(64):
        pytest.skip("this processor has no AVX512 VNNI, for which the sieve is")
    return engine


def test_a_large_head_is_read_through_a_sieve_and_gives_the_same_even_after_changes(sieving):
    model, used = sieving.model, sieving._runner._kernels._sieve

    def check():
        answers = sieving.run([request(prompt, max_tokens=14) for prompt in PROMPTS[:3]])
        assert [ids_of(one) for one in answers] == [
            [plain(model, sieving.tokenizer.vocab_size, prompt, 14)] for prompt in PROMPTS[:3]
        ]

    check()
    assert used._sieve is not None
    weight = model.head_weight
    with torch.no_grad():
        weight.mul_(torch.linspace(1.5, 0.5, 64))  # torch counts this
    check()
    weight.data.copy_(weight.data.flip(0))  # and not this
    check()
    weight.data[:, ::2] *= -1
    check()
    for row in (63, 64, 65, 129):
        weight.data[row] = 3 * weight.data[200]
        check()
    assert used._sieve is not None
    assert used._sieve.computed < 0.5 * used._sieve.rows * used._sieve.bytes.outputs


def test_a_sieve_that_lets_nearly_all_through_is_left(sieving):
    used, weight = sieving._runner._kernels._sieve, sieving.model.head_weight
    weight.data[:] = weight.data[:1]
    answer = sieving.run([request([5, 6], max_tokens=40)])[0]
    assert ids_of(answer) == [(0,) * 40], "the first of equals"
    assert sieve.LOOKED_AT <= used._sieve.rows < 20
