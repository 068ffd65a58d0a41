import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from dunwu.core.errors import DataError, ModelError
from dunwu.infer import generate
from dunwu.infer.generate import Generator
from dunwu.model.config import RopeScaling
from dunwu.model.decoder import new_decoder
from dunwu.model.hub import save_model
from dunwu.tokenizer.bpe import train_tokenizer

from .tiny import tiny_model

CONTEXT = 48
NO_STOP: list[int] = []


def by_hand(model, vocabulary: int, prompt: list[int], count: int) -> list[int]:
    """Greedy tokens with no cache at all: the whole text is read again for each."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            logits = model.logits(model(torch.tensor([ids]))[0, -1])[:vocabulary]
            ids.append(int(logits.argmax()))
    return ids[len(prompt) :]


def finish(steps) -> tuple[list[int], str]:
    ids = []
    while True:
        try:
            ids.append(next(steps))
        except StopIteration as end:
            return ids, end.value


PROMPTS = [[5], [7, 8, 9, 10, 11, 12], [30, 31], [100, 3, 44, 90], [6] * 20]


def test_the_cache_changes_no_token(generator, model, tokenizer):
    for prompt in PROMPTS:
        ids, reason = finish(generator.stream(prompt, max_new_tokens=12, stop_ids=NO_STOP))
        assert ids == by_hand(model, tokenizer.vocab_size, prompt, 12)
        assert reason == "length"
        assert len(set(ids)) > 3  # otherwise nothing is shown


def test_transformers_writes_the_same_tokens(generator, model, tokenizer, tmp_path):
    save_model(model, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    prompt = torch.tensor([[5, 6, 7]])
    banned = [[number] for number in range(tokenizer.vocab_size, model.config.vocab_size)]
    written = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=16,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
        bad_words_ids=banned,
    )
    assert list(generator.stream([5, 6, 7], max_new_tokens=16, stop_ids=NO_STOP)) == written[0, 3:].tolist()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 250), min_size=1, max_size=CONTEXT + 5), min_size=1, max_size=7), st.integers(0, 9)
)
def test_a_batch_equals_one_by_one_whatever_the_lengths(generator, prompts, stop):
    stops = [stop * 20 + step for step in range(60)]  # so that some rows end early and leave the batch
    batch = generator.complete_batch(prompts, max_new_tokens=15, stop_ids=stops)
    for prompt, completion in zip(prompts, batch, strict=True):
        ids, reason = finish(generator.stream(prompt, max_new_tokens=15, stop_ids=stops))
        assert (list(completion.ids), completion.finish_reason) == (ids, reason)


def test_a_list_that_does_not_fit_the_cache_is_answered_all_the_same(generator, model, tokenizer, monkeypatch):
    whole = generator.complete_batch(PROMPTS * 9, max_new_tokens=8, temperature=1.0, seed=3, stop_ids=NO_STOP)
    monkeypatch.setattr(generate, "CACHE_BYTES", 1)
    small = Generator(model, tokenizer)
    assert small.complete_batch(PROMPTS * 9, max_new_tokens=8, temperature=1.0, seed=3, stop_ids=NO_STOP) == whole
    assert small.engine.stats().blocks == 4


def test_what_was_read_is_not_read_again(model, tokenizer):
    generator = Generator(model, tokenizer)
    prompt = list(range(20, 40))
    (first,) = generator.complete_batch([prompt], max_new_tokens=12, stop_ids=NO_STOP)
    read = generator.engine.stats().read_tokens
    generator.complete_batch([[*prompt, *first.ids, 7, 8]], max_new_tokens=1, stop_ids=NO_STOP)
    # All but the last token of the answer was read; of these whole blocks of 16 are found.
    assert generator.engine.stats().read_tokens == read + 34 - 16


def test_streams_may_be_left_or_run_beside_others(model, tokenizer):
    generator = Generator(model, tokenizer)
    left = generator.stream([5], max_new_tokens=30, stop_ids=NO_STOP)
    beside = generator.stream([7, 8], max_new_tokens=6, stop_ids=NO_STOP)
    next(left), next(beside)
    batch = generator.complete_batch([[30, 31]], max_new_tokens=3, stop_ids=NO_STOP)[0]
    assert list(batch.ids) == by_hand(model, tokenizer.vocab_size, [30, 31], 3)
    left.close()
    assert list(beside) == by_hand(model, tokenizer.vocab_size, [7, 8], 6)[1:]
    stats = generator.engine.stats()
    assert (stats.running, stats.waiting, stats.free_blocks) == (0, 0, stats.blocks)


def test_threads_share_it(model, tokenizer):
    generator = Generator(model, tokenizer)

    def ask(prompt: list[int]) -> list[int]:
        return list(generator.stream(prompt, max_new_tokens=12, stop_ids=NO_STOP))

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, PROMPTS * 3))
    assert answers == [by_hand(model, tokenizer.vocab_size, prompt, 12) for prompt in PROMPTS * 3]


def test_a_model_that_wrote_can_be_trained(tokenizer):
    model = tiny_model(tokenizer.vocab_size, context=CONTEXT).requires_grad_(True)
    Generator(model, tokenizer).complete_batch([[5], [6, 7]], max_new_tokens=4, stop_ids=NO_STOP)
    before = [weight.detach().clone() for weight in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.logits(model(torch.tensor([[5, 6, 7]]))).logsumexp(-1).sum().backward()
    optimizer.step()
    assert not any(weight.is_inference() for weight in model.parameters())
    assert all(bool((old != new).any()) for old, new in zip(before, model.parameters(), strict=True))


def test_what_it_holds_is_given_back_with_it(model, tokenizer):
    generator = Generator(model, tokenizer)
    generator.complete_batch([[5]], max_new_tokens=2)
    engine = weakref.ref(generator.engine)
    gc.disable()
    try:
        del generator
        assert engine() is None
    finally:
        gc.enable()


def test_logits_that_are_no_numbers_are_an_error_not_a_token(tokenizer):
    model = tiny_model(tokenizer.vocab_size, context=CONTEXT)
    model.lm_head.weight.data.fill_(torch.nan)
    generator = Generator(model, tokenizer)
    with pytest.raises(ModelError, match="not finite"):
        generator.complete_batch([[5]], max_new_tokens=2)
    with pytest.raises(ModelError, match="not finite"):
        next(generator.stream([5], max_new_tokens=2))


def test_a_seed_gives_the_same_tokens_whatever_else_is_in_the_batch(generator):
    def sampled(prompts, seed):
        return generator.complete_batch(
            prompts, max_new_tokens=10, temperature=1.5, top_k=50, top_p=0.95, seed=seed, stop_ids=NO_STOP
        )

    alone = sampled([[5, 6]], [77])[0]
    among = sampled([[9] * 20, [5, 6], [1]], [1, 77, 2])[1]
    assert alone == among
    assert list(alone.ids) == list(
        generator.stream([5, 6], max_new_tokens=10, temperature=1.5, top_k=50, top_p=0.95, seed=77, stop_ids=NO_STOP)
    )
    first, second = sampled([[5, 6], [5, 6]], 77)
    assert first == alone  # one seed: the first row has it, the others their own
    assert first != second
    assert sampled([[5, 6]], [78])[0] != alone
    assert sampled([[5, 6]], None)[0] != sampled([[5, 6]], None)[0]


def test_stop_ids_end_a_row_and_are_not_in_it(generator):
    free = list(generator.stream([5], max_new_tokens=12, stop_ids=NO_STOP))
    stop = free[6]
    ids, reason = finish(generator.stream([5], max_new_tokens=12, stop_ids=[stop]))
    assert ids == free[: free.index(stop)]
    assert reason == "stop"


def test_the_default_stops_are_end_of_text_and_end_of_turn(generator, model, tokenizer):
    for number in (tokenizer.eos_id, tokenizer.im_end_id):
        original = model.head_weight[number].clone()
        model.head_weight[number] *= 1e4  # its logit is now the largest or the smallest of all
        endings = [generator.complete_batch([[prompt]], max_new_tokens=8)[0].finish_reason for prompt in range(3, 40)]
        model.head_weight[number] = original
        assert "stop" in endings


def test_the_context_ends_a_row_with_its_own_reason(generator):
    ids, reason = finish(generator.stream([9] * (CONTEXT - 4), max_new_tokens=99, stop_ids=NO_STOP))
    assert (len(ids), reason) == (4, "context")
    full = generator.complete_batch([[9] * CONTEXT, [9] * (CONTEXT + 9), [9]], max_new_tokens=3, stop_ids=NO_STOP)
    assert [(len(one.ids), one.finish_reason) for one in full] == [(0, "context"), (0, "context"), (3, "length")]
    exact = generator.complete_batch([[9] * (CONTEXT - 3)], max_new_tokens=3, stop_ids=NO_STOP)[0]
    assert (len(exact.ids), exact.finish_reason) == (3, "length")


def test_nothing_asked_gives_nothing(generator):
    assert generator.complete_batch([], max_new_tokens=5) == []
    assert finish(generator.stream([5], max_new_tokens=0)) == ([], "length")


def test_ids_that_only_pad_the_vocabulary_are_never_chosen(generator, model, tokenizer):
    padding = slice(tokenizer.vocab_size, None)
    original = model.head_weight[padding].clone()
    model.head_weight[padding] *= 1e4
    written = [one.ids for one in generator.complete_batch([[number] for number in range(3, 40)], max_new_tokens=4)]
    model.head_weight[padding] = original
    assert max(max(ids, default=0) for ids in written) < tokenizer.vocab_size


def test_errors(generator, model, tmp_path):
    with pytest.raises(DataError, match="a prompt is empty"):
        generator.complete_batch([[5], []], max_new_tokens=1)
    with pytest.raises(DataError, match="3 seeds for 1 prompts"):
        generator.complete_batch([[5]], max_new_tokens=1, seed=[1, 2, 3])
    larger = train_tokenizer(
        ["one two three four five six seven " * 9, "八九十一二三四" * 9], vocab_size=400, out=tmp_path
    )
    with pytest.raises(ModelError, match="take both from the same folder"):
        Generator(model, larger)


def test_streaming_leaves_gradients_of_the_caller_alone(generator):
    steps = generator.stream([5], max_new_tokens=3, stop_ids=NO_STOP)
    next(steps)
    assert not torch.is_inference_mode_enabled()
    assert torch.ones(1, requires_grad=True).mul(2).requires_grad


def test_gaps_in_the_vocabulary_are_never_chosen(model, tokenizer, monkeypatch):
    free = Generator(model, tokenizer).complete_batch([[5]], max_new_tokens=8, stop_ids=NO_STOP)[0].ids
    monkeypatch.setattr(type(tokenizer), "unused_ids", tuple(set(free)))
    careful = Generator(model, tokenizer).complete_batch([[5]], max_new_tokens=8, stop_ids=NO_STOP)[0].ids
    assert len(careful) == 8
    assert not set(careful) & set(free)


def test_control_tokens_beyond_the_model_do_no_harm_but_text_does(model, tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "vocab_size", property(lambda self: model.config.vocab_size + 3))
    monkeypatch.setattr(type(tokenizer), "rows_needed", property(lambda self: model.config.vocab_size))
    assert Generator(model, tokenizer).complete_batch([[5]], max_new_tokens=3, stop_ids=NO_STOP)[0].ids
    monkeypatch.setattr(type(tokenizer), "rows_needed", property(lambda self: model.config.vocab_size + 1))
    with pytest.raises(ModelError, match="take both from the same folder"):
        Generator(model, tokenizer)


def test_text_that_outgrows_the_short_factors_of_longrope_is_read_anew(model, tokenizer, monkeypatch):
    scaling = RopeScaling(
        kind="longrope",
        factor=4.0,
        original_max_position_embeddings=12,
        short_factor=(1.0, 1.0, 1.0, 1.0),
        long_factor=(3.0, 5.0, 7.0, 9.0),
    )
    stretched = new_decoder(replace(model.config, rope_scaling=scaling), seed=0)
    plain = new_decoder(model.config, seed=0)
    for decoder in (stretched, plain):
        decoder.load_state_dict(model.state_dict())
        decoder.requires_grad_(False)
        for block in decoder.model.layers:  # so that attention, and through it positions, decide
            block.self_attn.o_proj.weight.mul_(1000)
            block.self_attn.q_norm.weight.mul_(8)
    monkeypatch.setattr(generate, "TOKEN_BUDGET", 5)
    generator = Generator(stretched, tokenizer)
    expected = [by_hand(stretched, tokenizer.vocab_size, prompt, 14) for prompt in PROMPTS]
    alone = [finish(generator.stream(prompt, max_new_tokens=14, stop_ids=NO_STOP))[0] for prompt in PROMPTS]
    assert alone == expected
    assert expected[1] != by_hand(plain, tokenizer.vocab_size, PROMPTS[1], 14)
    stop = expected[1][3]  # one row ends early and stays in the cache for a while
    together = generator.complete_batch(PROMPTS, max_new_tokens=14, stop_ids=[stop])
    for prompt, completion in zip(PROMPTS, together, strict=True):
        assert list(completion.ids) == finish(generator.stream(prompt, max_new_tokens=14, stop_ids=[stop]))[0]
