"""Our engine as a partner for many conversations at once."""

import asyncio
import json
import math

import jsonschema
import pytest

from dunwu.chat.engine_chat import EngineChat
from dunwu.chat.protocol import completion_of
from dunwu.core.errors import DataError, ModelError, PartnerError, RecipeError
from dunwu.core.records import Message, TokenUsage
from dunwu.infer.async_engine import AsyncEngine
from dunwu.infer.engine import Engine
from dunwu.tokenizer.template import encode_prompt
from tests.infer.tiny import tiny_model, tiny_tokenizer

ASKED = [Message(role="user", content="a cat")]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["北京", "Paris"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("engine-chat"))
    return tiny_model(tokenizer.vocab_size, context=700), tokenizer


def run(parts, ask):
    """`ask(chat)` with an engine that lives as long as it takes."""
    model, tokenizer = parts

    async def main():
        engine = AsyncEngine(Engine(model, tokenizer, cache_bytes=4 << 20))
        try:
            return await ask(EngineChat(engine, tokenizer, context_length=700, name="tiny"))
        finally:
            await engine.close()

    return asyncio.run(main())


def test_pieces_are_the_whole_and_batches_the_single_answers(parts):
    async def ask(chat):
        options = {"max_tokens": 12, "temperature": 1.0, "seed": 5, "logprobs": 2}
        pieces = [piece async for piece in chat.pieces(ASKED, **options)]
        one = await chat.reply(ASKED, **options)
        many = await chat.reply_batch([ASKED, [*ASKED, *ASKED], ASKED], **options)
        return completion_of(pieces), one, many

    streamed, one, many = run(parts, ask)
    assert streamed.text == one.text == many[0].text == many[2].text
    assert one.ids == many[0].ids
    assert len(one.ids) == len(one.logprobs) == one.usage.completion_tokens or one.finish_reason == "stop"
    assert all(len(scored.top) == 2 and scored.logprob <= 0 for scored in one.logprobs)
    prompt = encode_prompt(parts[1], ASKED)
    assert one.usage.prompt_tokens == len(prompt)
    assert isinstance(one.usage, TokenUsage)
    assert one.model == "tiny"


def test_a_random_model_calls_the_tool_that_it_must_call(parts):
    async def ask(chat):
        return [
            await chat.reply(ASKED, tools=(TOOL,), tool_choice=choice, max_tokens=400, temperature=1.0, seed=seed)
            for seed, choice in enumerate(["required", {"type": "function", "function": {"name": "weather"}}] * 2)
        ]

    for done in run(parts, ask):
        assert (done.text, done.finish_reason) == ("", "tool_calls")
        for call in done.tool_calls:
            assert call.name == "weather"
            jsonschema.validate(json.loads(call.arguments), TOOL["function"]["parameters"])


def test_tools_that_may_not_be_called_are_not_shown(parts):
    async def ask(chat):
        options = {"tools": (TOOL,), "max_tokens": 5}
        return await chat.reply(ASKED, tool_choice="none", **options), await chat.reply(ASKED, max_tokens=5)

    hidden, plain = run(parts, ask)
    assert (hidden.text, hidden.tool_calls, hidden.usage.prompt_tokens) == (plain.text, (), plain.usage.prompt_tokens)


def test_a_schema_binds_the_answer(parts):
    schema = TOOL["function"]["parameters"]
    done = run(parts, lambda chat: chat.reply(ASKED, schema=schema, max_tokens=300, temperature=1.0, seed=1))
    jsonschema.validate(json.loads(done.text), schema)


def test_a_stop_string_ends_the_answer(parts):
    async def ask(chat):
        whole = await chat.reply(ASKED, max_tokens=30)
        stop = whole.text[5:7]
        return whole, stop, await chat.reply(ASKED, max_tokens=30, stop=(stop,))

    whole, stop, cut = run(parts, ask)
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"


def test_what_cannot_be_asked_is_refused(parts):
    async def ask(chat):
        with pytest.raises(DataError, match="shorten it"):
            await chat.reply([Message(role="user", content="x" * 3000)])
        with pytest.raises(RecipeError):
            await chat.reply(ASKED, schema={"type": "nothing"})
        with pytest.raises(RecipeError, match="the tools are: 'weather'"):
            await chat.reply(ASKED, tools=(TOOL,), tool_choice={"type": "function", "function": {"name": "x"}})
        await chat.engine.call(lambda engine: None)
        return await chat.reply(ASKED, max_tokens=2)

    assert len(run(parts, ask).ids) == 2


def test_an_engine_that_fails_or_closes_is_a_partner_that_does_not_answer(parts):
    async def ask(chat):
        stream = chat.pieces(ASKED, max_tokens=600)
        await anext(stream)
        await chat.engine.call(lambda engine: engine.fail_all("out of memory"))
        with pytest.raises(PartnerError, match="out of memory") as caught:
            async for _ in stream:
                pass
        assert not caught.value.transient
        await chat.engine.close()
        with pytest.raises((ModelError, PartnerError), match="closed"):
            await chat.reply(ASKED)
        return math.nan

    run(parts, ask)
