"""Written answers: what is asked, with which demonstrations, and what happens where the context is too small."""

from types import SimpleNamespace

import pytest

from dunwu.chat.scripted import ScriptedChat
from dunwu.chat.scripted_text import ScriptedText
from dunwu.core.errors import RecipeError
from dunwu.core.problems import Problem
from dunwu.core.records import Completion, Message
from dunwu.evaluate.solvers.base import first_demonstrations, random_demonstrations
from dunwu.evaluate.solvers.text import WrittenReplies, WrittenText

POOL = [Problem(id=f"p{i}", input=f"{i}+{i}=", target=str(2 * i)) for i in range(5)]


class Sums:
    """A task in the least words: `1+1=2 2+2=`, and as turns of a conversation."""

    name = "sums"
    spec = SimpleNamespace(stop=(" ",), max_tokens=4)

    def text(self, problem, shots):
        return "".join(f"{shot.input}{shot.target} " for shot in shots) + problem.input

    def messages(self, problem, shots):
        turns = [(Message(role="user", content=s.input), Message(role="assistant", content=s.target)) for s in shots]
        return (*(message for turn in turns for message in turn), Message(role="user", content=problem.input))


def add(prompt: str) -> str:
    left, right = prompt.split(" ")[-1].rstrip("=").split("+")
    return f"{int(left) + int(right)} 7+7=14"


def test_text_is_continued_after_the_demonstrations_to_the_first_stop():
    model = ScriptedText(add)
    problem = Problem(id="q", input="40+2=")
    (response,) = WrittenText(model, first_demonstrations(POOL, 2))(Sums(), [problem])
    assert model.completed == ["0+0=0 1+1=2 40+2="]
    assert (response.completion.text, response.shots, response.dropped, response.refused) == ("42", 2, 0, "")


def test_a_prompt_that_does_not_fit_loses_its_first_demonstrations():
    model = ScriptedText(
        add, context_length=16
    )  # the problem 5, a demonstration 6, the answer 4, one for the beginning
    (response,) = WrittenText(model, first_demonstrations(POOL, 3))(Sums(), [Problem(id="q", input="40+2=")])
    assert model.completed == ["2+2=4 40+2="]
    assert (response.shots, response.dropped) == (1, 2)


def test_a_problem_that_does_not_fit_alone_is_refused_and_the_others_are_answered():
    model = ScriptedText(add, context_length=12)
    problems = [Problem(id="a", input="1+2="), Problem(id="b", input="100000+200000="), Problem(id="c", input="3+4=")]
    short, long, last = WrittenText(model)(Sums(), problems)
    assert (short.completion.text, last.completion.text) == ("3", "7")
    assert long.completion is None
    assert "14 tokens" in long.refused
    assert "reads 12" in long.refused


def test_a_chat_gets_demonstrations_as_turns_and_the_rules_of_the_task():
    chat = ScriptedChat(lambda messages: add(messages[-1].content))
    solver = WrittenReplies(chat, first_demonstrations(POOL, 1), temperature=0.5, seed=3)
    (response,) = solver(Sums(), [Problem(id="q", input="40+2=")])
    assert [message.content for message in chat.asked[0]] == ["0+0=", "0", "40+2="]
    assert response.completion.text == "42"
    options = chat.options[0]
    assert (options.stop, options.max_tokens, options.temperature, options.seed) == ((" ",), 4, 0.5, 3)


def test_a_chat_says_what_it_forgot_and_what_it_could_not_read():
    class Small(ScriptedChat):
        def forgotten(self, messages, *, max_tokens=256):
            return len(messages) - 1

        def reply_batch(self, conversations, options=None, **changes):
            return [
                Completion(text="", ids=(), finish_reason="context")
                if len(messages[-1].content) > 10
                else Completion(text="42", ids=(), finish_reason="stop")
                for messages in conversations
            ]

    problems = [Problem(id="q", input="40+2="), Problem(id="r", input="100000+200000=")]
    short, long = WrittenReplies(Small([]), first_demonstrations(POOL, 1))(Sums(), problems)
    assert (short.completion.text, short.cut, short.refused) == ("42", 2, "")
    assert long.completion is None
    assert "fills the model's context" in long.refused


def test_the_problem_itself_is_never_shown():
    same = Problem(id="other", input=POOL[0].input, target="0")
    assert [shot.id for shot in first_demonstrations(POOL, 2)(same)] == ["p1", "p2"]
    for seed in range(20):
        shown = random_demonstrations(POOL, 4, seed)(POOL[2])
        assert len(shown) == 4
        assert POOL[2] not in shown


def test_random_demonstrations_depend_on_the_seed_and_the_problem_alone():
    shown = {
        (seed, problem.id): tuple(shot.id for shot in random_demonstrations(POOL, 3, seed)(problem))
        for seed in range(3)
        for problem in POOL
    }
    assert len(set(shown.values())) > 10
    assert shown[2, "p4"] == tuple(shot.id for shot in random_demonstrations(POOL, 3, 2)(POOL[4]))


def test_more_demonstrations_than_there_are_is_an_error_that_says_how_many():
    with pytest.raises(RecipeError, match="6 demonstrations are asked for and there are 5"):
        first_demonstrations(POOL, 6)
