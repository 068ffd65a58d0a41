"""What holds for every partner: the pieces, the whole, both ways of waiting."""

import asyncio
import threading
import time
from contextlib import aclosing

import pytest

from dunwu.chat.bridge import Blocking, Threaded
from dunwu.chat.options import ChatOptions
from dunwu.chat.protocol import AsyncChat, Chat, Delta, Finish, completion_of
from dunwu.chat.scripted import Answer, ScriptedChat
from dunwu.core.errors import DataError, PartnerError, RecipeError
from dunwu.core.records import Message, TokenUsage, ToolCall

ASKED = [Message(role="user", content="hello")]
CALL = ToolCall(id="c1", name="look", arguments='{"a": 1}')


def test_a_completion_has_all_that_the_pieces_said():
    chat = ScriptedChat([Answer(text="Hm 你", calls=(CALL, CALL), probability=0.5)], name="fake")
    done = chat.reply(ASKED, logprobs=1)
    assert (done.text, done.finish_reason, done.model) == ("Hm 你", "tool_calls", "fake")
    assert done.tool_calls == (CALL, CALL)
    assert done.usage == TokenUsage(prompt_tokens=5, completion_tokens=4)
    assert done.ids == tuple(map(ord, "Hm 你"))
    assert [one.text for one in done.logprobs] == list("Hm 你")
    assert all(one.logprob == pytest.approx(-0.6931, abs=1e-4) for one in done.logprobs)


def test_an_answer_without_an_end_is_no_answer():
    with pytest.raises(PartnerError, match="broke off") as caught:
        completion_of([Delta(text="half")])
    assert caught.value.transient


def test_what_was_thought_is_no_part_of_the_answer():
    done = completion_of([Delta(thinking="7 "), Delta(thinking="less"), Delta(text="Yes"), Finish(reason="stop")])
    assert (done.text, done.thinking) == ("Yes", "7 less")


def test_a_script_keeps_to_its_options():
    chat = ScriptedChat(["one, two", "one, two", Answer(text="x", calls=(CALL,))])
    assert chat.reply(ASKED, max_tokens=3).finish_reason == "length"
    assert chat.reply(ASKED, stop=(", ", "e")).text == "on"
    assert chat.reply(ASKED, tool_choice="none").tool_calls == ()
    assert [asked.max_tokens for asked in chat.options] == [3, 256, 256]
    with pytest.raises(DataError, match="asked once more"):
        chat.reply(ASKED)
    with pytest.raises(DataError, match="no messages"):
        chat.reply([])


def test_a_script_fails_and_waits_on_demand():
    waited: list[float] = []
    broken = PartnerError("gone", transient=True)
    chat = ScriptedChat([broken, Answer(text="abcd", error=broken, fails_after=2, latency_s=1.5)], sleep=waited.append)
    with pytest.raises(PartnerError, match="gone"):
        chat.reply(ASKED)
    said: list[str] = []
    with pytest.raises(PartnerError, match="gone"):
        said.extend(chat.stream(ASKED))
    pieces = ScriptedChat([Answer(text="abcd", error=broken, fails_after=2)]).stream(ASKED)
    assert (next(pieces), next(pieces)) == ("a", "b")
    with pytest.raises(PartnerError):
        next(pieces)
    assert waited == [1.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -1}, "temperature=-1 is out of range; use 0 or more"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_p": 1.5}, "use 0 to 1"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"stop": "x"}, "must be a tuple"),
        ({"stop": ("",)}, "none empty"),
        ({"schema": {}, "tools": ({"name": "f"},)}, "give one of schema and tools"),
    ],
)
def test_options_out_of_range_are_refused_before_anybody_is_asked(changes, message):
    chat = ScriptedChat(["x"])
    with pytest.raises(RecipeError, match=message):
        chat.reply(ASKED, **changes)
    assert chat.asked == []


def test_a_partner_in_a_thread_and_back_says_the_same():
    def script(messages):
        return Answer(text=messages[-1].content[::-1], calls=(CALL,))

    plain = ScriptedChat(script)
    there_and_back = Blocking(Threaded(ScriptedChat(script), threads=3))
    assert isinstance(there_and_back, Chat)
    assert isinstance(there_and_back.chat, AsyncChat)
    options = ChatOptions(logprobs=0, max_tokens=40)
    assert there_and_back.reply(ASKED, options) == plain.reply(ASKED, options)
    assert list(there_and_back.stream(ASKED)) == list("olleh")
    many = [[Message(role="user", content=str(number))] for number in range(20)]
    assert [one.text for one in there_and_back.reply_batch(many)] == [one.text for one in plain.reply_batch(many)]
    each = [ChatOptions(max_tokens=1 + number % 2) for number in range(20)]
    told = there_and_back.reply_each(many[10:], each[10:])
    assert told == plain.reply_each(many[10:], each[10:])
    assert [one.finish_reason for one in told] == ["length", "tool_calls"] * 5
    there_and_back.close()


def test_errors_cross_the_bridge_as_they_are():
    broken = PartnerError("gone", transient=True)
    both = Blocking(Threaded(ScriptedChat([broken, broken])))
    with pytest.raises(PartnerError, match="gone"):
        both.reply(ASKED)
    with pytest.raises(PartnerError, match="gone"):
        both.reply_batch([ASKED])
    both.close()


class Endless(ScriptedChat):
    """Goes on until it is closed."""

    def __init__(self) -> None:
        super().__init__([])
        self.closed = threading.Event()

    def pieces(self, messages, options=None, **changes):
        try:
            while True:
                time.sleep(0.001)
                yield Delta(text="x")
        finally:
            self.closed.set()


def test_leaving_early_ends_the_answer():
    async def leave(how: str) -> None:
        partner = Endless()
        chat = Threaded(partner)
        if how == "break":
            async with aclosing(chat.stream(ASKED)) as texts:
                async for _ in texts:
                    break
        else:
            task = asyncio.create_task(chat.reply(ASKED))
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await asyncio.to_thread(partner.closed.wait, 2)
        chat.close()

    asyncio.run(leave("break"))
    asyncio.run(leave("cancel"))
    partner = Endless()
    both = Blocking(Threaded(partner))
    texts = both.stream(ASKED)
    assert next(texts) == "x"
    texts.close()
    assert partner.closed.wait(2)
    both.close()


def test_a_batch_fails_with_the_error_of_the_one_that_failed():
    def script(messages):
        return PartnerError("no", transient=False) if messages[-1].content == "3" else "yes"

    chat = Threaded(ScriptedChat(script), threads=4)
    many = [[Message(role="user", content=str(number))] for number in range(8)]
    with pytest.raises(PartnerError, match="no"):
        asyncio.run(chat.reply_batch(many))


def test_the_finish_is_the_last_piece():
    *deltas, end = ScriptedChat(["ab"]).pieces(ASKED)
    assert end == Finish(reason="stop", usage=TokenUsage(prompt_tokens=5, completion_tokens=2), model="scripted")
    assert all(isinstance(one, Delta) for one in deltas)
