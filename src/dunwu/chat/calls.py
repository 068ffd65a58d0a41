"""Calls of tools in what a model writes, found while it writes. Models also write calls that are none; those stay text."""

import json
import secrets
import string
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dunwu.chat.forms import HERMES, CallForm, Tool, function_of
from dunwu.core.records import ToolCall

_SPACE = " \t\r\n"
_LETTERS = string.ascii_letters + string.digits
_LONGEST_NAME = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class CallDelta:
    """A part of call `index`: `id` and `name` come first and once, then `arguments` piece by piece."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


Piece = str | CallDelta


class _NotACallError(Exception):
    pass


class CallParser:
    """Text as it is written → text and parts of calls. `push`, again and again, and then `finish`.

    What opens as a call and is none becomes text again, marks and all. A call that is cut short keeps what there is of it.
    Without a mark only a call of one of `tools` counts.
    """

    def __init__(
        self, form: CallForm, tools: Sequence[Tool] = (), *, new_id: Callable[[int], str] | None = None
    ) -> None:
        self.calls = 0
        self._form = form
        self._names = frozenset(str(function_of(tool).get("name")) for tool in tools)
        self._new_id = new_id or _random_id
        self._out: list[Piece] = []
        self._held = ""  # text that may turn out to be white space before a call, or the beginning of a mark
        self._mark = ""  # the opening mark, with white space before it, of what may still be no call
        self._marked = False
        self._raw = ""  # what was read after the mark, or after a call
        self._begun = self._ended = False  # the call at hand was told of; one before it in this block is whole
        self._reader: Generator[None, str, Any] | None = None
        if form.bare and self._names:
            self._open("")

    def push(self, text: str) -> list[Piece]:
        """What is sure with this text."""
        while text:
            text = self._read(text) if self._reader else self._look(text)
        return _joined(self._out)

    def finish(self) -> list[Piece]:
        """What is left at the end."""
        while self._reader:
            cut = self._ended and self._form.closing.startswith(self._raw)
            text = self._give_back()
            while text and not cut:
                text = self._read(text) if self._reader else self._look(text)
        self._say(self._held.rstrip(_SPACE) if self.calls else self._held)
        self._held = ""
        return _joined(self._out)

    def _look(self, text: str) -> str:
        """Text up to an opening mark; gives what follows the mark."""
        self._held += text
        opening = self._form.opening
        at = self._held.find(opening)
        if at >= 0:
            sure, end = len(self._held[:at].rstrip(_SPACE)), at + len(opening)
            self._say(self._held[:sure])
            mark, rest, self._held = self._held[sure:end], self._held[end:], ""
            self._open(mark)
            return rest
        sure = len(self._held[: len(self._held) - _overlap(self._held, opening)].rstrip(_SPACE))
        self._say(self._held[:sure])
        self._held = self._held[sure:]
        return ""

    def _open(self, mark: str) -> None:
        self._mark, self._raw, self._begun, self._ended = mark, "", False, False
        self._marked = bool(mark)
        self._reader = self._block()
        next(self._reader)

    def _read(self, text: str) -> str:
        """Characters into the reader, up to its end; gives what is to be read as text."""
        assert self._reader
        for place, character in enumerate(text):
            self._raw += character
            try:
                self._reader.send(character)
            except StopIteration:
                self._reader = None
                return text[place + 1 :]
            except _NotACallError:
                return self._give_back() + text[place + 1 :]
            if self._begun:
                self._raw = ""
        return ""

    def _give_back(self) -> str:
        """Close the reader: its mark, if there was no call after it, is text, and what it read is to be looked at again."""
        self._say(self._mark)
        raw, self._mark, self._raw, self._reader = self._raw, "", "", None
        return raw

    def _say(self, text: str) -> None:
        if text:
            self._out.append(text)

    def _block(self) -> Generator[None, str, None]:
        """Calls up to the closing mark."""
        character = yield from _past_space((yield))
        if self._form.listed and character == "[":
            character = yield from _past_space((yield))
        while True:
            if self._form.listed and character != "{":
                character = yield from self._call_by_name(character)
            else:
                character = yield from self._call_object(character)
            while character in ",;]}" + _SPACE:  # models close more than they have opened
                self._raw = ""
                character = yield
            if character != "{":
                break
        if not self._form.closing:
            raise _NotACallError
        for wanted in self._form.closing[:-1]:
            if character != wanted:
                raise _NotACallError
            character = yield
        if character != self._form.closing[-1]:
            raise _NotACallError

    def _call_object(self, character: str) -> Generator[None, str, str]:
        """`{"name": …, "arguments": {…}}`, in any order, whatever else is in it."""
        name: str | None = None
        early: list[str] = []  # arguments that came before the name
        _require(character == "{")
        character = yield from _past_space((yield))
        while True:
            key, character = yield from _string(character)
            _require(self._marked or self._ended or key in ("name", "type", "id", "arguments", "parameters"))
            character = yield from _past_space(character)
            _require(character == ":")
            character = yield from _past_space((yield))
            if key == "name" and name is None:
                name, character = yield from _string(character)
                _require(bool(name) and (self._marked or name in self._names))
            elif key in ("arguments", "parameters") and not (self._begun or early):
                character = yield from _arguments(character, self._sink(name) if name else early.append)
            else:
                character = yield from _value(character, _ignore)
            character = yield from _past_space(character)
            if character == "}":
                break
            _require(character == ",")
            character = yield from _past_space((yield))
        _require(name is not None)
        if not self._begun:
            self._sink(name or "")("".join(early) or "{}")
        return (yield from self._end())

    def _call_by_name(self, character: str) -> Generator[None, str, str]:
        """`name[ARGS]{…}`, as newer models of Mistral's write, or `name{…}` where that mark is not shown."""
        name = ""
        while character != "{":
            name += character
            _require(self._marked or any(one.startswith(name.removesuffix("[ARGS]")) for one in self._names))
            _require(len(name) <= _LONGEST_NAME)
            character = yield
        name = name.strip().removesuffix("[ARGS]")
        _require(bool(name) and (self._marked or name in self._names))
        character = yield from _value(character, self._sink(name))
        if character in _SPACE + ",]":
            return (yield from self._end())
        self._raw, self._begun, self._ended = character, False, True
        return character

    def _end(self) -> Generator[None, str, str]:
        """A call is whole: from here on something else may follow."""
        self._raw, self._begun, self._ended = "", False, True
        return (yield)

    def _sink(self, name: str) -> Callable[[str], None]:
        """Takes the arguments of a call, whose first part makes it one for good."""

        def add(text: str) -> None:
            if not self._begun:
                self._mark, self._begun = "", True
                self._out.append(CallDelta(index=self.calls, id=self._new_id(self._form.id_characters), name=name))
                self.calls += 1
            self._out.append(CallDelta(index=self.calls - 1, arguments=text))

        return add


def parse_calls(form: CallForm, text: str, tools: Sequence[Tool] = ()) -> tuple[str, tuple[ToolCall, ...]]:
    """A whole answer: what it says, and the calls in it."""
    parser = CallParser(form, tools)
    return gathered([*parser.push(text), *parser.finish()])


def gathered(pieces: Sequence[Piece]) -> tuple[str, tuple[ToolCall, ...]]:
    """The text and the whole calls of streamed pieces."""
    calls: dict[int, ToolCall] = {}
    for piece in pieces:
        if isinstance(piece, CallDelta):
            before = calls.get(piece.index, ToolCall(id=piece.id or "", name=piece.name or "", arguments=""))
            calls[piece.index] = replace(before, arguments=before.arguments + piece.arguments)
    return "".join(piece for piece in pieces if isinstance(piece, str)), tuple(calls[at] for at in sorted(calls))


# Readers of JSON, character by character: each is given the character at hand, and gives the one after what it has read.


def _past_space(character: str) -> Generator[None, str, str]:
    while character in _SPACE:
        character = yield
    return character


def _string(character: str) -> Generator[None, str, tuple[str, str]]:
    parts: list[str] = []
    _require(character == '"')
    character = yield from _value(character, parts.append)
    try:
        return json.loads("".join(parts), strict=False), character
    except ValueError as error:
        raise _NotACallError from error


def _arguments(character: str, sink: Callable[[str], None]) -> Generator[None, str, str]:
    """An object as it comes; one that was written as a string, or left out (null), when it is whole."""
    if character == "{":
        return (yield from _value(character, sink))
    if character == '"':
        text, character = yield from _string(character)
        sink(text or "{}")
        return character
    parts: list[str] = []
    character = yield from _value(character, parts.append)
    _require("".join(parts) == "null")
    sink("{}")
    return character


def _value(character: str, sink: Callable[[str], None]) -> Generator[None, str, str]:
    """Any value, character by character into `sink`."""
    depth, quoted, escaped = 0, False, False
    if character not in '{["':
        while character not in ",}]" + _SPACE:
            sink(character)
            character = yield
        return character
    while True:
        sink(character)
        if escaped:
            escaped = False
        elif quoted and character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif not quoted:
            depth += (character in "{[") - (character in "}]")
        if not quoted and depth == 0:
            return (yield)
        character = yield


def _require(holds: bool) -> None:
    if not holds:
        raise _NotACallError


def _ignore(_: str) -> None:
    pass


def _joined(out: list[Piece]) -> list[Piece]:
    """Takes all out; neighbours joined."""
    joined: list[Piece] = []
    for piece in out:
        last = joined[-1] if joined else None
        if isinstance(piece, str) and isinstance(last, str):
            joined[-1] = last + piece
        elif isinstance(piece, CallDelta) and isinstance(last, CallDelta) and piece.index == last.index:
            joined[-1] = replace(last, arguments=last.arguments + piece.arguments)
        else:
            joined.append(piece)
    out.clear()
    return joined


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` could begin `mark`."""
    sizes = range(min(len(text), len(mark) - 1), 0, -1)
    return next((size for size in sizes if mark.startswith(text[-size:])), 0)


def _random_id(characters: int) -> str:
    drawn = "".join(secrets.choice(_LETTERS) for _ in range(characters))
    return drawn if characters < HERMES.id_characters else f"call_{drawn}"
