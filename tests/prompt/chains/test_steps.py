"""Steps put together: what is checked when they are composed, and what they give when they run."""

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from dunwu.chat.bridge import Threaded
from dunwu.chat.options import ChatOptions
from dunwu.chat.scripted import Answer, ScriptedChat
from dunwu.core.errors import DataError, DunwuError, PartnerError, PromptError
from dunwu.core.records import Completion
from dunwu.core.templates import Template
from dunwu.prompt.chains import (
    Ask,
    Branch,
    Call,
    Chain,
    Fill,
    Inputs,
    Json,
    Lines,
    Map,
    Parallel,
    Reduce,
    Regex,
    Schema,
    Split,
    StepError,
)


def echo(messages):
    return f"<{messages[-1].content}>"


class Product(BaseModel):
    name: str
    price: float


# What is checked when steps are composed.


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: Ask("{{ a }}") | Lines(of="answr"), r"step 2 \(parse lines\) needs 'answr'.*did you mean 'answer'\?"),
        (
            lambda: Inputs("product") | Ask("{{ prodct }}"),
            r"step 1 \(ask answer\) needs 'prodct'.*did you mean 'product'\?$",
        ),
        (lambda: Ask("{{ a }}") | Ask("{{ b }}", gives="x"), r"Inputs\('a', 'b'\)"),
        (lambda: Ask("{{ a }}") | Ask("{{ answer }}{{ a }}"), None),
        (lambda: Ask("{{ a }}") | Ask("{{ a }}"), r"gives 'answer', which step 1 \(ask answer\) already gave"),
        (lambda: Ask("{{ a }}", gives="a"), None),
        (lambda: Ask("{{ a }}") & Ask("{{ b }}"), "side by side, two steps give 'answer'"),
        (lambda: Parallel(Ask("{{ a }}")), "at least two steps"),
        (lambda: Lines() | Lines("again", of="lines"), "takes 'lines' as text, and .* gives it as list.text."),
        (lambda: Lines() | Map(Ask("{{ line }}"), over="lines", item="line"), None),
        (lambda: Lines() | Map(Ask("{{ line }}"), over="lines", item="lne"), "does not take; did you mean 'line'"),
        (lambda: Ask("{{ a }}") | Inputs("b") | Fill("{{ b }}"), "Inputs can only begin a chain"),
        (lambda: Chain(), "at least one step"),
        (lambda: Chain(Inputs("a")), "a step beside its inputs"),
        (lambda: Chain(Ask("{{ a }}"), answer="answr"), "which no step gives; did you mean 'answer'"),
        (lambda: Ask("{{ a }}") | 3, "3 is no step of a chain"),
        (lambda: Ask("{{ a"), "template of ask, line 1"),
        (lambda: Ask("x", temperature=-1), "temperature=-1 is out of range"),
        (lambda: Regex("(a)(b)"), "name each"),
        (lambda: Regex("("), "is not valid"),
        (lambda: Call("first_paragraph"), "did you mean 'first_paragraphs'"),
        (lambda: Call("first_paragraphs", fixed={"m": 3}), "has no parameter 'm'"),
        (lambda: Split("x", size=3, overlap=3), "less overlap"),
        (lambda: Split("x", by="token"), "did you mean 'tokens'"),
        (lambda: Branch("k", {}), "at least one step to choose"),
        (lambda: Branch("k", {"a": Fill("x", gives="p"), "b": Fill("y", gives="q")}), "different names: p and q"),
        (lambda: Reduce(Fill("{{ texts }}") | (lambda prompt: 3), over="x", item="texts"), None),
        (lambda: Reduce(Lines(of="texts"), over="x", item="texts"), "needs a step that gives text"),
        (lambda: Ask("x").retrying(0), "at least 1 attempt"),
    ],
)
def test_composition_is_checked(made, says):
    if says is None:
        made()
        return
    with pytest.raises(DunwuError, match=says):
        made()


def test_kinds_come_from_annotations():
    def count(names: list[str]) -> int:
        return len(names)

    def shout(text: str) -> str:
        return text.upper()

    chain = Ask("{{ a }}") | Lines("names") | count
    assert chain.gives == {"count": int}
    with pytest.raises(PromptError, match=r"takes 'names' as text, and step 2 .* gives it as list\[text\]"):
        Ask("{{ a }}") | Lines("names") | Call(shout, reads={"text": "names"})


def test_whatever_can_stand_for_a_step_does():
    chat = ScriptedChat(['Sure: {"name": "Kite", "price": 3}'])
    chain = (
        Template("Describe {{ thing }}") | (chat | Schema(Product)) | Call(lambda data: data.price * 2, gives="twice")
    )
    result = chain.run({"thing": "a kite"})
    assert chat.asked[0][0].content == "Describe a kite"
    assert result.values["data"] == Product(name="Kite", price=3)
    assert result.answer == 6


# What runs.


def test_product_to_company_name_to_slogan():
    chat = ScriptedChat(lambda messages: "Skyward" if "name" in messages[-1].content else "Up we go")
    chain = Ask("A name for a company that makes {{ product }}", gives="company") | Ask(
        "A slogan for {{ company }}, which makes {{ product }}", system="You sell {{ product }}.", gives="slogan"
    )
    result = chain.run({"product": "kites"}, chat)
    assert dict(result.values) == {"product": "kites", "company": "Skyward", "slogan": "Up we go"}
    assert result.answer == "Up we go"
    assert [message.content for message in chat.asked[1]] == [
        "You sell kites.",
        "A slogan for Skyward, which makes kites",
    ]


def test_side_by_side_both_see_the_same_and_both_count():
    chain = (Ask("A {{ x }}", gives="a") & Ask("B {{ x }}", gives="b")) | Fill("{{ a }}{{ b }}", gives="both")
    assert chain.run({"x": 1}, ScriptedChat(echo)).answer == "<A 1><B 1>"
    alone = Ask("A {{ x }}", gives="a") & Ask("B {{ x }}", gives="b")
    assert alone.run({"x": 1}, ScriptedChat(echo)).answer == {"a": "<A 1>", "b": "<B 1>"}


def test_what_is_given_is_checked():
    chain = Inputs("doc", n=int) | Fill("{{ doc }}{{ n }}")
    assert chain.run({"doc": "a", "n": 1}).answer == "a1"
    for values, says in (
        ({"dox": "a", "n": 1}, "needs 'doc', which is not given; did you mean 'dox'"),
        ({"doc": "a", "n": 1, "m": 2}, "takes no 'm'; there are: doc, n"),
        ({"doc": "a", "n": "1"}, "n is '1', and is wanted as int"),
    ):
        with pytest.raises(PromptError, match=says):
            chain.run(values)


def test_without_a_partner_it_says_so():
    with pytest.raises(PromptError, match="ask answer needs a model, and none was given"):
        Ask("x").run({})
    with pytest.raises(PromptError, match="needs the model 'smal', which was not given; did you mean 'small'"):
        Ask("x", model="smal").run({}, {"small": ScriptedChat(["a"])})


def test_steps_may_have_partners_of_their_own():
    chain = Ask("x", gives="a", model="big") | Ask("y {{ a }}", gives="b")
    big, small = ScriptedChat(["BIG"], name="big"), ScriptedChat(echo, name="small")
    result = chain.run({}, {"": small, "big": big})
    assert result.answer == "<y BIG>"
    assert [span.model for span in result.trace.spans] == ["big", "small"]


def test_templates_in_values_stay_text():
    chat = ScriptedChat(echo)
    result = (Ask("{{ x }}", gives="a") | Ask("{{ a }}", gives="b")).run({"x": "{{ 7 * 7 }}{% for %}"}, chat)
    assert result.answer == "<<{{ 7 * 7 }}{% for %}>>"


class Batches(ScriptedChat):
    """Counts what is asked together."""

    def __init__(self, script):
        super().__init__(script)
        self.batches = []

    def reply_batch(self, conversations, options=None, **changes):
        self.batches.append(len(conversations))
        return super().reply_batch(conversations, options, **changes)


def test_a_batch_asks_each_step_for_all_items_at_once():
    chat = Batches(echo)
    chain = Ask("A {{ x }}", gives="a") | Ask("B {{ a }}", gives="b")
    results = chain.batch([{"x": number} for number in range(5)], chat)
    assert [result.answer for result in results] == [f"<B <A {number}>>" for number in range(5)]
    assert chat.batches == [5, 5]
    assert [span.batch for span in results[0].trace.spans] == [5, 5]


def test_map_asks_for_all_items_of_all_lists_at_once_and_keeps_them_apart():
    chat = Batches(echo)
    chain = Map(Ask("{{ prefix }}{{ w }}", gives="said"), over="words", item="w", gives="all") | (lambda all: len(all))
    results = chain.batch(
        [{"words": ["a", "b"], "prefix": "p"}, {"words": [], "prefix": "q"}, {"words": ["c"], "prefix": "r"}], chat
    )
    assert [result.values["all"] for result in results] == [["<pa>", "<pb>"], [], ["<rc>"]]
    assert chat.batches == [3]
    assert len(results[0].trace.spans[0].children) == 2


def test_reduce_halves_until_one_is_left():
    chat = Batches(lambda messages: f"({messages[-1].content})")
    step = Reduce(Ask("{{ texts|join('+') }}", gives="whole"), over="parts", at_a_time=2)
    assert step.run({"parts": list("abcde")}, chat).answer == "(((a+b)+(c+d))+e)"
    assert chat.batches == [2, 1, 1]
    assert step.run({"parts": ["a"]}, chat).answer == "(a)"
    with pytest.raises(PromptError, match="at least one text"):
        step.run({"parts": []}, chat)


def test_reduce_within_tokens_still_comes_to_an_end():
    chat = Batches(lambda messages: f"({messages[-1].content})")
    step = Reduce(Ask("{{ texts|join('+') }}", gives="whole"), over="parts", at_a_time=9, most_tokens=5)
    answer = step.run({"parts": ["aa", "bb", "cccccc", "d"]}, chat, count=len).answer
    assert answer == "((aa+bb)+(cccccc+d))"


def test_branch_chooses_by_value_and_by_function():
    by_name = Branch("language", {"de": Fill("Hallo {{ who }}"), "en": Fill("Hello {{ who }}")})
    items = [{"language": one, "who": "Ada"} for one in ("de", "en", "de", "fr")]
    results = by_name.batch(items)
    assert [result.answer for result in results] == ["Hallo Ada", "Hello Ada", "Hallo Ada", None]
    assert "there is no step for 'fr'; " in str(results[3].error)
    other = Branch(
        lambda values: "long" if len(values["text"]) > 3 else "short",
        {"long": Call("first_paragraphs", gives="out", fixed={"n": 1})},
        otherwise=Call("strip", gives="out"),
    )
    assert [result.answer for result in other.batch([{"text": "aaaa\n\nb"}, {"text": " b "}])] == ["aaaa", "b"]


@pytest.mark.parametrize(
    ("step", "text", "found"),
    [
        (Json(), 'Here: {"a": [1, 2]} and more', {"a": [1, 2]}),
        (Json(), "{not json} then [1]", [1]),
        (Json(), '```json\n{"a": 1}\n```\n{"b": 2}', {"a": 1}),
        (Json(), " 42 ", 42),
        (
            Lines(),
            "\n1. One\n\n 2) Two\n- three\n* four\n五、 five\nplain 6. x",
            ["One", "Two", "three", "four", "五、 five", "plain 6. x"],
        ),
        (Lines(marks=True), "1. One", ["1. One"]),
        (Regex(r"answer is (\d+)"), "The answer is 42.", "42"),
        (Regex(r"(?P<a>\w)=(?P<b>\d)"), "x=1, y=2", {"a": "x", "b": "1"}),
        (Regex(r"\d+", every=True), "1 22 333", ["1", "22", "333"]),
        (Schema(Product), 'x {"name": "k", "price": 1}', Product(name="k", price=1)),
    ],
)
def test_parsers_read(step, text, found):
    assert step.run({"answer": text}).answer == found


@pytest.mark.parametrize(
    ("step", "text", "says"),
    [
        (Json(), "no braces at all", "holds no JSON; it is 'no braces at all'"),
        (Json(), "[" * 100_000, "holds no JSON"),
        (Lines(), " \n ", "has no lines"),
        (Regex("x+"), "abc", "nothing fits 'x\\+' in 'abc'"),
        (Regex("(?:a+)+$"), "a" * 60 + "b", "nothing fits|took more than"),
        (Schema(Product), '{"name": "k"}', "the answer's price: Field required"),
    ],
)
def test_what_cannot_be_read_is_a_step_error(step, text, says):
    with pytest.raises(StepError, match=says):
        step.run({"answer": text})


def test_functions_may_be_asynchronous_give_several_names_and_fail():
    async def both(x: int) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"more": x + 1, "less": x - 1}

    chain = Call(both, gives=("more", "less")) | Call(lambda more, less, by=10: more * less * by, gives="product")
    assert chain.run({"x": 3}).answer == 80
    with pytest.raises(StepError, match="call half: TypeError: unsupported operand"):
        Call(lambda x: x / 2, gives="half").run({"x": "a"})
    with pytest.raises(PromptError, match="must return a mapping or a tuple of 2"):
        Call(lambda x: x, gives=("a", "b")).run({"x": 1})


# Errors and retries.


def no_sleep(waits):
    async def sleep(seconds):
        waits.append(seconds)

    return sleep


def test_one_item_that_fails_does_not_end_the_others():
    def script(messages):
        return DataError("bad one") if "2" in messages[-1].content else echo(messages)

    results = (Ask("{{ x }}") | Lines()).batch([{"x": number} for number in range(4)], ScriptedChat(script))
    assert [result.answer for result in results] == [["<0>"], ["<1>"], None, ["<3>"]]
    assert str(results[2].error) == "bad one"
    assert [span.error for span in results[2].trace.spans] == ["bad one"]
    assert results[2].trace.error == "bad one"


def test_a_busy_partner_is_asked_again_with_growing_waits():
    waits: list[float] = []
    busy = PartnerError("busy", transient=True)
    chat = ScriptedChat([busy, busy, "done"])
    result = Ask("x").retrying(3, first_wait_s=1.0).run({}, chat, sleep=no_sleep(waits))
    assert result.answer == "done"
    assert result.trace.spans[0].failures == ["busy", "busy"]
    assert result.trace.retries == 2
    assert 0.5 <= waits[0] <= 1 <= waits[1] <= 2
    told = ScriptedChat([PartnerError("busy", transient=True, retry_after_s=7), "done"])
    Ask("x").retrying(2).run({}, told, sleep=no_sleep(waits))
    assert waits[2] == 7


def test_what_would_fail_again_is_not_asked_again():
    chat = ScriptedChat([PartnerError("no such model", transient=False), "done"])
    with pytest.raises(PartnerError, match="no such model"):
        Ask("x").retrying(3).run({}, chat)
    assert len(chat.asked) == 1


def test_asking_and_reading_are_retried_together_for_the_items_that_need_it():
    said = {"a": iter(["oops", '{"v": 1}']), "b": iter(['{"v": 2}']), "c": iter(["no", "no", "no"])}
    chat = ScriptedChat(lambda messages: next(said[messages[-1].content]))
    step = (Ask("{{ x }}", seed=5) | Json()).retrying(3, first_wait_s=0)
    results = step.batch([{"x": one} for one in "abc"], chat)
    assert [result.answer for result in results] == [{"v": 1}, {"v": 2}, None]
    assert [result.trace.retries for result in results] == [1, 0, 2]
    assert "holds no JSON" in str(results[2].error)
    assert len(chat.asked) == 6
    spans = results[0].trace.spans
    assert [child.step for child in spans[0].children] == ["ask answer", "parse data"] * 2
    assert spans[0].completion_tokens == len("oops") + len('{"v": 1}')


def test_another_attempt_has_another_seed():
    chat = ScriptedChat([PartnerError("busy", transient=True), "done"])
    Ask("x", seed=5).retrying(2, first_wait_s=0).run({}, chat)
    assert [one.seed for one in chat.options] == [5, 6]


def test_options_of_the_run_hold_where_a_step_says_nothing():
    chat = ScriptedChat(echo)
    (Ask("x", gives="a", temperature=0.5) | Ask("y", gives="b")).run(
        {}, chat, options=ChatOptions(max_tokens=9, seed=1)
    )
    assert [(one.max_tokens, one.temperature, one.seed) for one in chat.options] == [(9, 0.5, 1), (9, 0.0, 1)]


# As it is made, and in asyncio.


def test_the_last_answer_streams():
    chain = Ask("A {{ x }}", gives="a") | Ask("B {{ a }}", gives="b")
    pieces = list(chain.stream({"x": 1}, ScriptedChat(echo)))
    assert pieces == list("<B <A 1>>")
    parsed = list((chain | Lines(of="b")).stream({"x": 1}, ScriptedChat(echo)))
    assert parsed == ["['<B <A 1>>']"]
    chosen = Chain(Ask("A", gives="a"), Ask("B", gives="b"), answer="a")
    assert list(chosen.stream({}, ScriptedChat(echo))) == ["<A>"]


def test_events_tell_all_that_happens_in_order():
    chain = Ask("A", gives="a").retrying(2, first_wait_s=0) | Fill("{{ a }}!")
    events = list(chain.events({}, ScriptedChat([PartnerError("busy", transient=True), "xy"])))
    assert [type(event).__name__ for event in events] == [
        "Began",
        "Again",
        "Text",
        "Text",
        "Ended",
        "Began",
        "Ended",
        "Result",
    ]
    assert events[-1].answer == "xy!"


def test_an_answer_that_broke_off_after_its_first_words_is_not_begun_again_in_a_stream():
    broken = Answer(text="abcdef", error=PartnerError("gone", transient=True), fails_after=3)
    step = Ask("A").retrying(2, first_wait_s=0)
    stream = step.stream({}, ScriptedChat([broken, "second"]))
    pieces = [next(stream) for _ in range(3)]
    with pytest.raises(PromptError, match="broke off: gone"):
        next(stream)
    assert pieces == list("abc")
    assert step.run({}, ScriptedChat([broken, "second"])).answer == "second"


def test_a_stream_that_is_left_ends_the_answer():
    closed = []

    class Closing(ScriptedChat):
        def pieces(self, messages, options=None, **changes):
            try:
                yield from super().pieces(messages, options, **changes)
            finally:
                closed.append(True)

    stream = Ask("A").stream({}, Closing(["a long answer"]))
    assert next(stream) == "a"
    stream.close()
    assert closed == [True]


def test_in_asyncio_with_an_asynchronous_partner():
    async def main():
        chat = Threaded(ScriptedChat(echo))
        chain = Ask("A {{ x }}", gives="a") | Ask("B {{ a }}", gives="b")
        whole = await chain.run_async({"x": 1}, chat)
        many = await chain.batch_async([{"x": 1}, {"x": 2}], chat)
        streamed = [piece async for piece in chain.stream_async({"x": 1}, chat)]
        inside = chain.run({"x": 3}, ScriptedChat(echo))  # within a loop too
        return whole.answer, [one.answer for one in many], "".join(streamed), inside.answer

    assert asyncio.run(main()) == ("<B <A 1>>", ["<B <A 1>>", "<B <A 2>>"], "<B <A 1>>", "<B <A 3>>")


def test_side_by_side_runs_at_the_same_time():
    async def main():
        both = asyncio.Event()
        waiting = []

        async def meet(x: int) -> str:
            waiting.append(x)
            if len(waiting) == 2:
                both.set()
            await asyncio.wait_for(both.wait(), 5)
            return "met"

        chain = Call(meet, gives="a") & Call(meet, gives="b")
        return (await chain.run_async({"x": 1})).answer

    assert asyncio.run(main()) == {"a": "met", "b": "met"}


def test_a_question_without_room_says_which_step():
    class Full(ScriptedChat):
        def reply_batch(self, conversations, options=None, **changes):
            return [Completion(text="", ids=(), finish_reason="context") for _ in conversations]

    with pytest.raises(DataError, match="ask answer: the question fills the model's context"):
        Ask("x").run({}, Full([]))


def test_nested_chains_keep_their_inner_names_to_themselves():
    one = Fill("1 {{ x }}") | Ask(gives="a")
    two = Fill("2 {{ x }}") | Ask(gives="b")
    result = (one & two).run({"x": 0}, ScriptedChat(echo))
    assert result.answer == {"a": "<1 0>", "b": "<2 0>"}
    assert "prompt" not in result.values
