"""Ids to text, one id at a time, never showing half a character."""

import codecs

from dunwu.tokenizer.bpe import Tokenizer


class StreamDecoder:
    """Text of a growing sequence of ids. The pieces joined equal `Tokenizer.decode` of the whole; special tokens are left out."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.special_ids.values())
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, number: int) -> str:
        """The text that became complete with this id; empty while a character is unfinished."""
        if number in self._special:
            return ""
        return self._decoder.decode(self._tokenizer.id_bytes(number))

    def finish(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character, otherwise nothing."""
        return self._decoder.decode(b"", final=True)
