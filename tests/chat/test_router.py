"""Partners made of partners. No test waits: clocks, sleeps and chances are given."""

import asyncio
import random
from contextlib import aclosing

import pytest

from dunwu.chat.bridge import Blocking, Threaded
from dunwu.chat.protocol import Delta
from dunwu.chat.router import Cascade, Fallback, Function, MeanLogprob, Retrying, SelfConsistency
from dunwu.chat.scripted import Answer, ScriptedChat
from dunwu.core.errors import BudgetError, DataError, PartnerError, RecipeError
from dunwu.core.records import Message, ToolCall

ASKED = [Message(role="user", content="hello")]
DOWN = PartnerError("down", transient=True)
REFUSED = PartnerError("refused", transient=False)


def said(*lines):
    """A partner and its script."""
    script = ScriptedChat(lines)
    return Threaded(script), script


def reply(chat, **options):
    return asyncio.run(chat.reply(ASKED, **options))


def retrying(lines, **settings):
    waits: list[float] = []

    async def sleep(seconds):
        waits.append(seconds)

    partner, script = said(*lines)
    return Retrying(partner, sleep=sleep, chance=random.Random(1), **settings), script, waits


def test_a_question_is_asked_again_until_it_is_answered():
    chat, script, waits = retrying([DOWN, DOWN, "yes"], first_wait_s=1.0)
    assert reply(chat).text == "yes"
    assert len(script.asked) == 3
    assert 0.5 <= waits[0] <= 1.0 <= waits[1] <= 2.0
    again, _, same = retrying([DOWN, DOWN, "yes"], first_wait_s=1.0)
    reply(again)
    assert same == waits


def test_what_will_not_change_is_not_asked_again():
    for error in (REFUSED, DataError("bad"), BudgetError("spent")):
        chat, script, waits = retrying([error, "yes"])
        with pytest.raises(type(error)):
            reply(chat)
        assert (len(script.asked), waits) == (1, [])


def test_attempts_and_waits_have_an_end():
    chat, script, waits = retrying([DOWN] * 9, attempts=5, first_wait_s=10, most_wait_s=15)
    with pytest.raises(PartnerError, match="down"):
        reply(chat)
    assert len(script.asked) == 5
    assert max(waits) == 15
    slow = PartnerError("busy", transient=True, retry_after_s=7)
    chat, _, waits = retrying([slow, "yes"], first_wait_s=0.1)
    reply(chat)
    assert waits == [7]


def test_an_answer_that_broke_off_is_not_begun_again():
    half = Answer(text="abc", error=DOWN, fails_after=2)
    chat, script, _ = retrying([half, "yes"])

    async def listen():
        return [text async for text in chat.stream(ASKED)]

    with pytest.raises(PartnerError, match="down"):
        asyncio.run(listen())
    assert len(script.asked) == 1
    first, _ = said(half)
    second, never = said("yes")
    with pytest.raises(PartnerError, match="down"):
        reply(Fallback([first, second]))
    assert never.asked == []


def test_the_next_partner_answers_for_one_that_is_down():
    first, _ = said(REFUSED, BudgetError("spent"), DataError("bad question"), DOWN)
    second, script = said("two", "two", DOWN)
    chat = Fallback([first, second])
    assert reply(chat).text == "two"
    assert reply(chat).text == "two"
    with pytest.raises(DataError, match="bad question"):
        reply(chat)
    with pytest.raises(PartnerError, match="none of 2 partners answered: down; down"):
        reply(chat)
    assert len(script.asked) == 3


def cascade(small, large, judge):
    first, second = said(*small), said(*large)
    return Cascade([first[0], second[0]], judge), first[1], second[1]


def test_the_large_one_is_asked_where_the_small_one_is_not_sure():
    judge = MeanLogprob(at_least=-0.3)
    chat, small, large = cascade(
        [Answer(text="sure", probability=0.9), Answer(text="hm", probability=0.5)], ["no"], judge
    )
    first = reply(chat)
    assert (first.text, first.logprobs) == ("sure", ())
    assert reply(chat).text == "no"
    assert [options.logprobs for options in (*small.options, *large.options)] == [0, 0, None]
    asked, _, _ = cascade([Answer(text="sure", probability=0.9)], [], judge)
    assert len(reply(asked, logprobs=2).logprobs) == 4
    silent, _, _ = cascade([""], ["words"], judge)
    assert reply(silent).text == "words"


def test_a_small_one_that_fails_or_is_full_is_passed_over():
    for failure in (DOWN, Answer(text="half", error=DOWN, fails_after=3), BudgetError("spent")):
        chat, _, large = cascade([failure], ["yes"], Function(lambda messages, answer: True))
        assert reply(chat).text == "yes"
        assert len(large.asked) == 1


def test_nothing_of_an_answer_is_shown_before_it_is_judged():
    chat, _, _ = cascade([Answer(text="wrong", probability=0.1)], ["right"], MeanLogprob())

    async def listen():
        return [piece async for piece in chat.pieces(ASKED)]

    texts = [piece.text for piece in asyncio.run(listen()) if isinstance(piece, Delta)]
    assert texts == list("right")


@pytest.mark.parametrize(
    ("others", "sure"),
    [(["So:\n42!", "it is 7"], True), (["It is 7", "It is 8"], False), (["  42 ", "42"], True)],
)
def test_a_small_one_is_sure_when_it_says_the_same_again(others, sure):
    chat, small, large = cascade(["Let me see.\n42.", *others], ["large"], SelfConsistency(samples=3, agree=2 / 3))
    assert reply(chat, seed=5).text == ("Let me see.\n42." if sure else "large")
    assert [options.temperature for options in small.options] == [0.0, 0.7, 0.7]
    assert len({options.seed for options in small.options}) == 3
    assert len(large.asked) == (not sure)


def test_calls_agree_when_they_are_the_same():
    calls = [
        Answer(calls=(ToolCall(id=str(number), name="f", arguments=what),))
        for number, what in enumerate(["1", "2", "2"])
    ]
    chat, _, _ = cascade(calls, ["large"], SelfConsistency(samples=3, agree=0.5))
    assert reply(chat).text == "large"
    chat, _, _ = cascade(calls[1:], ["large"], SelfConsistency(samples=2, agree=1))
    assert reply(chat).tool_calls[0].arguments == "2"


def test_a_users_function_judges_in_either_manner():
    async def slowly(messages, answer):
        return (answer.text == "good" and messages == tuple(ASKED)) or messages == ASKED

    for verdict in (lambda messages, answer: answer.text == "good", slowly):
        chat, _, _ = cascade(["good"], [], Function(verdict))
        assert reply(chat).text == "good"
    chat, _, _ = cascade(["bad"], ["large"], Function(lambda messages, answer: False))
    assert reply(chat).text == "large"


def test_leaving_a_router_leaves_whom_it_asked():
    closed: list[str] = []

    class Talker(ScriptedChat):
        def pieces(self, messages, options=None, **changes):
            try:
                while True:
                    yield Delta(text="x")
            finally:
                closed.append("closed")

    chat = Retrying(Fallback([Threaded(Talker([]))]))

    async def leave():
        async with aclosing(chat.pieces(ASKED)) as pieces:
            async for _ in pieces:
                break

    asyncio.run(leave())
    assert closed == ["closed"]


def test_a_router_blocks_like_any_partner():
    chat, _, _ = cascade([Answer(text="hm", probability=0.1)] * 3, ["yes"] * 3, MeanLogprob())
    blocking = Blocking(Retrying(chat))
    assert blocking.reply(ASKED).text == "yes"
    assert [one.text for one in blocking.reply_batch([ASKED, ASKED])] == ["yes", "yes"]
    blocking.close()


def test_settings_out_of_range_are_refused():
    partner, _ = said()
    for make in (
        lambda: Retrying(partner, attempts=0),
        lambda: Fallback([]),
        lambda: Cascade([partner], MeanLogprob()),
        lambda: MeanLogprob(0.5),
        lambda: SelfConsistency(samples=1),
        lambda: SelfConsistency(agree=0),
    ):
        with pytest.raises(RecipeError, match="use "):
            make()
