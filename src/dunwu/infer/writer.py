"""Ids to the text that may be shown: whole characters, and nothing that could be the beginning of a stop string."""

from collections.abc import Sequence

from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.stream import StreamDecoder


class Writer:
    """The text of one completion, which follows on the ids `after`. Stop strings are found wherever they lie between tokens;
    the first one ends the text."""

    def __init__(self, tokenizer: TokenizerLike, stops: Sequence[str] = (), *, after: Sequence[int] = ()) -> None:
        self._stream = StreamDecoder(tokenizer, after)
        self._stops = tuple(stops)
        self._held = ""

    def push(self, number: int) -> tuple[str, bool]:
        """What can be shown with this id, and whether a stop string ended the text before its end."""
        return self._show(self._stream.push(number), self._stops)

    def finish(self) -> tuple[str, bool]:
        """What was held back, once no id follows."""
        text, stopped = self._show(self._stream.finish(), self._stops)
        if stopped:
            return text, True
        text, self._held = text + self._held, ""
        return text, False

    def _show(self, new: str, stops: tuple[str, ...]) -> tuple[str, bool]:
        if not stops:
            return new, False
        text = self._held + new
        found = [place for stop in stops if (place := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        held = max(_overlap(text, stop) for stop in stops)
        shown = len(text) - held
        self._held = text[shown:]
        return text[:shown], False


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` could begin `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-size:]):
            return size
    return 0
