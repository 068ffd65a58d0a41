"""What each strategy asks, step by step, and what it makes of the answers; worked by hand with a scripted chat."""

import asyncio
from dataclasses import replace

import pytest

from dunwu.chat.bridge import Threaded
from dunwu.chat.local import LocalChat
from dunwu.chat.options import ChatOptions
from dunwu.chat.protocol import Delta, completion_of
from dunwu.chat.scripted import Answer, ScriptedChat
from dunwu.core.errors import DataError, PartnerError, RecipeError
from dunwu.core.problems import Problem
from dunwu.core.records import Message, TokenUsage
from dunwu.prompt.demonstrations.likeness import TfIdf
from dunwu.prompt.strategies.auto_cot import auto_cot, clusters
from dunwu.prompt.strategies.base import derived_seed
from dunwu.prompt.strategies.registry import STRATEGIES, Help, async_strategy, strategy
from dunwu.prompt.strategies.think_first import parted
from dunwu.prompt.strategies.wording import filled
from tests.chat.conftest import make_home

QUESTION = "Ann has 7 plums and eats 3. How many are left?"


def user(text: str) -> Message:
    return Message(role="user", content=text)


ASKED = [Message(role="system", content="Be brief."), user(QUESTION)]


class InRounds(ScriptedChat):
    """Notes how many conversations each batch had."""

    def __init__(self, script) -> None:
        super().__init__(script)
        self.rounds: list[int] = []

    def reply_each(self, conversations, options):
        self.rounds.append(len(conversations))
        return super().reply_each(conversations, options)


def said(chat: ScriptedChat) -> list[list[str]]:
    return [[f"{one.role}: {one.content}" for one in asked] for asked in chat.asked]


def test_a_chain_of_thought_asks_for_steps_and_has_room_for_them():
    chat = ScriptedChat(["7 - 3 = 4. So 4 are left."])
    done = strategy("cot:tokens=100", chat).reply(ASKED, max_tokens=20, stop=("\n", "END"))
    assert said(chat) == [["system: Be brief.", f"user: {QUESTION}\nLet's think step by step."]]
    assert (chat.options[0].max_tokens, chat.options[0].stop) == (120, ("END",))
    assert (done.text, done.thinking) == ("7 - 3 = 4. So 4 are left.", "")


def test_a_chain_of_thought_in_chinese_and_in_other_words():
    chat = ScriptedChat(["4", "4"])
    strategy("cot", chat).reply([user("安娜有7个李子，吃了3个，还剩几个？")])
    strategy("cot:trigger=Slowly now.", chat).reply([user("7 - 3?")])
    assert chat.asked[0][0].content.endswith("？\n让我们一步一步地思考。")
    assert chat.asked[1][0].content == "7 - 3?\nSlowly now."


def test_the_answer_of_a_chain_alone():
    chat = ScriptedChat(["7 - 3 = 4. So 4 are left."])
    done = strategy("cot:show=answer", chat).reply(ASKED)
    assert (done.text, done.thinking) == ("4", "7 - 3 = 4. So 4 are left.")
    chat = ScriptedChat(["7 - 3 = 4.", "4"])
    done = strategy("cot:extract=ask", chat).reply(ASKED, max_tokens=30)
    assert said(chat)[1][1:] == [
        f"user: {QUESTION}\nLet's think step by step.",
        "assistant: 7 - 3 = 4.",
        "user: Therefore, what is the final answer? Give only the answer.",
    ]
    assert [one.max_tokens for one in chat.options] == [542, 30]
    assert done.text == "7 - 3 = 4.\n4"


def test_usage_is_that_of_all_that_was_asked():
    chat = ScriptedChat(["abc", "d"])
    done = strategy("cot:extract=ask", chat).reply([user("x")])
    read = sum(len(message.content) for asked in chat.asked for message in asked)
    assert done.usage == TokenUsage(prompt_tokens=read, completion_tokens=4)
    assert done.model == "scripted"


def test_self_consistency_takes_what_most_answers_come_to():
    chat = InRounds(["It is 5.", "7 - 3 = 4. So 4.", "So 5 plums.", "So 4 plums.", "I say 4."])
    done = strategy("self-consistency:n=5,temperature=0.9", chat).reply(ASKED, seed=3)
    assert done.text == "7 - 3 = 4. So 4."
    assert chat.rounds == [5]
    assert {one.temperature for one in chat.options} == {0.9}
    seeds = [one.seed for one in chat.options]
    assert len(set(seeds)) == 5
    assert all(seed is not None and 0 <= seed < 2**31 for seed in seeds)
    again = ScriptedChat(["1"] * 5)
    strategy("self-consistency:n=5", again).reply(ASKED, seed=3)
    assert [one.seed for one in again.options] == seeds


def test_of_equal_votes_the_first_stands_and_what_was_cut_has_none():
    def told(*answers):
        return strategy(f"self-consistency:n={len(answers)}", ScriptedChat(answers)).reply(ASKED, max_tokens=12).text

    assert told("So 4.", "So 5.") == "So 4."
    assert told("So 5, as I said", "So 5, as I have", "So 4.") == "So 4."
    assert told("So 5, as I said before", "So 5, as I have") == "So 5, as I s"


def test_chains_of_thought_are_drawn_and_voted_on_in_one_batch_for_all_conversations():
    chat = InRounds(lambda messages: f"So {len(messages[-1].content)}.")
    both = strategy("cot+self-consistency:n=4", chat)
    done = both.reply_batch([[user("a")], [user("bcd")], [user("ef")]], seed=1)
    assert chat.rounds == [12]
    assert all(asked[-1].content.endswith("step by step.") for asked in chat.asked)
    start = len("\nLet's think step by step.")
    assert [one.text for one in done] == [f"So {start + size}." for size in (1, 3, 2)]
    alone = strategy("cot+self-consistency:n=4", ScriptedChat(chat.script))
    assert alone.reply([user("bcd")], seed=1) == done[1]


def test_least_to_most_answers_simpler_questions_first():
    def script(messages):
        last = messages[-1].content
        if "simpler questions" in last:
            return "Sure:\n1. What does she eat?\n2) What had she?\n3. What for?"
        return {"What does she eat?": "3 plums", "What had she?": "7 plums"}.get(last, "4")

    chat = ScriptedChat(script)
    done = strategy("least-to-most:most=2", chat).reply(ASKED)
    assert said(chat)[-1] == [
        "system: Be brief.",
        "user: What does she eat?",
        "assistant: 3 plums",
        "user: What had she?",
        "assistant: 7 plums",
        f"user: {QUESTION}",
    ]
    assert (done.text, len(chat.asked)) == ("4", 4)
    assert done.thinking == "What does she eat?\n3 plums\n\nWhat had she?\n7 plums"
    alone = ScriptedChat(["It is simple enough.", "4"])
    assert strategy("least-to-most", alone).reply(ASKED).text == "4"
    assert said(alone)[-1] == [f"system: {ASKED[0].content}", f"user: {QUESTION}"]


def test_conversations_of_different_length_share_their_rounds():
    def script(messages):
        last = messages[-1].content
        return "1. one?\n2. two?" if "long" in last and "simpler" in last else "no"

    chat = InRounds(script)
    strategy("least-to-most", chat).reply_batch([[user("short")], [user("long")], [user("short")]])
    assert chat.rounds == [3, 3, 1, 1]


def test_self_refine_ends_where_nothing_is_left_to_mend():
    chat = ScriptedChat(["5", "7 - 3 is not 5", "4", "Nothing to mend."])
    done = strategy("self-refine:rounds=3", chat).reply(ASKED)
    assert (done.text, done.thinking) == ("4", "5\n\n7 - 3 is not 5")
    assert [line.split(":")[0] for line in said(chat)[2][1:]] == ["user", "assistant", "user", "assistant", "user"]
    kept = ScriptedChat(["五", "还有错误", "四"])
    assert strategy("self-refine:rounds=1", kept).reply([user("还剩几个？")]).text == "四"
    assert kept.asked[1][-1].content.startswith("请批判地检查")


def test_thoughts_are_kept_apart_from_the_answer():
    chat = ScriptedChat(["<think>7 less 3</think>\n4"])
    done = strategy("think-first", chat).reply(ASKED)
    assert (done.text, done.thinking) == ("4", "7 less 3")
    assert "<think>" in chat.asked[0][-1].content
    plain = ScriptedChat(["<think>x</think>4"])
    strategy("think-first:instruct=false", plain).reply(ASKED)
    assert plain.asked[0] == tuple(ASKED)
    two = ScriptedChat(["7 less 3 is 4", "4"])
    done = strategy("think-first:calls=2", two).reply(ASKED)
    assert (done.text, done.thinking) == ("4", "7 less 3 is 4")
    assert said(two)[1][-2:] == ["assistant: 7 less 3 is 4", "user: Now give the answer alone."]


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("4", "", "4"),
        ("<think>a</think> b <thinking>c</thinking> d", "a\n\nc", "b  d"),
        ("<think>never ends", "never ends", ""),
        ("begun by the template</think>4", "begun by the template", "4"),
    ],
)
def test_thoughts_between_tags(text, thought, answer):
    assert parted(text) == (thought, answer)


def test_what_stands_in_a_question_is_no_gap():
    assert filled("{question} {steps}", question="{steps} {x}", steps="s") == "{steps} {x} s"


def _tree(values):
    """Proposes a and b after each state; values by the last step."""

    def script(messages):
        text = messages[-1].content
        steps = [line[3:] for line in text.splitlines() if line[:1].isdigit() and line[1:3] == ". "]
        if "How likely" in text:
            return str(values["".join(steps)])
        if "next step" in text:
            return "ab"[len(chat.asked) % 2]
        return "".join(steps) or "none"

    chat = ScriptedChat(script)
    return chat


def test_a_tree_keeps_the_best_of_each_depth():
    # breadth first with one kept: a (3) loses to b (9), then ba (2) to bb (5)
    chat = _tree({"a": 3, "b": 9, "ba": 2, "bb": 5})
    done = strategy("tree:depth=2,branch=2,keep=1", chat).reply([user("go")])
    assert (done.text, done.thinking) == ("bb", "b\nb")
    # two kept: a goes on too, and aa is the best in the end
    chat = _tree({"a": 3, "b": 9, "aa": 10, "ab": 0, "ba": 2, "bb": 5})
    assert strategy("tree:depth=2,branch=2,keep=2", chat).reply([user("go")]).text == "aa"


def test_a_tree_searched_in_depth_turns_back_where_nothing_is_worth_it():
    # b first; both of its steps are below the floor, so a is taken up again
    chat = _tree({"a": 6, "b": 9, "aa": 1, "ab": 4, "ba": 2, "bb": 1})
    done = strategy("tree:search=depth,depth=2,branch=2,floor=0.3", chat).reply([user("go")])
    assert done.text == "ab"
    # with two visits there is no time for that: the deepest that was opened is taken
    chat = _tree({"a": 6, "b": 9, "ba": 2, "bb": 1})
    assert strategy("tree:search=depth,depth=2,branch=2,visits=2", chat).reply([user("go")]).text == "b"
    assert strategy("tree:search=depth,branch=2", _tree({"a": 0, "b": 1})).reply([user("go")]).text == "none"


def test_a_tree_by_vote():
    votes = iter(["2", "Candidate 2", "1"])

    def script(messages):
        text = messages[-1].content
        if "promising" in text:
            return next(votes)
        if "next step" in text:
            return "ab"[len(chat.asked) % 2]
        return text.splitlines()[-3]

    chat = ScriptedChat(script)
    done = strategy("tree:depth=1,branch=2,keep=1,judge=vote,votes=3", chat).reply([user("go")])
    assert done.thinking == "b"
    assert "Candidate 1:\n1. a\n\nCandidate 2:\n1. b" in chat.asked[2][0].content


POOL = [
    Problem(id="1", input="Ben has 5 nuts and eats 2?", target="3", columns={"chain": "5 - 2 = 3. So 3."}),
    Problem(id="2", input="What is the capital of France?", target="Paris", columns={"chain": "It is Paris."}),
    Problem(id="3", input="Cid has 9 plums and eats 4?", target="5", columns={"chain": "9 - 4 = 5. So 5."}),
]


def test_demonstrations_stand_before_the_question():
    chat = ScriptedChat(["4", "4"])
    strategy("few-shot:k=2", chat, Help(pool=POOL)).reply(ASKED, max_tokens=5)
    assert said(chat)[0] == [
        "system: Be brief.",
        "user: Ben has 5 nuts and eats 2?",
        "assistant: 3",
        "user: Cid has 9 plums and eats 4?",
        "assistant: 5",
        f"user: {QUESTION}",
    ]
    assert chat.options[0].max_tokens == 5
    strategy("few-shot-cot:k=1,tokens=50", chat, Help(pool=POOL)).reply(ASKED, max_tokens=5)
    assert said(chat)[1][2] == "assistant: 9 - 4 = 5. So 5."
    assert chat.options[1].max_tokens == 55


def test_a_pool_from_a_file_and_a_budget(tmp_path):
    file = tmp_path / "pool.jsonl"
    file.write_text('{"question": "a b c d?", "answer": "x"}\n{"question": "a?", "answer": 7}\n')
    chat = ScriptedChat(["1"])
    shown = strategy(f"few-shot:pool={file},k=2,budget=6", chat, Help(count_tokens=len))
    shown.reply([user("a z?")])
    assert said(chat)[0] == ["user: a?", "assistant: 7", "user: a z?"]
    with pytest.raises(DataError, match="budget=3 tokens, and the shortest of 2 demonstrations takes 5"):
        strategy(f"few-shot:pool={file},k=2,budget=3", chat, Help(count_tokens=len)).reply([user("a z?")])
    with pytest.raises(RecipeError, match="nobody counts tokens here"):
        strategy(f"few-shot:pool={file},budget=30", chat)
    file.write_text('{"question": "a?"}\n')
    with pytest.raises(DataError, match=r"row pool.jsonl#\d has no answer"):
        strategy(f"few-shot:pool={file}", chat)


def test_auto_cot_shows_a_right_chain_of_each_cluster():
    pool = [
        Problem(id="a", input="apples apples left", target="2"),
        Problem(id="b", input="apples left apples many", target="3"),
        Problem(id="c", input="capital city France", target="Paris"),
        Problem(id="d", input="capital city Spain", target="Madrid"),
    ]
    member = clusters_of(pool)
    assert member[0] == member[1] != member[2] == member[3]
    wrong = {"apples apples left": "It is 9.", "capital city France": "One.\nTwo.\nThree.\nFour.\nFive.\nIt is Paris"}

    def script(messages):
        question = messages[0].content.splitlines()[0]
        return (
            wrong.get(question)
            or {"b": "So 3.", "d": "So it is Madrid", "a": "", "c": ""}[
                next(one.id for one in pool if one.input == question)
            ]
        )

    chat = InRounds(script)
    shown = auto_cot(pool, chat, k=2)
    assert sorted((one.id, one.columns["chain"]) for one in shown) == [("b", "So 3.")]
    assert chat.rounds == [4]
    pool[3] = Problem(id="d", input="capital city Spain", target="So it is Madrid")
    assert sorted(one.id for one in auto_cot(pool, InRounds(script), k=2)) == ["b", "d"]
    chat = InRounds(script)
    strategy("auto-cot:k=2", chat, Help(pool=pool)).reply([user("apples?")])
    assert [one.role for one in chat.asked[-1]] == ["user", "assistant"] * 2 + ["user"]
    with pytest.raises(DataError, match="none of 4 chains of thought is short"):
        auto_cot(pool, ScriptedChat(lambda messages: "no"), k=2)
    served = InRounds(script)
    way = async_strategy("auto-cot:k=2", Threaded(served), Help(pool=pool))
    for question in ("apples?", "pears?"):
        asyncio.run(way.reply([user(question)]))
    assert len(served.asked) == 4 + 2, "the chains are written once, for the first question"
    assert [[one.content for one in asked[:-1]] for asked in served.asked[-2:]] == [
        [one.content for one in chat.asked[-1][:-1]]
    ] * 2


def clusters_of(pool):
    return list(clusters(TfIdf([one.input for one in pool]).vectors_PV, 2, 0))


def test_pieces_join_to_the_reply_and_asyncio_says_the_same():
    script = ["It is 5.", "7 - 3 = 4.", "So 4."]
    text = "think-first:instruct=false+self-consistency:n=3"
    reply = strategy(text, ScriptedChat(script)).reply(ASKED, seed=2)
    assert completion_of(strategy(text, ScriptedChat(script)).pieces(ASKED, seed=2)) == reply
    both = async_strategy(text, Threaded(ScriptedChat(script)))
    assert asyncio.run(both.reply(ASKED, seed=2)) == reply
    assert (
        asyncio.run(async_strategy(text, Threaded(ScriptedChat(script * 2))).reply_batch([ASKED]))[0].text == reply.text
    )


class ByLetter(ScriptedChat):
    """Tells its answers letter by letter; `asked_whole`: how many were asked for as a whole."""

    asked_whole = 0

    def pieces(self, messages, options=None, **changes):
        for piece in super().pieces(messages, options, **changes):
            yield from (Delta(text=letter) for letter in piece.text) if isinstance(piece, Delta) else (piece,)

    def reply_each(self, conversations, options):
        self.asked_whole += len(conversations)
        return super().reply_each(conversations, options)


@pytest.mark.parametrize(
    ("text", "steps_before"),
    [("cot", 0), ("few-shot:k=1", 0), ("cot+self-consistency:n=3", None), ("cot:extract=ask", None)],
)
def test_an_answer_is_told_while_it_is_written_where_its_last_step_is_the_answer(text, steps_before):
    pool = Help(pool=[Problem(id="1", input="Ben has 3 plums. How many?", target="3")])
    script = ["It is 4.", "4", "4"]
    chat = ByLetter(script)
    told = [piece.text for piece in strategy(text, chat, pool).pieces(ASKED, seed=1) if isinstance(piece, Delta)]
    if steps_before is None:
        assert len(told) == 1
        return
    assert (told, chat.asked_whole) == (list("It is 4."), steps_before)

    async def heard():
        pieces = async_strategy(text, Threaded(ByLetter(script)), pool).pieces(ASKED, seed=1)
        return [piece.text async for piece in pieces if isinstance(piece, Delta)]

    assert asyncio.run(heard()) == told


def test_a_chat_that_fails_midway_says_how_far_it_came():
    broken = PartnerError("the endpoint gave 500; try again", transient=True, retry_after_s=2.0)
    for text, answers in (("cot:extract=ask", 1), ("self-consistency:n=3", 0)):
        script = ["a"] * answers + [broken] * 3
        with pytest.raises(
            PartnerError, match=rf"came as far as {answers} answers, then: the endpoint gave 500"
        ) as caught:
            strategy(text, ScriptedChat(script)).reply(ASKED)
        assert (caught.value.transient, caught.value.retry_after_s) == (True, 2.0)
        with pytest.raises(PartnerError, match="came as far as"):
            list(strategy(text, ScriptedChat(script)).stream(ASKED))
        with pytest.raises(PartnerError, match="came as far as"):
            asyncio.run(async_strategy(text, Threaded(ScriptedChat(script))).reply(ASKED))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("self-consistancy", "there is no strategy 'self-consistancy'; did you mean self-consistency?"),
        ("zzz", "there are: direct, few-shot"),
        ("", "there is no strategy ''"),
        ("self-consistency:n=0", "n='0': must be at least 1"),
        ("self-consistency:n=many", "n='many': must be a whole number"),
        ("self-consistency:temperature=0", "temperature='0': must be greater than 0"),
        ("self-consistency:m=3", "unknown key m"),
        ("self-consistency:n", "has 'n', which is no key=value"),
        ("self-consistency:n=1,n=2", "gives n twice"),
        ("cot+direct", "direct is no strategy among others"),
        ("cot:extract=both", "extract='both'"),
        ("few-shot:k=-1", "k='-1': must be at least 0"),
        ("few-shot:budget=0", "budget='0': must be at least 1"),
    ],
)
def test_what_names_no_strategy_is_refused(text, message):
    with pytest.raises(RecipeError) as caught:
        strategy(text, ScriptedChat([]))
    assert message in str(caught.value)


def test_what_cannot_be_asked_is_refused_before_anybody_is_asked():
    chat = ScriptedChat(["x"])
    with pytest.raises(DataError, match="pool of demonstrations is empty"):
        strategy("few-shot", chat)
    with pytest.raises(DataError, match="end with a message of the user"):
        strategy("cot", chat).reply([])
    with pytest.raises(DataError, match="end with a message of the user"):
        strategy("cot", chat).reply([*ASKED, Message(role="assistant", content="4")])
    tool = {"type": "function", "function": {"name": "f"}}
    for options in (ChatOptions(tools=(tool,)), ChatOptions(schema={}), ChatOptions(logprobs=0), ChatOptions(beams=2)):
        with pytest.raises(RecipeError, match="cot answers in words, and takes no"):
            strategy("cot", chat).reply(ASKED, options)
    with pytest.raises(DataError, match="pool of demonstrations is empty"):
        async_strategy("auto-cot", Threaded(chat))
    assert chat.asked == []


def test_direct_is_the_chat_itself_and_seeds_depend_on_their_place():
    chat = ScriptedChat([Answer(text="4")])
    assert strategy("direct", chat) is chat
    assert derived_seed(None, 1) is None
    assert derived_seed(7, "a", 1) == derived_seed(7, "a", 1) != derived_seed(7, "a", 2)
    many = ScriptedChat(["1"] * 6)
    strategy("cot+self-consistency:n=2", many).reply_batch([[user("a")]] * 3, seed=4)
    assert len({one.seed for one in many.options}) == 6  # equal questions of a batch are drawn apart
    assert set(STRATEGIES) == {
        "few-shot",
        "few-shot-cot",
        "auto-cot",
        "prompted",
        "cot",
        "self-consistency",
        "least-to-most",
        "self-refine",
        "tree",
        "think-first",
    }


def test_a_model_of_this_machine_is_asked_in_batches_as_it_is_alone(tmp_path):
    """Random weights say something else for each seed: what a batch says, each conversation says by itself."""
    way = strategy("cot:tokens=9+self-consistency:n=3", LocalChat.load(make_home(tmp_path)))
    asked = [[user("cat 1")], [user("a cat sat")], [user("坐")]]
    each = [ChatOptions(max_tokens=6, seed=seed) for seed in (1, 2, 3)]
    together = way.reply_each(asked, each)
    alone = [way.reply(messages, one) for messages, one in zip(asked, each, strict=True)]
    assert [one.text for one in together] == [one.text for one in alone]
    assert [one.ids for one in together] == [one.ids for one in alone]
    assert len({one.text for one in together}) == 3
    for one in together:
        assert one.usage is not None
        assert 3 <= one.usage.completion_tokens <= 45


def test_what_a_conversation_lost_is_told_as_the_chat_within_would_read_it():
    class Small(ScriptedChat):
        def forgotten(self, messages, *, max_tokens=256):
            return max(0, sum(len(one.content) for one in messages) + max_tokens - 60)

    assert strategy("cot:tokens=20", ScriptedChat([])).forgotten([user("a" * 40)], max_tokens=8) == 0
    trigger = len("\nLet's think step by step.")
    for text in ("cot:tokens=20", "cot:tokens=20+self-consistency:n=3"):
        assert strategy(text, Small([])).forgotten([user("a" * 40)], max_tokens=8) == 40 + trigger + 28 - 60


def test_costs_are_summed():
    class Priced(ScriptedChat):
        def reply_each(self, conversations, options):
            return [replace(one, cost=0.25) for one in super().reply_each(conversations, options)]

    assert strategy("self-consistency:n=3", Priced(["4"] * 3)).reply(ASKED).cost == 0.75
    assert strategy("cot", ScriptedChat(["4"])).reply(ASKED).cost is None
