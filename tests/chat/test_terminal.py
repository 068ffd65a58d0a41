from collections.abc import Iterator

import pytest

from dunwu.chat.scripted import ScriptedChat
from dunwu.chat.terminal import BASE_NOTE, converse
from dunwu.core.errors import DataError
from dunwu.core.records import Message
from dunwu.core.screen import harmless


def play(chat, *lines: str | type[BaseException], **settings) -> str:
    """What the screen shows when somebody types these lines; an exception class is a key such as Ctrl-C."""
    screen: list[str] = []
    typed: Iterator[str | type[BaseException]] = iter((*lines, EOFError))

    def read(prompt: str) -> str:
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    converse(chat, read=read, write=screen.append, **settings)
    return "".join(screen)


def contents(messages: tuple[Message, ...]) -> list[str]:
    return [message.content for message in messages]


def test_history_grows_and_reset_and_system_begin_anew():
    chat = ScriptedChat(["one", "two", "three", "four"])
    shown = play(chat, "a", "", "b", "/reset", "c", "/system Be brief.", "d", system="S")
    assert [contents(asked) for asked in chat.asked] == [
        ["S", "a"],
        ["S", "a", "one", "b"],
        ["S", "c"],
        ["Be brief.", "d"],
    ]
    assert all(answer in shown for answer in ("one\n", "two\n", "three\n", "four\n"))


def test_exit_and_unknown_commands():
    chat = ScriptedChat(["never"])
    assert "/frobnicate is no command" in play(chat, "/frobnicate x", "/help", "/exit", "a")
    assert chat.asked == []


def test_escapes_of_the_model_are_shown_not_obeyed():
    attack = "\x1b]0;title\x07\x1b[2Jok\x9b31m\r\x08 \u202etxt.exe\u2069 a\tb\n中🙂"
    shown = play(ScriptedChat([attack]), "hi")
    assert not {character for character in shown if ord(character) < 32} - {"\n", "\t"}
    assert not set(shown) & set("\x7f\x9b\u202e\u2069\x85")
    assert "␛]0;title␇␛[2Jok" in shown
    assert "a\tb\n中🙂" in shown
    assert harmless("".join(map(chr, range(256)))).count("\ufffd") == 33  # delete and 32 C1 controls


class Interrupted(ScriptedChat):
    def stream(self, messages, **settings):
        yield from super().stream(messages, **settings)
        raise KeyboardInterrupt


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said():
    chat = Interrupted(["half", "again"])
    shown = play(chat, "a", KeyboardInterrupt, "b")
    assert "half … stopped" in shown
    assert contents(chat.asked[1]) == ["a", "half", "b"]


class Refusing(ScriptedChat):
    def stream(self, messages, **settings):
        if messages[-1].content == "long":
            raise DataError("make it shorter")
        yield from super().stream(messages, **settings)


def test_an_error_is_told_and_the_question_taken_back():
    chat = Refusing(["one"])
    assert "make it shorter\n" in play(chat, "long", "b")
    assert contents(chat.asked[0]) == ["b"]


def test_forgotten_turns_are_announced(chat):
    long = "cat sat " * 6
    shown = play(chat, long, long, long, long, temperature=1.0, seed=1, max_tokens=8)
    assert "messages no longer fit what this model can read and are left out" in shown


def test_a_base_model_says_that_it_only_continues(base_chat):
    shown = play(base_chat, "a cat", temperature=0.0, max_tokens=4)
    assert shown.startswith(BASE_NOTE)
    assert harmless("".join(base_chat.continue_text("a cat", max_tokens=4))) in shown


@pytest.mark.parametrize("seed", [0, 7])
def test_a_seed_repeats_a_conversation(chat, seed):
    first = play(chat, "a", "b", temperature=1.0, seed=seed, max_tokens=12)
    assert first == play(chat, "a", "b", temperature=1.0, seed=seed, max_tokens=12)
