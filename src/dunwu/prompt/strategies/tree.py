"""Tree of thoughts: steps are proposed, judged, and only promising ones are followed (Yao et al. 2023, arXiv:2305.10601)."""

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dunwu.chat.options import ChatOptions
from dunwu.core.records import Completion, Message
from dunwu.core.section import Count
from dunwu.prompt.strategies.base import Ask, Steps, Strategy, ask, asked_with, question_of, sampled, thinking, user
from dunwu.prompt.strategies.wording import Language, Words, filled, words_for

Thoughts = tuple[str, ...]
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_MOST = 10.0  # of a value
_JUDGE_TOKENS = 16


class TreeOfThoughts(Strategy):
    """`branch` next steps are drawn for each state, down to `depth` steps.

    `search` "breadth": of all states of a depth the `keep` best go on. "depth": the best next step is followed first, states
    valued below `floor` are given up, and the first state of full depth is taken; where none is found within `visits` states that
    were opened, the deepest.
    `judge` "value": each state gets a number, the mean of `votes` draws; "vote": `votes` times one of the candidates is chosen
    (breadth only: what does not stand side by side cannot be chosen between). Where two are judged equal, the one proposed first
    comes first. The steps of the state taken are the `thinking` of the answer.
    """

    title: ClassVar[str] = "tree"
    depth: Annotated[int, Field(ge=1, le=20)] = 3
    branch: Annotated[int, Field(ge=1, le=20)] = 3
    keep: Count = 2
    votes: Annotated[int, Field(ge=1, le=20)] = 1
    search: Literal["breadth", "depth"] = "breadth"
    judge: Literal["value", "vote"] = "value"
    floor: Annotated[float, Field(ge=0, le=1)] = 0.3
    visits: Count = 12
    temperature: Annotated[float, Field(gt=0)] = 0.7
    tokens: Count = 128
    language: Language = "auto"

    def steps(self, messages: Sequence[Message], options: ChatOptions) -> Steps:
        words = words_for(question_of(messages), self.language)
        walk = _Walk(self, tuple(messages), options, words)
        best = yield from (walk.breadth() if self.search == "breadth" else walk.depth())
        asked = asked_with(messages, filled(words.finish, steps=_written(best, words)))
        done = yield from ask(asked, options)
        return replace(done, thinking="\n".join(best))


Search = Generator[Sequence[Ask], Sequence[Completion], Thoughts]


@dataclass(slots=True)
class _Walk:
    """The search in one tree."""

    plan: TreeOfThoughts
    messages: tuple[Message, ...]
    options: ChatOptions
    words: Words

    def breadth(self) -> Search:
        states: list[Thoughts] = [()]
        for level in range(self.plan.depth):
            found = yield from self._proposed(states, level)
            if not found:
                break
            judged = self._voted(found, level) if self.plan.judge == "vote" else self._valued(found, level)
            values = yield from judged
            order = sorted(range(len(found)), key=lambda place: (-values[place], place))
            states = [found[place] for place in order[: self.plan.keep]]
        return states[0]

    def depth(self) -> Search:
        open_: list[Thoughts] = [()]  # the next to be looked at stands last
        deepest: Thoughts = ()
        for visit in range(self.plan.visits):
            if not open_:
                break
            state = open_.pop()
            deepest = max(deepest, state, key=len)
            if len(state) == self.plan.depth:
                break
            found = yield from self._proposed([state], visit)
            values = (yield from self._valued(found, visit)) if found else []
            worth = [place for place, value in enumerate(values) if value >= self.plan.floor]
            open_ += [found[place] for place in sorted(worth, key=lambda place: (values[place], -place))]
        return deepest

    def _proposed(
        self, states: Sequence[Thoughts], level: int
    ) -> Generator[Sequence[Ask], Sequence[Completion], list[Thoughts]]:
        """The next steps of all states, each once, in the order drawn."""
        told = yield [
            Ask(
                messages=self._about(self.words.next_step, state),
                options=sampled(
                    replace(thinking(self.options, 0), max_tokens=self.plan.tokens),
                    self.plan.temperature,
                    "step",
                    level,
                    place,
                    number,
                ),
            )
            for place, state in enumerate(states)
            for number in range(self.plan.branch)
        ]
        found = [
            (*states[place // self.plan.branch], one.text.strip()) for place, one in enumerate(told) if one.text.strip()
        ]
        return list(dict.fromkeys(found))

    def _valued(
        self, found: Sequence[Thoughts], level: int
    ) -> Generator[Sequence[Ask], Sequence[Completion], list[float]]:
        votes = self.plan.votes
        told = yield [
            Ask(messages=self._about(self.words.value, state), options=self._judging(level, place, number))
            for place, state in enumerate(found)
            for number in range(votes)
        ]
        values = [_value(one.text) for one in told]
        return [sum(values[place * votes : (place + 1) * votes]) / votes for place in range(len(found))]

    def _voted(
        self, found: Sequence[Thoughts], level: int
    ) -> Generator[Sequence[Ask], Sequence[Completion], list[float]]:
        listed = "\n\n".join(
            filled(self.words.candidate, number=number, steps=_written(state, self.words))
            for number, state in enumerate(found, 1)
        )
        text = filled(self.words.choose, question=question_of(self.messages), candidates=listed)
        told = yield [
            Ask(messages=(*self.messages[:-1], user(text)), options=self._judging(level, "vote", number))
            for number in range(self.plan.votes)
        ]
        chosen = [_chosen(one.text, len(found)) for one in told]
        return [chosen.count(place) / len(chosen) for place in range(len(found))]

    def _judging(self, *place: object) -> ChatOptions:
        short = replace(thinking(self.options, 0), max_tokens=_JUDGE_TOKENS)
        return short if self.plan.votes == 1 else sampled(short, self.plan.temperature, "judge", *place)

    def _about(self, words: str, state: Thoughts) -> tuple[Message, ...]:
        text = filled(words, question=question_of(self.messages), steps=_written(state, self.words))
        return (*self.messages[:-1], user(text))


def _written(state: Thoughts, words: Words) -> str:
    return "\n".join(f"{number}. {step}" for number, step in enumerate(state, 1)) or words.no_steps


def _value(text: str) -> float:
    """0 to 1; what names no number is worth nothing."""
    found = _NUMBER.search(text)
    return min(float(found[0]), _MOST) / _MOST if found else 0.0


def _chosen(text: str, count: int) -> int | None:
    found = _NUMBER.search(text)
    number = int(float(found[0])) if found else 0
    return number - 1 if 1 <= number <= count else None
