"""Functions that a chain's file may name, and how long text is split. All are free of effects."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dunwu.core.errors import PromptError

Count = Callable[[str], int]
_PARAGRAPH = re.compile(r".*?(?:\n[ \t]*\n\s*|\Z)", re.DOTALL)
_SENTENCE = re.compile(r".*?(?:[.!?…]+[\"'”’)\]]*\s+|[。！？…]+[”’」』）]*\s*|\n|\Z)", re.DOTALL)
_WORD = re.compile(r"\S*\s*|\s+")
_FINER = (_PARAGRAPH, _SENTENCE, _WORD)


def paragraphs(text: str) -> list[str]:
    """Those that say something, without what stands around them."""
    return [one.strip() for one in re.split(r"\n[ \t]*\n", text) if one.strip()]


def first_paragraphs(text: str, n: int = 3) -> str:
    """The first `n` paragraphs."""
    return "\n\n".join(paragraphs(text)[: max(0, n)])


def join(texts: list[Any], separator: str = "\n\n") -> str:
    """Texts as one."""
    return separator.join(map(str, texts))


def strip(text: str) -> str:
    """Without white space around it."""
    return text.strip()


def first_line(text: str) -> str:
    """The first line that says something; "" where none does."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def first(items: list[Any]) -> Any:
    """The first item. Raises PromptError for an empty list."""
    if not items:
        raise PromptError("the list is empty, and has no first item")
    return items[0]


def numbered(items: list[Any]) -> str:
    """Items as a list, one a line."""
    return "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1))


def words(text: str) -> int:
    """How many words, as white space parts them."""
    return len(text.split())


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (paragraphs, first_paragraphs, join, strip, first_line, first, numbered, words)
}


def split_text(text: str, size: int, count: Count, *, overlap: int = 0) -> list[str]:
    """Parts of at most `size`, as `count` measures them, cut between paragraphs where that can be, else between sentences, else
    between words, else anywhere. Without overlap they are the text when joined; with it, each part but the first begins with
    about so much of the end of the one before, in whole sentences or words."""
    room = size - overlap
    waiting = [(piece, count(piece)) for piece in _pieces(text, room, count, 0)][::-1]
    parts: list[str] = []
    while waiting:
        taken = [waiting.pop()]
        measured = taken[0][1]  # of the pieces one by one: each is counted once, and joined they seldom come to more
        while waiting and measured + waiting[-1][1] <= room:
            taken.append(waiting.pop())
            measured += taken[-1][1]
        while len(taken) > 1 and count("".join(piece for piece, _ in taken)) > room:
            waiting.append(taken.pop())
        parts.append("".join(piece for piece, _ in taken))
    if overlap:
        parts = [part if not at else _tail(parts[at - 1], overlap, count) + part for at, part in enumerate(parts)]
    return parts


def _pieces(text: str, size: int, count: Count, level: int) -> list[str]:
    if not text:
        return []
    if count(text) <= size:
        return [text]
    if level == len(_FINER):
        return _halves(text, size, count)
    found: list[str] = []
    for piece in _FINER[level].findall(text):
        found += _pieces(piece, size, count, level + 1)
    return found


def _halves(text: str, size: int, count: Count) -> list[str]:
    if len(text) < 2 or count(text) <= size:
        return [text]
    middle = len(text) // 2
    return _halves(text[:middle], size, count) + _halves(text[middle:], size, count)


def _tail(text: str, size: int, count: Count) -> str:
    for finer in (_SENTENCE, _WORD):
        found = ""
        for piece in reversed([one for one in finer.findall(text) if one]):
            if count(piece + found) > size:
                break
            found = piece + found
        if found:
            return found
    return ""


def packed(texts: Sequence[str], most: int | None, at_a_time: int, count: Count) -> list[list[str]]:
    """Neighbours in groups of at most `at_a_time`, which together measure at most `most`, but never a single one where another
    could join it: groups must grow fewer."""
    groups: list[list[str]] = []
    for text in texts:
        group = groups[-1] if groups else None
        roomy = group is not None and len(group) < at_a_time
        fits = group is not None and (most is None or len(group) < 2 or count("\n\n".join([*group, text])) <= most)
        if group is not None and roomy and fits:
            group.append(text)
        else:
            groups.append([text])
    return groups
