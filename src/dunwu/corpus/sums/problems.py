"""A chain of operations on whole numbers, put into words, and the steps that solve it.

What is kept for measuring is decided by the calculation alone, never by its wording or language: no problem to learn from has
the calculation of one that is measured.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from dunwu.core.recipe import Language, SftSumsSource
from dunwu.core.records import Example, Message
from dunwu.corpus.sums.wording import WORDING, Wording
from dunwu.corpus.world.split import fraction

HELD_OUT_SHARE = 0.1
LARGEST = 99
_TRIES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem. `solution`: its steps, a line each, then the answer; `calculation`: what is computed, from left to
    right, such as 12 + 5 * 3."""

    question: str
    solution: str
    answer: int
    calculation: str
    steps: int
    language: Language


@dataclass(slots=True)
class _Story:
    """A problem as it grows: sentences, the steps so far, and how many there are now."""

    wording: Wording
    rng: Random
    words: dict[str, str]
    largest: int
    names: str | None = (
        None  # who must be named in a sentence, or (with a minus) must not, so that it says whose things it means
    )
    sentences: list[str] = field(default_factory=list[str])
    steps: list[str] = field(default_factory=list[str])
    calculation: str = ""
    value: int = 0

    def say(self, ways: Sequence[str], **numbers: int) -> None:
        clear = [way for way in ways if self._is_clear(way)]
        self.sentences.append(self.rng.choice(clear or list(ways)).format(**self.words, **numbers))

    def _is_clear(self, way: str) -> bool:
        return self.names is None or (f"{{{self.names[-1]}}}" in way) == (self.names[0] != "-")

    def compute(self, left: int, sign: str, right: int, result: int) -> None:
        self.steps.append(f"{left} {sign} {right} = {result}")
        self.calculation = f"{self.calculation or left} {sign} {right}"
        self.value = result


def problems(
    seed: int,
    count: int,
    languages: Sequence[Language],
    *,
    held_out: bool,
    steps: Sequence[int] = (1, 2, 3),
    largest: int = LARGEST,
) -> Iterator[Problem]:
    """Different problems, at most `count`, of either side of the split; a pure function of the arguments. `largest`: of the numbers
    that a problem begins with; what is computed of them is at most twice that where things are counted, four times where they are
    paid for."""
    rng = Random(f"sums {seed} {held_out}")
    seen: set[str] = set()
    for number in range(count):
        for _ in range(_TRIES):
            problem = _problem(languages[number % len(languages)], rng.choice(list(steps)), rng, largest)
            if problem is None or problem.question in seen or kept_for_measuring(problem.calculation) != held_out:
                continue
            seen.add(problem.question)
            yield problem
            break


def kept_for_measuring(calculation: str) -> bool:
    """Whether no problem to learn from has this calculation."""
    return fraction(0, "sums", calculation) < HELD_OUT_SHARE


def sums_examples(source: SftSumsSource) -> Iterator[Example]:
    """Problems and solutions to learn from; a pure function of the source."""
    found = problems(
        source.seed,
        source.problems,
        source.languages,
        held_out=False,
        steps=source.steps,
        largest=source.largest,
    )
    for number, problem in enumerate(found):
        messages = (
            Message(role="user", content=problem.question),
            Message(role="assistant", content=problem.solution),
        )
        yield Example(messages=messages, source=f"sums/{source.seed}#{number}")


def _problem(language: Language, steps: int, rng: Random, largest: int) -> Problem | None:
    """A problem of so many steps, or None where the numbers drawn lead nowhere."""
    wording = WORDING[language]
    story = _Story(wording, rng, _words(wording, rng), largest)
    told = _missing(story) if steps == 1 and rng.random() < 0.25 else _chain(story, steps)
    if not told:
        return None
    answer = wording.answer.format(v=story.value)
    return Problem(
        question=wording.separator.join(story.sentences),
        solution="\n".join([*story.steps, answer]),
        answer=story.value,
        calculation=story.calculation,
        steps=steps,
        language=language,
    )


def _words(wording: Wording, rng: Random) -> dict[str, str]:
    name, other = rng.sample(wording.people, 2)
    thing, box = rng.choice(wording.things), rng.choice(wording.boxes)
    return {"n": name, "m": other, "t": thing, "t1": thing[1:], "box": box, "box1": box}


def _missing(story: _Story) -> bool:
    """What was given, from what there was before and after."""
    large = story.rng.randint(5, story.largest)
    small = story.rng.randint(2, large - 2)
    ways = story.rng.choice([story.wording.gave, story.wording.got])
    story.say(ways, a=large, b=small)
    story.compute(large, "-", small, large - small)
    return True


def _chain(story: _Story, steps: int) -> bool:
    """An opening, events, and a question that may be a step itself."""
    rng, wording = story.rng, story.wording
    opening = rng.choice(["has", "has", "groups", "both", "compare"])
    closing = rng.random() < 0.45
    events = steps - (opening != "has") - closing
    if not 0 <= events <= 2 or (events == 0 and opening == "has" and not closing):
        return False
    _open(story, opening)
    for _ in range(events):
        _happen(story)
    if closing:
        return _close(story)
    story.say(wording.how_many_both if opening == "both" else wording.how_many)
    return story.value <= 2 * story.largest


def _open(story: _Story, opening: str) -> None:
    rng, wording, largest = story.rng, story.wording, story.largest
    match opening:
        case "has":
            story.value = rng.randint(4, largest)
            story.say(wording.has, a=story.value)
        case "groups":
            a, b = rng.randint(2, 9), rng.randint(2, min(12, largest))
            story.say(wording.groups, a=a, b=b)
            story.compute(a, "*", b, a * b)
        case "both":
            a, b = (rng.randint(3, max(4, largest * 2 // 3)) for _ in range(2))
            story.say(wording.both, a=a, b=b)
            story.names = "-m"  # the things belong to both
            story.compute(a, "+", b, a + b)
        case _:
            a = rng.randint(6, largest)
            more = rng.random() < 0.5
            b = rng.randint(2, largest // 2 if more else a - 2)
            story.say(wording.more if more else wording.fewer, a=a, b=b)
            story.names = "n"  # the other has things too
            story.compute(a, "+" if more else "-", b, a + b if more else a - b)


def _happen(story: _Story) -> None:
    before = story.value
    gains = story.rng.random() < 0.5 or before < 5
    x = story.rng.randint(2, story.largest // 2 if gains else min(before - 2, story.largest))
    story.say(story.wording.gains if gains else story.wording.loses, x=x)
    story.compute(before, "+" if gains else "-", x, before + x if gains else before - x)


def _close(story: _Story) -> bool:
    before, rng = story.value, story.rng
    if rng.random() < 0.3:
        x = rng.randint(2, 9)
        story.say(story.wording.cost, x=x)
        story.compute(before, "*", x, before * x)
        return before * x <= 4 * story.largest
    divisors = [x for x in range(2, 13) if before % x == 0 and before // x >= 2]
    if not divisors or before > 2 * story.largest:
        return False
    x = rng.choice(divisors)
    story.say(rng.choice([story.wording.shared, story.wording.packed]), x=x)
    story.compute(before, "/", x, before // x)
    return True
