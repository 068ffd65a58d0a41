"""A conversation in a terminal. What the model says is untrusted: control characters and escapes are shown, not obeyed."""

import sys
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from dunwu.chat.protocol import Chat
from dunwu.core.errors import DunwuError
from dunwu.core.records import Message
from dunwu.core.screen import harmless

HELP = """\
/reset          forget the conversation
/system TEXT    set the system prompt (nothing: remove it) and forget the conversation
/help           this list
/exit           leave (also Ctrl-D)
Ctrl-C          stop an answer"""
BASE_NOTE = "This model was not trained to chat: it only continues what you write, in the language of its documents."


@runtime_checkable
class Forgetful(Protocol):
    """A partner who can say how many old messages no longer fit."""

    def forgotten(self, messages: list[Message], *, max_tokens: int) -> int: ...


@runtime_checkable
class Continues(Protocol):
    """A partner who can also write on from a plain text."""

    instruction_tuned: bool | None

    def continue_text(self, text: str, *, max_tokens: int, temperature: float, seed: int | None) -> Iterator[str]: ...


class Conversation:
    """The state of a talk in the terminal. `read` and `write` stand for keyboard and screen."""

    def __init__(
        self,
        chat: Chat,
        *,
        system: str,
        temperature: float,
        seed: int | None,
        max_tokens: int,
        read: Callable[[str], str],
        write: Callable[[str], object],
    ) -> None:
        self.chat = chat
        self.system = system
        self.temperature, self.seed, self.max_tokens = temperature, seed, max_tokens
        self.read, self.write = read, write
        self.turns: list[Message] = []
        self.only_continues = isinstance(chat, Continues) and chat.instruction_tuned is False

    def run(self) -> None:
        """Talk until /exit or the end of the input."""
        self.write((BASE_NOTE if self.only_continues else "Ask away. /help lists the commands.") + "\n")
        while (line := self._line()) is not None:
            if line.startswith("/"):
                if not self._obey(line):
                    return
            elif line:
                self._answer(line)
        self.write("\n")

    def _line(self) -> str | None:
        while True:
            try:
                return self.read("> ").strip()
            except EOFError:
                return None
            except KeyboardInterrupt:
                self.write("\n/exit leaves.\n")

    def _obey(self, line: str) -> bool:
        command, _, rest = line.partition(" ")
        match command:
            case "/exit" | "/quit":
                return False
            case "/reset":
                self.turns.clear()
                self.write("The conversation is forgotten.\n")
            case "/system":
                self.system = rest.strip()
                self.turns.clear()
                self.write(
                    f"The system prompt is {'set' if self.system else 'removed'}; the conversation is forgotten.\n"
                )
            case "/help":
                self.write(HELP + "\n")
            case _:
                self.write(f"{harmless(command)} is no command; /help lists them.\n")
        return True

    def _answer(self, line: str) -> None:
        """Stream one answer. What was said until Ctrl-C stays in the conversation; a question without answer does not."""
        said = ""
        try:
            for piece in self._pieces(line):
                said += piece
                self.write(harmless(piece))
        except KeyboardInterrupt:
            self.write(" … stopped")
        except DunwuError as error:
            self.write(harmless(str(error)))
        self.write("\n")
        if said.strip() and not self.only_continues:
            self.turns += [Message(role="user", content=line), Message(role="assistant", content=said)]

    def _pieces(self, line: str) -> Iterator[str]:
        if self.only_continues:
            assert isinstance(self.chat, Continues)
            return self.chat.continue_text(
                line, max_tokens=self.max_tokens, temperature=self.temperature, seed=self.seed
            )
        system = [Message(role="system", content=self.system)] if self.system else []
        messages = [*system, *self.turns, Message(role="user", content=line)]
        if isinstance(self.chat, Forgetful) and (dropped := self.chat.forgotten(messages, max_tokens=self.max_tokens)):
            self.write(f"(The oldest {dropped} messages no longer fit what this model can read and are left out.)\n")
        return self.chat.stream(messages, max_tokens=self.max_tokens, temperature=self.temperature, seed=self.seed)


def converse(
    chat: Chat,
    *,
    system: str = "",
    temperature: float = 0.7,
    seed: int | None = None,
    max_tokens: int = 512,
    read: Callable[[str], str] = input,
    write: Callable[[str], object] | None = None,
) -> None:
    """Talk in the terminal until /exit or Ctrl-D; Ctrl-C stops an answer, not the program. A base model continues text."""
    Conversation(
        chat,
        system=system,
        temperature=temperature,
        seed=seed,
        max_tokens=max_tokens,
        read=read,
        write=write or _show,
    ).run()


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
