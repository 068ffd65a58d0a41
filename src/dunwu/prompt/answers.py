"""What a text that reasons first comes to, and what several such texts agree on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dunwu.core.final_answer import final_answer, same_answer

_SENTENCE_END = re.compile(r"(?<=[!?。！？\n])|(?<=\.)(?=\s)")
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?%?(?![\w])")
_VERDICT = re.compile(
    r"(yes|true|false)\b|no(?=[,.;:!\s]*$|[,.;:!])|(是的|是|对|行|能|可以|否|不是|不对|不行|不能|不可以)(?=[，,。！!;；\s]|$)",
    re.IGNORECASE,
)
_LETTER = re.compile(r"\(?([A-Ja-j])[).]?(?:\s|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """The answer that most texts came to: the `place` of the first of them, how many there are, and of how many that came to any.
    `tied`: another answer had as many; the one that came first stands."""

    place: int
    votes: int
    of: int
    tied: bool


def concluded(text: str) -> str | None:
    """The final answer of a text as another may be compared with it; None where it says nothing.

    What is marked as the answer (`\\boxed`, `####`, "the answer is", 答案是) comes first. Else it is the last sentence: its number,
    where it has just one; yes or no, where it begins so; the letter of a choice, where it is nothing else; or all of it.
    """
    marked = final_answer(text, last_number=False)
    last = marked or last_sentence(text)
    if not last:
        return None
    verdict = _VERDICT.match(last)
    if verdict:
        return verdict[0].lower()
    numbers = _NUMBER.findall(last)
    if len(numbers) == 1 and marked is None:
        return numbers[0]
    letter = _LETTER.fullmatch(last)
    return letter[1].upper() if letter else last


def last_sentence(text: str) -> str:
    """The last sentence, or line, that says anything."""
    sentences = [part.strip() for part in _SENTENCE_END.split(text)]
    return next((part for part in reversed(sentences) if re.search(r"\w", part)), "")


def agree(one: str, other: str) -> bool:
    """Whether two texts come to the same answer."""
    ours, theirs = concluded(one), concluded(other)
    return ours is not None and theirs is not None and same_answer(ours, theirs)


def vote(texts: Sequence[str]) -> Vote | None:
    """What most texts conclude; None where none concludes anything."""
    groups: list[tuple[str, list[int]]] = []
    for place, text in enumerate(texts):
        said = concluded(text)
        if said is None:
            continue
        group = next((members for answer, members in groups if same_answer(answer, said)), None)
        if group is None:
            groups.append((said, [place]))
        else:
            group.append(place)
    if not groups:
        return None
    most = max(len(members) for _, members in groups)
    winners = [members for _, members in groups if len(members) == most]
    return Vote(place=winners[0][0], votes=most, of=sum(len(members) for _, members in groups), tied=len(winners) > 1)
