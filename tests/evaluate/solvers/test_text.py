"""Written answers: what is asked, with which demonstrations, and what happens where the context is too small."""

from dunwu.chat.scripted import ScriptedChat
from dunwu.chat.scripted_text import ScriptedText
from dunwu.core.problems import Problem
from dunwu.core.records import Completion
from dunwu.evaluate.solvers.text import WrittenReplies, WrittenText
from dunwu.evaluate.tasks.demonstrations import first_shots
from dunwu.evaluate.tasks.spec import Shots, TaskSpec
from dunwu.evaluate.tasks.task import Task

POOL = [{"sum": f"{i}+{i}=", "is": str(2 * i)} for i in range(5)]
SPEC = TaskSpec(
    name="sums",
    input="{{sum}}",
    target="{{is}}",
    delimiter="",
    stop=(" ",),
    max_tokens=4,
    shots=Shots(examples=tuple(POOL), separator=" "),
)
SUMS = Task(spec=SPEC, rows=lambda split: [{"sum": "40+2=", "is": "42"}])


def add(prompt: str) -> str:
    left, right = prompt.split(" ")[-1].rstrip("=").split("+")
    return f"{int(left) + int(right)} 7+7=14"


def test_text_is_continued_after_the_demonstrations_to_the_first_stop():
    model = ScriptedText(add)
    problem = Problem(id="q", input="40+2=")
    (response,) = WrittenText(model, first_shots(SUMS, 2))(SUMS, [problem])
    assert model.completed == ["0+0=0 1+1=2 40+2="]
    assert (response.completion.text, response.shots, response.dropped, response.refused) == ("42", 2, 0, "")


def test_a_prompt_that_does_not_fit_loses_its_first_demonstrations():
    model = ScriptedText(
        add, context_length=16
    )  # the problem 5, a demonstration 6, the answer 4, one for the beginning
    (response,) = WrittenText(model, first_shots(SUMS, 3))(SUMS, [Problem(id="q", input="40+2=")])
    assert model.completed == ["2+2=4 40+2="]
    assert (response.shots, response.dropped) == (1, 2)


def test_a_problem_that_does_not_fit_alone_is_refused_and_the_others_are_answered():
    model = ScriptedText(add, context_length=12)
    problems = [Problem(id="a", input="1+2="), Problem(id="b", input="100000+200000="), Problem(id="c", input="3+4=")]
    short, long, last = WrittenText(model)(SUMS, problems)
    assert (short.completion.text, last.completion.text) == ("3", "7")
    assert long.completion is None
    assert "14 tokens" in long.refused
    assert "reads 12" in long.refused


def test_a_chat_gets_demonstrations_as_turns_and_the_rules_of_the_task():
    chat = ScriptedChat(lambda messages: add(messages[-1].content))
    solver = WrittenReplies(chat, first_shots(SUMS, 1), temperature=0.5, seed=3)
    (response,) = solver(SUMS, [Problem(id="q", input="40+2=")])
    assert [message.content for message in chat.asked[0]] == ["0+0=", "0", "40+2="]
    assert response.completion.text == "42"
    options = chat.options[0]
    assert (options.stop, options.max_tokens, options.temperature) == ((" ",), 4, 0.5)


def test_what_is_drawn_depends_on_the_seed_and_the_problem_and_not_on_its_place():
    def seeds(seed, ids):
        chat = ScriptedChat(lambda messages: "1")
        WrittenReplies(chat, temperature=1.0, seed=seed)(SUMS, [Problem(id=one, input="1") for one in ids])
        return dict(zip(ids, (options.seed for options in chat.options), strict=True))

    first = seeds(3, "abc")
    assert seeds(3, "cb") == {"c": first["c"], "b": first["b"]}
    assert len(set(first.values()) | set(seeds(4, "abc").values())) == 6


def test_a_chat_says_what_it_forgot_and_what_it_could_not_read():
    class Small(ScriptedChat):
        def forgotten(self, messages, *, max_tokens=256):
            return len(messages) - 1

        def reply_each(self, conversations, options):
            return [
                Completion(text="", ids=(), finish_reason="context")
                if len(messages[-1].content) > 10
                else Completion(text="42", ids=(), finish_reason="stop")
                for messages in conversations
            ]

    problems = [Problem(id="q", input="40+2="), Problem(id="r", input="100000+200000=")]
    short, long = WrittenReplies(Small([]), first_shots(SUMS, 1))(SUMS, problems)
    assert (short.completion.text, short.cut, short.refused) == ("42", 2, "")
    assert long.completion is None
    assert "fills the model's context" in long.refused
