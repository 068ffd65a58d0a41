"""The `openai` package against the live server: conversations."""

import asyncio

import openai
import pytest

from .live import CONTEXT

ASKED = [{"role": "user", "content": "坐 a cat"}]


def ask(client, **more):
    return client.chat.completions.create(**{"model": "kitten", "messages": ASKED, "max_tokens": 12, "seed": 3, **more})


def test_a_stream_says_what_the_whole_answer_says(client):
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    *pieces, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in pieces if chunk.choices[0].finish_reason] == ["length"]
    assert last.choices == []
    assert last.usage.completion_tokens == whole.usage.completion_tokens == 12
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(client):
    texts = [ask(client, seed=seed, temperature=1.5).choices[0].message.content for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_n_answers_differ_and_come_in_order(client):
    choices = ask(client, n=3, temperature=2.0).choices
    assert [choice.index for choice in choices] == [0, 1, 2]
    assert len({choice.message.content for choice in choices}) == 3
    streamed = {0: "", 1: "", 2: ""}
    for chunk in ask(client, n=3, temperature=2.0, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert list(streamed.values()) == [choice.message.content for choice in choices]


def test_logprobs_are_those_of_the_tokens_and_their_bytes_spell_the_answer(client):
    choice = ask(client, logprobs=True, top_logprobs=3, temperature=0).choices[0]
    tokens = choice.logprobs.content
    assert len(tokens) == 12
    spelled = b"".join(bytes(token.bytes) for token in tokens)
    assert spelled.decode(errors="replace") == choice.message.content
    for token in tokens:
        assert [token.token, token.logprob] == [token.top_logprobs[0].token, token.top_logprobs[0].logprob]
        assert len(token.top_logprobs) == 3
    streamed = ask(client, logprobs=True, top_logprobs=3, temperature=0, stream=True)
    assert [
        one for chunk in streamed if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content
    ] == tokens


def test_a_stop_string_ends_the_answer_before_it(client):
    text = ask(client, temperature=0).choices[0].message.content
    stop = text[5:7]
    choice = ask(client, temperature=0, stop=[stop, "never"]).choices[0]
    assert choice.message.content == text[: text.index(stop)]
    assert choice.finish_reason == "stop"


def test_a_biased_token_is_all_that_is_written(client):
    assert ask(client, logit_bias={"42": 100}, temperature=0).choices[0].message.content == "H" * 12


def test_an_answer_fills_the_context_and_a_longer_question_is_refused_with_numbers(client):
    ended = ask(client, max_tokens=None, extra_body={"ignore_eos": True})
    assert ended.choices[0].finish_reason == "length"
    assert ended.usage.total_tokens == CONTEXT
    with pytest.raises(openai.BadRequestError, match=rf"reads {CONTEXT} tokens at most.* takes 3") as refused:
        ask(client, messages=[{"role": "user", "content": "xyz" * 1000}])
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == "messages"


async def _ask_async(url):
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        stream = await ask(client, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


def test_the_async_client_hears_the_same(client, live):
    assert asyncio.run(_ask_async(live.api)) == ask(client).choices[0].message.content
