"""Ids to text, one id at a time, never showing half a character."""

import codecs
from collections.abc import Sequence
from typing import Protocol

from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.open import OpenTokenizer


class Stream(Protocol):
    def push(self, number: int) -> str: ...
    def finish(self) -> str: ...


class StreamDecoder:
    """Text of a growing sequence of ids. The pieces joined equal `decode` of the whole; special tokens are left out.

    `after`: the ids that stand before. A first word keeps the space that parts it from them, unless they end in a token of
    control.
    """

    def __init__(self, tokenizer: TokenizerLike, after: Sequence[int] = ()) -> None:
        self._special = frozenset(tokenizer.special_ids.values())
        self._stream: Stream = (
            _PieceStream(tokenizer, after)
            if isinstance(tokenizer, OpenTokenizer) and not tokenizer.spells_bytes
            else _ByteStream(tokenizer)
        )

    def push(self, number: int) -> str:
        """The text that became complete with this id; empty while a character is unfinished."""
        return "" if number in self._special else self._stream.push(number)

    def finish(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character, otherwise nothing."""
        return self._stream.finish()


class _ByteStream:
    """For vocabularies whose ids spell bytes."""

    def __init__(self, tokenizer: TokenizerLike) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, number: int) -> str:
        return self._decoder.decode(self._tokenizer.id_bytes(number))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class _PieceStream:
    """For vocabularies of pieces, where a space belongs to the word after it and the library decides how pieces join.

    What an id adds is the difference that it makes to the text of the id before it. A run of byte tokens is held back to its
    end: the library shows all of it as U+FFFD when the whole is no UTF-8.
    """

    def __init__(self, tokenizer: OpenTokenizer, after: Sequence[int]) -> None:
        control = tokenizer.control_ids.values()
        self._tokenizer = tokenizer
        self._before = [number for number in after[-1:] if number not in control and not tokenizer.is_byte(number)]
        self._held: list[int] = []

    def push(self, number: int) -> str:
        if not self._tokenizer.id_bytes(number):
            return ""
        self._held.append(number)
        return "" if self._tokenizer.is_byte(number) else self.finish()

    def finish(self) -> str:
        known = self._tokenizer.decode(self._before)
        text = self._tokenizer.decode([*self._before, *self._held])
        self._before, self._held = self._held[-1:], []
        return text[len(known) :]
