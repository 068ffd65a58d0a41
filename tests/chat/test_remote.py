"""An endpoint as a partner: what it says arrives, and what goes wrong is said clearly."""

import asyncio
import importlib
from contextlib import aclosing

import pytest

from dunwu.chat.bridge import Blocking
from dunwu.chat.protocol import Delta
from dunwu.chat.remote import RemoteChat
from dunwu.core.errors import DataError, MissingExtraError, PartnerError, RecipeError
from dunwu.core.records import Message, TokenUsage, ToolCall

from .fake_openai import fake_openai

ASKED = [Message(role="system", content="S"), Message(role="user", content="hello")]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def server():
    with fake_openai() as server:
        yield server


def ask(server, model="good", *, messages=ASKED, settings=None, **options):
    async def main():
        chat = RemoteChat(server.url, model, **{"api_key": "sk-secret", **(settings or {})})
        try:
            return await chat.reply(messages, **options)
        finally:
            await chat.close()

    return asyncio.run(main())


def test_an_answer_arrives_with_usage_and_logprobs(server):
    done = ask(server, logprobs=1)
    assert (done.text, done.finish_reason, done.model) == ("Hello 你好", "stop", "good-2026")
    assert done.usage == TokenUsage(prompt_tokens=3, completion_tokens=4, cached_tokens=2)
    assert [one.text for one in done.logprobs] == ["Hel", "lo ", "你", "好"]
    assert done.logprobs[0].top == (("Hel", -0.1), ("?", -3.0))
    assert server.keys[-1] == "Bearer sk-secret"


def test_calls_arrive_in_pieces_and_whole(server):
    done = ask(server, "tools", tools=(TOOL,))
    assert done.finish_reason == "tool_calls"
    assert done.tool_calls == (
        ToolCall(id="a", name="look", arguments='{"at": 1}'),
        ToolCall(id="b", name="stop", arguments="{}"),
    )


def test_what_is_at_its_default_is_not_sent(server):
    ask(server)
    assert set(server.bodies[-1]) == {"model", "messages", "temperature", "max_tokens", "stream", "stream_options"}
    call = ToolCall(id="a", name="look", arguments="{}")
    talk = [
        *ASKED,
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", content="seen", tool_call_id="a", name="look"),
    ]
    ask(
        server,
        messages=talk,
        settings={"extra": {"top_k": 5, "temperature": None}},
        max_tokens=None,
        top_p=0.5,
        seed=3,
        stop=("x",),
        tools=(TOOL,),
        tool_choice="required",
        parallel_tool_calls=False,
    )
    body = server.bodies[-1]
    assert {name: body[name] for name in ("top_p", "seed", "stop", "top_k", "tool_choice", "parallel_tool_calls")} == {
        "top_p": 0.5,
        "seed": 3,
        "stop": ["x"],
        "top_k": 5,
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    assert body["tools"] == [TOOL]
    assert "max_tokens" not in body
    assert "temperature" not in body
    assert body["messages"][2]["tool_calls"][0]["function"] == {"name": "look", "arguments": "{}"}
    assert body["messages"][3] == {"role": "tool", "content": "seen", "tool_call_id": "a"}
    ask(server, schema={"type": "object"})
    assert server.bodies[-1]["response_format"]["json_schema"]["schema"] == {"type": "object"}


@pytest.mark.parametrize(
    ("model", "message", "transient"),
    [
        ("html", "text/html where a stream of events is due.*mostly ends in /v1", False),
        ("json", "application/json where a stream", False),
        ("bad gateway", r"failed \(502", True),
        ("busy", "takes no more requests now", True),
        ("no key", "refuses the key.*set MY_KEY", False),
        ("unknown", "no model 'unknown'", False),
        ("picky", "temperature must be 1", False),
        ("cut", "broke off before its end", True),
        ("reset", "left in the middle|broke off before its end", True),
        ("error in the stream", "out of memory", True),
        ("garbage", "no OpenAI-compatible stream", False),
        ("late", "did not answer within 0.2 s; give it more time", True),
        ("stalls", "did not answer within 0.2 s", True),
    ],
)
def test_whatever_goes_wrong_is_said_clearly(server, model, message, transient):
    with pytest.raises(PartnerError, match=message) as caught:
        ask(
            server,
            model,
            settings={"timeout_s": 0.2 if model in ("late", "stalls") else 20.0, "key_variable": "MY_KEY"},
        )
    assert caught.value.transient == transient
    assert "sk-secret" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert caught.value.retry_after_s == (7.0 if model == "busy" else None)


def test_logprobs_that_do_not_come_are_missed(server):
    with pytest.raises(PartnerError, match="does not tell log-probabilities"):
        ask(server, "mute", logprobs=0)


def test_nobody_listens(server):
    chat = Blocking(RemoteChat("http://127.0.0.1:9/v1", "good"))
    with pytest.raises(PartnerError, match=r"cannot be reached.*is the server running") as caught:
        chat.reply(ASKED)
    assert caught.value.transient
    chat.close()


def test_thoughts_come_apart_from_the_answer(server):
    chat = Blocking(RemoteChat(server.url, "thinks"))
    done = chat.reply(ASKED)
    assert (done.text, done.thinking) == ("4", "7 less 3")
    assert list(chat.stream(ASKED)) == ["4"]
    chat.close()


def test_no_more_than_so_many_at_a_time():
    async def main():
        chat = RemoteChat(server.url, "good", most_at_a_time=3)
        done = await chat.reply_batch([ASKED] * 12)
        await chat.close()
        return done

    with fake_openai() as server:
        assert {one.text for one in asyncio.run(main())} == {"Hello 你好"}
    assert server.most <= 3


def test_leaving_early_hangs_up(server):
    async def main():
        chat = RemoteChat(server.url, "endless")
        async with aclosing(chat.pieces(ASKED)) as pieces:
            async for piece in pieces:
                assert piece == Delta(text="x")
                break
        await chat.close()

    server.left.clear()
    asyncio.run(main())
    assert server.left.wait(2)


def test_a_blocking_partner_streams(server):
    chat = Blocking(RemoteChat(server.url, "good"))
    assert list(chat.stream(ASKED)) == ["Hel", "lo ", "你", "好"]
    assert [one.text for one in chat.reply_batch([ASKED, ASKED])] == ["Hello 你好"] * 2
    chat.close()


def test_the_key_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "from-env")
    ask(server, settings={"api_key": None, "key_variable": "MY_KEY"})
    assert server.keys[-1] == "Bearer from-env"
    monkeypatch.delenv("MY_KEY")
    ask(server, settings={"api_key": None, "key_variable": "MY_KEY"})
    assert server.keys[-1] == "Bearer none"


def test_models_are_listed(server):
    assert asyncio.run(RemoteChat(server.url, "good").models()) == ["good"]


def test_bad_addresses_and_empty_talks_are_refused(server):
    with pytest.raises(RecipeError, match="must begin with http"):
        RemoteChat("localhost:8000", "m")
    with pytest.raises(DataError, match="no messages"):
        ask(server, messages=[])


def test_without_the_package_the_extra_is_named(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'dunwu\[remote\]'"):
        RemoteChat("http://127.0.0.1:1/v1", "m")
