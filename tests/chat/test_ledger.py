"""Tokens, time and money: counted for each partner, charged to who pays, kept to budgets."""

import asyncio
import itertools
from contextlib import aclosing
from datetime import UTC, datetime

import pytest

from dunwu.chat.bridge import Threaded
from dunwu.chat.ledger import Budget, Budgeted, Counted, Ledger, Price, Tally
from dunwu.chat.router import Cascade, Fallback, Function, MeanLogprob, SelfConsistency
from dunwu.chat.scripted import Answer, ScriptedChat
from dunwu.core.errors import BudgetError, PartnerError, RecipeError
from dunwu.core.records import Message, TokenUsage

ASKED = [Message(role="user", content="x" * 10)]  # 10 tokens for a scripted partner
PRICE = Price(prompt=1e6, completion=3e6)  # one for a token read, three for one written


def counted(lines, *, name="it", ledger=None, price=PRICE, clock=None):
    ticks = itertools.count()
    return Counted(
        Threaded(ScriptedChat(lines)),
        name,
        ledger or Ledger(),
        price=price,
        clock=clock or (lambda: float(next(ticks))),
    )


def reply(chat, **options):
    return asyncio.run(chat.reply(ASKED, **options))


def test_a_price_is_for_a_million_tokens():
    usage = TokenUsage(prompt_tokens=1000, completion_tokens=500, cached_tokens=400)
    assert Price(prompt=2, completion=8).of(usage) == pytest.approx(0.002 + 0.004)
    assert Price(prompt=2, completion=8, cached=0.5).of(usage) == pytest.approx(0.0012 + 0.0002 + 0.004)
    with pytest.raises(RecipeError, match="use 0 or more"):
        Price(prompt=-1, completion=0)


def test_tokens_time_and_money_are_counted_by_partner():
    chat = counted(["four", "two"])
    assert reply(chat).cost == 10 + 3 * 4
    reply(chat)
    tally = chat.ledger.tallies["it"]
    assert (tally.asked, tally.answered, tally.prompt_tokens, tally.completion_tokens) == (2, 2, 20, 7)
    assert tally.cost == 20 + 21
    assert (tally.first_s, tally.whole_s) == (2.0, 4.0)  # the clock ticks when it is looked at
    assert reply(counted(["x"], price=None)).cost is None


def test_failed_and_abandoned_answers_are_counted_apart_and_words_that_came_are_paid_for():
    broken = PartnerError("down", transient=True)
    chat = counted([broken, Answer(text="abcdef", error=broken, fails_after=2), "abcdef"])
    for _ in range(2):
        with pytest.raises(PartnerError):
            reply(chat)

    async def leave():
        async with aclosing(chat.pieces(ASKED)) as pieces:
            await anext(pieces)
            await anext(pieces)
            await anext(pieces)

    asyncio.run(leave())
    tally = chat.ledger.tallies["it"]
    assert (tally.asked, tally.failed, tally.left, tally.answered) == (3, 2, 1, 0)
    assert tally.completion_tokens == 2 + 3
    assert tally.prompt_tokens == 2 * 8  # an estimate: nobody told
    assert tally.cost == 16 + 15
    assert tally.whole_s == 0


def test_a_budget_refuses_once_it_is_spent():
    budget = Budget("ann", 30.0)
    chat = Budgeted(counted(["four"] * 3), budget)
    reply(chat)
    assert budget.spent == 22
    reply(chat)  # there was still something left
    with pytest.raises(BudgetError, match=r"the budget of ann is spent: 44\.0000 of 30; raise its limit"):
        reply(chat)
    assert len(chat.chat.chat.chat.asked) == 2
    with pytest.raises(BudgetError):
        reply(Budgeted(counted(["x"]), Budget("nobody", 0)))


def test_all_that_was_asked_on_the_way_is_charged():
    budget = Budget("ann", 1000)
    ledger = Ledger()
    small = counted(["a", "b", "c"], name="small", ledger=ledger)
    large = counted(["yes"], name="large", ledger=ledger)
    done = reply(Budgeted(Cascade([small, large], SelfConsistency(samples=3)), budget))
    assert done.text == "yes"
    assert ledger.tallies["small"].asked == 3
    assert budget.spent == 3 * (10 + 3) + 10 + 9
    assert done.cost == 10 + 3 + 10 + 9  # the answers that were only compared are in the ledger and the budget
    team = Budget("team", 1000)
    reply(Budgeted(Budgeted(counted(["x"]), budget), team))
    assert team.spent == 13


def test_a_free_partner_answers_for_one_whose_budget_is_spent():
    spent = Budgeted(counted(["paid"]), Budget("remote", 0))
    assert reply(Fallback([spent, counted(["free"], price=None)])).text == "free"
    sure = Function(lambda messages, answer: True)
    assert reply(Cascade([spent, counted(["free"], price=None)], sure)).text == "free"


def test_leaving_does_not_get_around_a_budget():
    budget = Budget("ann", 20)
    chat = Budgeted(counted(["a long answer"] * 9), budget)

    async def leave():
        async with aclosing(chat.pieces(ASKED)) as pieces:
            for _ in range(5):
                await anext(pieces)

    asyncio.run(leave())
    with pytest.raises(BudgetError):
        reply(chat)


def test_periods_begin_anew_and_outlive_the_process(tmp_path):
    now = [datetime(2026, 1, 31, tzinfo=UTC)]
    path = tmp_path / "ann.json"

    def budget(period="month"):
        return Budget("ann", 10, period=period, path=path, today=lambda: now[0])

    first = budget()
    first.charge(9)
    first.charge(3)
    assert budget().spent == 12
    with pytest.raises(BudgetError, match="the next month begins anew"):
        budget().require_open()
    now[0] = datetime(2026, 2, 1, tzinfo=UTC)
    assert (first.spent, budget().spent) == (0, 0)
    first.require_open()
    daily = Budget("bob", 1, period="day", today=lambda: now[0])
    daily.charge(2)
    now[0] = datetime(2026, 2, 2, tzinfo=UTC)
    daily.require_open()


def test_a_ledger_adds_from_many_answers_at_once():
    chat = counted(["abc"] * 50)
    asyncio.run(chat.reply_batch([ASKED] * 50))
    assert chat.ledger.tallies == {
        "it": Tally(
            asked=50,
            prompt_tokens=500,
            completion_tokens=150,
            cost=950,
            first_s=chat.ledger.tallies["it"].first_s,
            whole_s=chat.ledger.tallies["it"].whole_s,
        )
    }


def test_logprobs_that_a_judge_wanted_cost_nothing_to_who_asked():
    small = counted([Answer(text="abc", probability=0.9)])
    done = reply(Cascade([small, counted([])], MeanLogprob()))
    assert (done.logprobs, done.cost) == ((), 19)
