"""Prompt search: candidates are tried on a development part, and the winner's gain is measured on a part that nobody had seen.

The best of many looks better on the development part than it is, even where prompts cannot matter. What is reported is the gain
on the held-out part, tested once, between the plain prompt and the winner alone.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from pydantic import Field

from dunwu.chat.protocol import Chat
from dunwu.core.errors import DataError
from dunwu.core.problems import Problem
from dunwu.core.section import Count, Fraction, Section
from dunwu.core.spanned import Spanned
from dunwu.prompt.search.candidate import Candidate
from dunwu.prompt.search.propose import bootstrapped, candidates, propose, shot_sets

LEAST = 20
ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What was answered, and how good it was."""

    text: str
    score: float


Try = Callable[[Candidate, Sequence[Problem]], Sequence[Tried]]
"""Asks the problems with a candidate's prompt; an answer each, in their order."""


class Difference(Spanned, Protocol):
    """How much better the second is on the same problems, with a 95% interval and a two-sided p-value."""

    @property
    def n(self) -> int: ...
    @property
    def p_value(self) -> float: ...


Compare = Callable[[Sequence[float], Sequence[float], Sequence[str]], Difference]
"""(scores before, after, groups): such as `evaluate.paired.paired`."""


class SearchSettings(Section):
    """`instructions` and `shot_sets` are made, and up to `candidates` of their combinations tried. `k`: demonstrations of a set."""

    instructions: Annotated[int, Field(ge=0)] = 4
    shot_sets: Annotated[int, Field(ge=0)] = 4
    k: Annotated[int, Field(ge=0)] = 3
    candidates: Count = 12
    train: Fraction = 0.3
    dev: Fraction = 0.35
    enough: float = 1.0  # the score from which an answer of the model may be shown
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A candidate on the development part: its mean over `n` problems; those left early saw fewer."""

    candidate: Candidate
    mean: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """`best`: the winner on the development part, plain where nothing beat that. `gain`: on the held-out part, None where the plain
    prompt won. `before`, `after`: held-out means."""

    best: Candidate
    trials: tuple[Trial, ...]
    before: float
    after: float
    gain: Difference | None
    sizes: tuple[int, int, int]

    @property
    def gained(self) -> bool:
        """Whether the held-out part bears out a gain."""
        return self.gain is not None and self.gain.value > 0 and self.gain.p_value < ALPHA

    def lines(self) -> list[str]:
        """For people."""
        dev = max(self.trials, key=lambda one: (one.n, one.mean))
        plain = next(one for one in self.trials if one.candidate.is_plain)
        tried = f"tried    {len(self.trials)} prompts on {self.sizes[1]} development questions: plain {plain.mean:.3f}, best {dev.mean:.3f}"
        if self.gain is None:
            return [tried, "gain     none: no prompt was better than the plain one on the development part"]
        gain = self.gain
        held = (
            f"held out {self.sizes[2]} questions: plain {self.before:.3f}, best {self.after:.3f}; difference {gain.value:+.3f} "
            f"[{gain.low:+.3f}, {gain.high:+.3f}], p={gain.p_value:.3g}"
        )
        verdict = "borne out" if self.gained else "none that the held-out part bears out; keep the plain prompt"
        return [tried, held, f"gain     {verdict}"]

    def to_json(self) -> dict[str, Any]:
        gain = self.gain
        return {
            "gained": self.gained,
            "held_out": {
                "plain": self.before,
                "best": self.after,
                "questions": self.sizes[2],
                **(
                    {}
                    if gain is None
                    else {"gain": gain.value, "low": gain.low, "high": gain.high, "n": gain.n, "p_value": gain.p_value}
                ),
            },
            "trials": [{**one.candidate.to_json(), "dev_mean": one.mean, "dev_n": one.n} for one in self.trials],
        }


def search(
    problems: Sequence[Problem], try_: Try, proposer: Chat, compare: Compare, settings: SearchSettings | None = None
) -> Found:
    """Raises DataError for too few problems, and what those who are asked raise."""
    settings = settings or SearchSettings()
    train, dev, held_out = parts(problems, settings)
    plain = try_(Candidate(), train)
    own = bootstrapped(train, [one.text for one in plain], [one.score for one in plain], at_least=settings.enough)
    instructions = propose(proposer, train, count=settings.instructions, seed=settings.seed)
    shots = shot_sets(own, train, k=settings.k, count=settings.shot_sets, seed=settings.seed)
    trials = _raced(candidates(instructions, shots, most=settings.candidates, seed=settings.seed), dev, try_)
    full = [one for one in trials if one.n == len(dev)]
    best = max(full, key=lambda one: (one.mean, one.candidate.is_plain)).candidate
    before = [one.score for one in try_(Candidate(), held_out)]
    groups = [one.group for one in held_out] if any(one.group for one in held_out) else []
    after = before if best.is_plain else [one.score for one in try_(best, held_out)]
    return Found(
        best=best,
        trials=tuple(trials),
        before=_mean(before),
        after=_mean(after),
        gain=None if best.is_plain else compare(before, after, groups),
        sizes=(len(train), len(dev), len(held_out)),
    )


def parts(problems: Sequence[Problem], settings: SearchSettings) -> tuple[list[Problem], list[Problem], list[Problem]]:
    """To learn from, to choose by, to measure with. Problems of a group stay together, and so do equal questions."""
    if len(problems) < LEAST:
        raise DataError(
            f"{len(problems)} questions are too few for a search; give {LEAST} or more, better some hundreds"
        )
    families: dict[str, list[Problem]] = {}
    for one in problems:
        families.setdefault(one.group or one.input, []).append(one)
    names = sorted(families)
    random.Random(f"parts {settings.seed}").shuffle(names)
    found: tuple[list[Problem], list[Problem], list[Problem]] = ([], [], [])
    ends = (settings.train * len(problems), (settings.train + settings.dev) * len(problems))
    placed = 0
    for name in names:
        members = families[name]
        middle = placed + len(members) / 2
        found[0 if middle <= ends[0] else 1 if middle <= ends[1] else 2].extend(members)
        placed += len(members)
    if not all(found):
        sizes = ", ".join(str(len(part)) for part in found)
        raise DataError(
            f"{len(problems)} questions in {len(names)} groups make parts of {sizes}; each part needs some: give more groups, or other "
            "shares in train and dev"
        )
    return found


def _raced(tried: Sequence[Candidate], dev: Sequence[Problem], try_: Try) -> list[Trial]:
    """All see a quarter of the problems, the better half of them half, and their better half all. The plain one stays."""
    scores: list[list[float]] = [[] for _ in tried]
    racing = list(range(len(tried)))
    for share in (0.25, 0.5, 1.0):
        end = max(1, round(share * len(dev)))
        for place in racing:
            begun = len(scores[place])
            if begun < end:
                scores[place] += [one.score for one in try_(tried[place], dev[begun:end])]
        if share < 1:
            order = sorted(racing, key=lambda place: (-_mean(scores[place]), place))
            racing = sorted({*order[: max(1, (len(order) + 1) // 2)], 0})
    return [Trial(candidate=one, mean=_mean(values), n=len(values)) for one, values in zip(tried, scores, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
