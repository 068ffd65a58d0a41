"""Examples → tokens to learn from: through the one chat template, and cut where they are longer than the context.

What is cut, in this order, until the rest fits: the oldest exchanges, at the borders of turns, never the system prompt; the
middle of the longest question or result in the last exchange; the end of its answer, back to the end of a sentence. The
end-of-turn token is always there.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dunwu.core.errors import DataError, TokenizerError
from dunwu.core.records import Example, Message, Tokens
from dunwu.tokenizer.like import TokenizerLike
from dunwu.tokenizer.open import OpenTokenizer
from dunwu.tokenizer.template import encode_chat, render_chat
from dunwu.tokenizer.tool_text import spelled_out, uses_tools

Cut = Literal["turns", "question", "answer"]
Encode = Callable[[Example], Tokens]
ELLIPSIS = "\n[…]\n"
LEAST_TEXT = 16  # characters that must remain of a question, and of an answer, that is cut
LEAST_QUESTION = 0.25  # of a question: less would not tell what is asked
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s)|[。！？；…][”’」』）]*|\n")


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The tokens of an example within the context, and what was cut for it; no tokens where nothing sensible is left."""

    tokens: Tokens | None
    cut: tuple[Cut, ...] = ()


def encode_example(tokenizer: TokenizerLike, example: Example) -> Tokens:
    """The ids of a conversation with its tools; learned is what the assistant says, but for what is only read.

    Tools are spelled out for a template that knows none. Raises DataError where the template refuses the conversation.
    """
    messages, tools = example.messages, list(example.tools)
    template = tokenizer.template_for(tools=bool(tools)) if isinstance(tokenizer, OpenTokenizer) else "tools"
    if uses_tools(messages, tools) and "tools" not in (template or ""):
        messages, tools = tuple(spelled_out(messages, tools)), []
    settings: dict[str, Any] = {"tools": tools} if tools else {}
    tokens = encode_chat(tokenizer, messages, **settings)
    if not example.only_read:
        return tokens
    spans = list(_runs(tokens.learned))
    said = [place for place, message in enumerate(example.messages) if message.role == "assistant"]
    if len(spans) != len(said):
        raise DataError(
            f"the chat template shows {len(spans)} answers of {len(said)}, so that none can be left unlearned"
        )
    learned = tokens.learned.copy()
    for place, (start, end) in zip(said, spans, strict=True):
        if place in example.only_read:
            learned[start:end] = False
    return Tokens(ids=tokens.ids, learned=learned)


def system_fault(tokenizer: TokenizerLike) -> str | None:
    """Why conversations with a system prompt cannot be learned with this chat template, or None."""
    probe = (Message(role="system", content="zq-7 probe"), Message(role="user", content="Hello."))
    try:
        text = render_chat(tokenizer, probe)
    except (DataError, TokenizerError) as error:
        return f"the chat template takes no system prompt ({error})"
    return None if "zq-7 probe" in text else "the chat template drops the system prompt"


def fit(example: Example, encode: Encode, most: int) -> Fitted:
    """The example in at most `most` tokens."""
    tokens = encode(example)
    if len(tokens.ids) <= most:
        return Fitted(tokens=tokens)
    shorter = _without_oldest(example, encode, most)
    if shorter is not None:
        return Fitted(tokens=encode(shorter), cut=("turns",))
    last = _from_exchange(example, _exchanges(example.messages)[-1])
    turns: tuple[Cut, ...] = ("turns",) if last.messages != example.messages else ()
    return _fit_exchange(last, encode, most, turns)


def _fit_exchange(example: Example, encode: Encode, most: int, cut: tuple[Cut, ...]) -> Fitted:
    """One exchange that is too long: half of the room is the answer's, if it needs that much."""
    tokens = encode(example)
    answer = _last_run(tokens)
    room = most - min(answer, most // 2)
    if len(tokens.ids) - answer > room:
        place = _longest_asked(example.messages)
        least = max(LEAST_TEXT, int(len(example.messages[place].content) * LEAST_QUESTION))
        shortened = _shortened(example, place, _without_middle, encode, room + answer, least)
        if shortened is None:
            return Fitted(tokens=None)
        example, cut = shortened, (*cut, "question")
        tokens = encode(example)
    if len(tokens.ids) > most:
        shortened = _shortened(example, len(example.messages) - 1, _beginning, encode, most, LEAST_TEXT)
        if shortened is None or example.messages[-1].tool_calls:
            return Fitted(tokens=None)
        example, cut = shortened, (*cut, "answer")
    return Fitted(tokens=encode(example), cut=cut)


def _exchanges(messages: Sequence[Message]) -> list[int]:
    """Where the user's turns are: each begins an exchange."""
    return [place for place, message in enumerate(messages) if message.role == "user"]


def _from_exchange(example: Example, start: int) -> Example:
    """The example without its exchanges before the message at `start`."""
    system = [0] if example.messages[0].role == "system" else []
    places = [*system, *range(start, len(example.messages))]
    only_read = frozenset(new for new, old in enumerate(places) if old in example.only_read)
    return replace(example, messages=tuple(example.messages[place] for place in places), only_read=only_read)


def _without_oldest(example: Example, encode: Encode, most: int) -> Example | None:
    """The example without as few of its oldest exchanges as will do; None where even the last one alone is too long."""
    starts = _exchanges(example.messages)[1:]
    low, high = 0, len(starts)
    while low < high:
        middle = (low + high) // 2
        if len(encode(_from_exchange(example, starts[middle])).ids) <= most:
            high = middle
        else:
            low = middle + 1
    return _from_exchange(example, starts[low]) if low < len(starts) else None


def _longest_asked(messages: Sequence[Message]) -> int:
    """The place of the longest text that is neither the system's nor the assistant's."""
    places = [place for place, message in enumerate(messages) if message.role in ("user", "tool")]
    return max(places, key=lambda place: len(messages[place].content))


def _shortened(
    example: Example, place: int, shorten: Callable[[str, int], str], encode: Encode, most: int, least: int
) -> Example | None:
    """The example with as much of the text at `place` as fits `most` tokens; None where less than `least` characters do."""
    text = example.messages[place].content

    def with_text(characters: int) -> Example:
        message = replace(example.messages[place], content=shorten(text, characters))
        return replace(example, messages=(*example.messages[:place], message, *example.messages[place + 1 :]))

    low, high = least - 1, len(text) - 1  # the most characters that are known to fit, and the most that may
    while low < high:
        middle = (low + high + 1) // 2
        if len(encode(with_text(middle)).ids) <= most:
            low = middle
        else:
            high = middle - 1
    return with_text(low) if low >= least else None


def _without_middle(text: str, characters: int) -> str:
    """At most so many characters from both ends, whole words where there are blanks between them."""
    head = (characters + 1) // 2
    return _whole_words(text, head) + ELLIPSIS + _whole_words(text[::-1], characters - head)[::-1]


def _beginning(text: str, characters: int) -> str:
    """At most so many characters, to the end of a sentence, or else of a word, where one ends in the second half."""
    ends = [found.end() for found in _SENTENCE_END.finditer(text, 0, characters + 1) if found.end() <= characters]
    return text[: ends[-1]] if ends and ends[-1] * 2 >= characters else _whole_words(text, characters)


def _whole_words(text: str, characters: int) -> str:
    blank = max(text.rfind(" ", 0, characters + 1), text.rfind("\n", 0, characters + 1))
    return text[:blank] if blank * 2 >= characters else text[:characters]


def _runs(learned: np.ndarray) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], learned, [False])).astype(np.int8)))
    return ((int(start), int(end)) for start, end in edges.reshape(-1, 2))


def _last_run(tokens: Tokens) -> int:
    """The tokens of the last answer."""
    runs = list(_runs(tokens.learned))
    return runs[-1][1] - runs[-1][0] if runs else 0
