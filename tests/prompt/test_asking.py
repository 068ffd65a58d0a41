"""Budgets, failures, order: what is asked, of whom, and what it takes."""

import threading

import pytest

from dunwu.chat.ledger import Price
from dunwu.chat.options import ChatOptions
from dunwu.chat.scripted import Answer, ScriptedChat
from dunwu.core.errors import DataError, PartnerError, RecipeError
from dunwu.prompt.making.asking import MOST_FAILURES, Asker, Budget, BudgetSpent, Request
from dunwu.prompt.making.journal import opened


def request(text: str, *, tokens: int = 10) -> Request:
    return Request(step="test", prompt="test/en/0", text=text, options=ChatOptions(max_tokens=tokens, temperature=0.7))


def requests(*texts: str, tokens: int = 10) -> list[Request]:
    return [request(text, tokens=tokens) for text in texts]


def echo() -> ScriptedChat:
    return ScriptedChat(lambda messages: messages[-1].content.upper(), name="echo")


@pytest.fixture
def journal(tmp_path):
    with opened(tmp_path / "journal.jsonl") as journal:
        journal.settle({"test": 1})
        yield journal


def test_answers_come_in_order_and_are_not_asked_for_twice(journal):
    chat = echo()
    asker = Asker(chat, journal, model="echo", seed=0)
    assert [reply.text for reply in asker.ask(requests("a", "b", "a"))] == ["A", "B", "A"]
    assert len(chat.asked) == 3  # the same words at another place are another draw
    assert len({options.seed for options in chat.options}) == 3
    again = Asker(chat, journal, model="echo", seed=0)
    assert [reply.text for reply in again.ask(requests("a", "b", "a"))] == ["A", "B", "A"]
    assert len(chat.asked) == 3
    assert (again.asked, again.spent) == (0, asker.spent)
    for other in (Asker(chat, journal, model="other", seed=0), Asker(chat, journal, model="echo", seed=1)):
        other.ask(requests("a"))
    assert len(chat.asked) == 5


def test_many_at_a_time_give_the_same_replies(journal, tmp_path):
    texts = [f"text {number}" for number in range(20)]
    one = Asker(echo(), journal, model="echo", seed=3).ask(requests(*texts, tokens=5))
    together = threading.Barrier(4, timeout=10)

    def say(messages):
        together.wait()  # four are under way at once, or this breaks
        return messages[-1].content.upper()

    with opened(tmp_path / "other" / "journal.jsonl") as other:
        asker = Asker(ScriptedChat(say, name="echo"), other, model="echo", seed=3, at_a_time=4)
        assert asker.ask(requests(*texts, tokens=5)) == one


def test_no_request_is_sent_that_may_exceed_the_tokens(journal):
    # ScriptedChat counts characters: 30 are read, 4 written. The first prompt is guessed at 10 + 8 tokens, the next at 22/30 of a token
    # a character and 8; 12 may be written.
    asked = requests("x" * 30, "y" * 30, "z" * 30, tokens=12)
    chat = ScriptedChat(lambda messages: "abcd", name="four")
    asker = Asker(chat, journal, model="four", seed=0, budget=Budget(tokens=109))
    replies = asker.ask(asked)
    assert [reply is not None for reply in replies] == [True, True, False]
    assert asker.spent.tokens == 2 * (30 + 4)
    assert "68 tokens are spent, and the next request may take 42" in asker.over
    more = Asker(chat, journal, model="four", seed=0, budget=Budget(tokens=1000))
    assert all(more.ask(asked))
    assert len(chat.asked) == 3  # two of them were there


def test_a_budget_too_small_for_one_request_says_so(journal):
    poor = Asker(echo(), journal, model="echo", seed=0, budget=Budget(tokens=18))
    assert poor.ask(requests("abc")) == [None]
    assert "the budget of 18 tokens: 0 tokens are spent, and the next request may take 19" in poor.over
    asker = Asker(echo(), journal, model="echo", seed=0, budget=Budget(tokens=19))
    assert asker.ask(requests("abc"))[0].text == "ABC"
    assert asker.over == ""


@pytest.mark.parametrize(
    "budget", [{"tokens": 0}, {"cost": 0.0}, {"seconds": 0.0}, {"tokens": -1}, {"cost": float("nan")}]
)
def test_a_budget_of_nothing_is_refused(budget):
    with pytest.raises(RecipeError, match="asks nothing"):
        Budget(**budget)


def test_money_is_kept_to(journal):
    chat = ScriptedChat(lambda messages: "abcd", name="four")
    price = Price(prompt=1e6, completion=1e6)  # a coin a token
    asker = Asker(chat, journal, model="four", seed=0, price=price, budget=Budget(cost=109.0))
    replies = asker.ask(requests("x" * 30, "y" * 30, "z" * 30, tokens=12))
    assert [reply is not None for reply in replies] == [True, True, False]
    assert asker.spent.cost == 68.0
    assert "the budget of 109: 68 tokens are spent at a cost of 68" in asker.over


def test_time_and_a_stop_end_it_and_nothing_is_lost(journal):
    clock = iter(range(0, 1000, 10))
    chat = echo()
    asker = Asker(chat, journal, model="echo", seed=0, budget=Budget(seconds=35), clock=lambda: float(next(clock)))
    with pytest.raises(BudgetSpent, match="35 s"):
        asker.ask(requests("a", "b", "c", "d"))
    assert 1 <= len(journal) == len(chat.asked) < 4
    stopped = Asker(chat, journal, model="echo", seed=0, stopping=lambda: len(chat.asked) >= 3)
    with pytest.raises(BudgetSpent, match="stop"):
        stopped.ask(requests("a", "b", "c", "d"))
    assert len(journal) == 3


def test_a_wrong_key_ends_it_at_once(journal):
    error = PartnerError("refuses the key", transient=False)
    chat = ScriptedChat(lambda messages: error)
    with pytest.raises(PartnerError, match="key"):
        Asker(chat, journal, model="m", seed=0).ask(requests("a", "b", "c"))
    assert len(chat.asked) == 1


def test_one_question_that_fails_costs_itself_alone(journal):
    def say(messages):
        return DataError("too long for this model") if messages[-1].content == "b" else "fine"

    asker = Asker(ScriptedChat(say), journal, model="m", seed=0)
    assert [reply and reply.text for reply in asker.ask(requests("a", "b", "c"))] == ["fine", None, "fine"]
    assert asker.unanswered == {"too long for this model": 1}
    assert len(journal) == 2


def test_a_partner_that_fails_again_and_again_ends_it_with_what_was_answered(journal):
    def say(messages):
        return "fine" if messages[-1].content == "a" else PartnerError("502", transient=True)

    chat = ScriptedChat(say)
    with pytest.raises(PartnerError, match="502"):
        Asker(chat, journal, model="m", seed=0).ask(requests(*"abcdefghij"))
    assert len(chat.asked) == 1 + MOST_FAILURES
    assert len(journal) == 1


def test_an_answer_cut_at_the_limit_is_not_finished(journal):
    asker = Asker(ScriptedChat(["abcdef", Answer(text="<think>hm</think> ok")]), journal, model="m", seed=0)
    cut, thought = asker.ask(requests("a", tokens=3) + requests("b", tokens=100))
    assert (cut.text, cut.finished) == ("abc", False)
    assert (thought.text, thought.finished) == ("ok", True)
