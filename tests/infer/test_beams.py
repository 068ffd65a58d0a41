"""Beam search in the engine: what transformers finds, through shared blocks, beside everything else."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from dunwu.core.errors import DataError, RecipeError
from dunwu.infer.constrain import Constraint
from dunwu.infer.engine import Engine
from dunwu.infer.sampling import SamplingParams
from dunwu.infer.speculate import PromptLookup
from dunwu.model.count import kv_bytes_per_token
from dunwu.model.decoder import Decoder, new_decoder
from dunwu.model.hub import save_model

from .test_engine import CONTEXT, assert_empty, ids_of, new_engine, plain, request

PROMPTS = [[5, 6, 7], [30, 31, 32, 33, 34, 35, 36], [100]]
STOPS = (3, 40, 41, 42, 99, 120, 200, 201, 202, 203)


@pytest.fixture(scope="module")
def soft(model, tokenizer) -> Decoder:
    """A model that is not sure of itself, so that beams part and join."""
    decoder = new_decoder(replace(model.config, vocab_size=tokenizer.vocab_size), seed=1)
    for weight in (decoder.model.embed_tokens.weight, decoder.lm_head.weight):
        weight.data.mul_(15)
    return decoder.requires_grad_(False)


@pytest.fixture(scope="module")
def theirs(soft, tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs")
    save_model(soft, folder)
    return AutoModelForCausalLM.from_pretrained(folder)


def searched(theirs, prompt, **values) -> list[tuple[tuple[int, ...], float]]:
    """What transformers finds, without the stop token and what pads it."""
    ids = torch.tensor([prompt])
    out = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        **values,
    )
    found = []
    for row, score in zip(out.sequences.tolist(), out.sequences_scores.tolist(), strict=True):
        written = row[len(prompt) :]
        ends = [place for place, number in enumerate(written) if number in STOPS]
        found.append((tuple(written[: ends[0]] if ends else written), score))
    return found


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("penalty", [1.0, 0.0, -0.7, 2.0])
def test_the_best_texts_are_those_of_transformers(soft, theirs, tokenizer, penalty, early):
    engine = new_engine(soft, tokenizer, max_sequences=8, speculation=PromptLookup(shortest=1))
    wishes = [
        request(
            prompt,
            max_tokens=10,
            beams=beams,
            n=min(beams, 3),
            length_penalty=penalty,
            early_stopping=early,
            stop_ids=STOPS,
        )
        for prompt in PROMPTS
        for beams in (1, 2, 4)
    ]
    beside = request([9, 9, 8], max_tokens=10)
    *answers, other = engine.run([*wishes, beside])
    ended = set()
    for wish, one in zip(wishes, answers, strict=True):
        beams = wish.params.beams
        assert beams is not None
        expected = (
            searched(
                theirs,
                list(wish.prompt_ids),
                num_beams=beams,
                num_return_sequences=wish.params.n,
                max_new_tokens=10,
                length_penalty=penalty,
                early_stopping=True if early else "never",
                eos_token_id=list(STOPS),
            )
            if beams > 1
            else None
        )
        if expected is None and early:  # greedy; a patient search of one beam looks further
            greedy = plain(soft, tokenizer.vocab_size, wish.prompt_ids, 10)
            ends = [place for place, number in enumerate(greedy) if number in STOPS]
            assert ids_of(one) == [greedy[: ends[0]] if ends else greedy]
        if expected is None:
            continue
        assert ids_of(one) == [ids for ids, _ in expected]
        assert [output.score for output in one.outputs] == pytest.approx([score for _, score in expected], abs=1e-4)
        for output in one.outputs:
            ended.add(output.finish_reason)
            assert output.text == tokenizer.decode(output.ids)
            assert output.finish_reason == ("length" if len(output.ids) == 10 else "stop")
    assert ended == ({"stop", "length"} if penalty < 2 else {"length"})
    assert ids_of(other) == [plain(soft, tokenizer.vocab_size, [9, 9, 8], 10)]
    assert_empty(engine)


def blocks_of(count: int, model: Decoder) -> int:
    return count * 4 * kv_bytes_per_token(model.config)


@pytest.mark.parametrize(("blocks", "sequences"), [(40, 4), (24, 4), (24, 9)])
def test_searches_in_a_small_cache_find_the_same(soft, tokenizer, blocks, sequences):
    wishes = [
        request([number, 7, 9, 11, 13], max_tokens=9, beams=4, n=4, stop_ids=STOPS, priority=number % 2)
        for number in range(5)
    ]
    expected = [new_engine(soft, tokenizer).run([wish])[0] for wish in wishes]
    engine = new_engine(soft, tokenizer, cache_bytes=blocks_of(blocks, soft), max_sequences=sequences, token_budget=16)
    crowd = [request([50 + number] * 9, max_tokens=9) for number in range(3)]
    answers = engine.run([crowd[0], *wishes[:3], *crowd[1:], *wishes[3:]])
    found = [answers[place] for place in (1, 2, 3, 6, 7)]
    assert [ids_of(one) for one in found] == [ids_of(one) for one in expected]
    for wish, place in zip(crowd, (0, 4, 5), strict=True):
        assert ids_of(answers[place]) == [plain(soft, tokenizer.vocab_size, wish.prompt_ids, 9)]
    assert_empty(engine)


def test_beams_share_what_they_have_in_common(soft, tokenizer):
    engine = new_engine(soft, tokenizer, token_budget=64)
    prompt = list(range(20, 40))
    engine.run([request(prompt, max_tokens=6, beams=4)])
    assert engine.stats().read_tokens == 20 + 5 * 4
    again = engine.run([request(prompt, max_tokens=6, beams=4)])[0]
    assert again.outputs[0].usage.cached_tokens == 16


def test_a_search_keeps_to_its_grammar_and_bias(soft, tokenizer):
    pytest.importorskip("llguidance")
    engine = new_engine(soft, tokenizer)
    end = (tokenizer.eos_id,)
    words = Constraint.choice(["yes", "no", "maybe"])
    choice, biased = engine.run(
        [
            request([5], max_tokens=20, beams=3, n=3, constraint=words, stop_ids=end),
            request([5], max_tokens=4, beams=2, logit_bias={77: 100.0}),
        ]
    )
    assert {output.text for output in choice.outputs} == {"yes", "no", "maybe"}
    scores = [output.score for output in choice.outputs]
    assert scores == sorted(scores, reverse=True)
    assert biased.outputs[0].ids == (77,) * 4
    few = engine.run([request([5], max_tokens=20, beams=4, n=4, constraint=Constraint.regex("a|b"), stop_ids=end)])[0]
    assert [output.finish_reason for output in few.outputs] == ["stop", "stop", "error", "error"]
    assert "found only 2 completions" in (few.outputs[3].error or "")
    assert_empty(engine)


def test_a_search_ends_with_its_request(soft, tokenizer):
    for steps in range(5):
        engine = new_engine(soft, tokenizer)
        wish = request([5] * 6, max_tokens=20, beams=3, n=2)
        engine.submit(wish)
        for _ in range(steps):
            engine.step()
        assert engine.cancel(wish.id)
        ends = engine.step()
        assert [(event.index, event.reason) for event in ends] == [(0, "cancelled"), (1, "cancelled")]
        assert_empty(engine)


def test_a_failed_pass_ends_a_search_once(soft, tokenizer, monkeypatch):
    engine = new_engine(soft, tokenizer)
    engine.submit(request([5] * 6, max_tokens=20, beams=3, n=2))
    for _ in range(3):
        engine.step()
    monkeypatch.setattr(engine._runner, "run", lambda work: (_ for _ in ()).throw(RuntimeError("out of memory")))
    assert [(event.index, event.reason) for event in engine.step()] == [(0, "error"), (1, "error")]
    assert_empty(engine)


def test_a_context_that_is_full_ends_the_beams(soft, tokenizer):
    engine = new_engine(soft, tokenizer)
    one, none = engine.run([request([9] * (CONTEXT - 2), beams=2, n=2), request([9] * CONTEXT, beams=2, n=2)])
    assert [(len(output.ids), output.finish_reason) for output in one.outputs] == [(2, "context")] * 2
    assert [(len(output.ids), output.finish_reason) for output in none.outputs] == [(0, "context")] * 2


def test_what_cannot_be_searched_is_refused(soft, tokenizer):
    engine: Engine = new_engine(soft, tokenizer, cache_bytes=blocks_of(16, soft))
    with pytest.raises(DataError, match="8 beams"):
        engine.submit(request([5], beams=8))
    with pytest.raises(DataError, match="room for 4 texts in 64 tokens"):
        engine.submit(request([5] * 20, beams=4))
    for wrong in ({"temperature": 1.0}, {"stop": ("a",)}, {"logprobs": 1}):
        with pytest.raises(RecipeError, match="leave out temperature"):
            SamplingParams(beams=2, **wrong)
    for wrong in ({"beams": 0}, {"beams": 2, "n": 3}, {"beams": 2, "length_penalty": float("nan")}):
        with pytest.raises(RecipeError, match=next(reversed(wrong))):
            SamplingParams(**wrong)
    assert_empty(engine)
