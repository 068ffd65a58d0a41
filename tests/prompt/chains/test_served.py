"""A chain as a partner in a conversation."""

import asyncio
import json

import pytest

from dunwu.chat.bridge import Blocking, Threaded
from dunwu.chat.options import ChatOptions
from dunwu.chat.protocol import Finish
from dunwu.chat.scripted import ScriptedChat
from dunwu.core.errors import DataError, PartnerError
from dunwu.core.records import Message
from dunwu.prompt.chains import Ask, Chain, Fill, Inputs, Json, Lines
from dunwu.prompt.chains.served import BlockingChainChat, ChainChat, models_of
from tests.prompt.chains.test_steps import Batches


def echo(messages):
    return f"<{messages[-1].content}>"


def talk(*texts, system=""):
    turns = [Message(role=("user", "assistant")[place % 2], content=text) for place, text in enumerate(texts)]
    return [*([Message(role="system", content=system)] if system else []), *turns]


TWO = Ask("A {{ x }}", gives="a") | Ask("B {{ a }}", gives="b")


def test_the_last_message_is_the_one_value_that_is_missing():
    chat = BlockingChainChat(TWO, ScriptedChat(echo))
    done = chat.reply(talk("kites"))
    assert done.text == "<B <A kites>>"
    assert done.finish_reason == "stop"
    assert done.usage.prompt_tokens == len("A kites") + len("B <A kites>")
    assert done.usage.completion_tokens == len("<A kites>") + len("<B <A kites>>")
    assert "".join(chat.stream(talk("kites"))) == done.text
    pieces = list(chat.pieces(talk("kites")))
    assert len(pieces) == len(done.text) + 1
    assert isinstance(pieces[-1], Finish)


def test_a_conversation_gives_its_usual_values():
    chain = Fill("{{ system }}|{{ history }}|{{ question }}|{{ messages|length }}")
    chat = BlockingChainChat(chain, None)
    assert chat.reply(talk("one", "two", "three", system="be kind")).text == "be kind|user: one\nassistant: two|three|4"


def test_several_values_come_as_json():
    chat = BlockingChainChat(Inputs("who", "what", n=int) | Fill("{{ who }}{{ what }}{{ n }}"), None)
    assert chat.reply(talk('{"who": "a", "what": "b", "n": 3}')).text == "ab3"
    for text, says in (
        (
            "hello",
            r'takes who, what, n: write them in the last message as a JSON object, \{"who": …, "what": …, "n": …\}',
        ),
        ('{"who": "a", "wat": "b", "n": 1}', "gives no 'what'; did you mean 'wat'"),
        ('{"who": "a", "what": "b", "n": 1, "m": 1}', "gives 'm', which this chain does not take"),
        ("[1]", "write them"),
    ):
        with pytest.raises(DataError, match=says):
            chat.reply(talk(text))
    with pytest.raises(DataError, match="n is 'x', and is wanted as int"):
        chat.reply(talk('{"who": "a", "what": "b", "n": "x"}'))


def test_an_answer_that_is_no_text_is_json():
    chat = BlockingChainChat(Ask("{{ x }}") | Lines(), ScriptedChat(["1. é\n2. b"]))
    done = chat.reply(talk("q"))
    assert json.loads(done.text) == ["é", "b"]


def test_what_goes_wrong_is_the_partners():
    chat = BlockingChainChat(Ask("{{ x }}") | Json(), ScriptedChat(["no", PartnerError("busy", transient=True)]))
    with pytest.raises(PartnerError, match="the chain failed: parse data: the answer holds no JSON") as failed:
        chat.reply(talk("q"))
    assert not failed.value.transient
    with pytest.raises(PartnerError, match="busy") as busy:
        chat.reply(talk("q"))
    assert busy.value.transient
    with pytest.raises(DataError, match="no messages"):
        chat.reply([])


def test_options_of_the_request_hold_for_steps_that_say_nothing_else():
    partner = ScriptedChat(echo)
    chat = BlockingChainChat(Ask("{{ x }}", gives="a", max_tokens=2) | Ask("{{ a }}", gives="b"), partner)
    done = chat.reply(talk("long question"), ChatOptions(max_tokens=3, seed=4))
    assert done.text == "<<l"
    assert done.finish_reason == "length"
    assert [(one.max_tokens, one.seed) for one in partner.options] == [(2, 4), (3, 4)]
    for wrong in ({"tools": ({"type": "function", "function": {"name": "f"}},)}, {"schema": {"type": "object"}}):
        with pytest.raises(DataError, match="is a chain, "):
            chat.reply(talk("q"), **wrong)


def test_many_conversations_go_step_by_step():
    partner = Batches(echo)
    chat = BlockingChainChat(TWO, partner)
    assert [one.text for one in chat.reply_batch([talk("1"), talk("2"), talk("3")])] == [f"<B <A {n}>>" for n in "123"]
    assert partner.batches == [3, 3]


def test_in_asyncio_and_back():
    async def main():
        return (await ChainChat(TWO, Threaded(ScriptedChat(echo))).reply(talk("k"))).text

    assert asyncio.run(main()) == "<B <A k>>"
    blocking = Blocking(ChainChat(TWO, ScriptedChat(echo)))
    assert blocking.reply(talk("k")).text == "<B <A k>>"
    blocking.close()


def test_the_partners_that_a_chain_names():
    chain = Chain(Ask("a", gives="a", model="x") & (Ask("b", gives="b", model="y") | Ask("c", gives="c", model="x")))
    assert models_of(chain) == ["x", "y"]
