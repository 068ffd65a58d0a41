"""A question with its answer, and the rule by which an answer is judged; what the six kinds of question share."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Literal, Protocol

from dunwu.core.recipe import Language, QuestionKind
from dunwu.core.records import Message
from dunwu.corpus.world.chinese import CHINESE
from dunwu.corpus.world.english import ENGLISH
from dunwu.corpus.world.grammar import Grammar
from dunwu.corpus.world.truth import Attribute, Entity, Value, World

Combination = tuple[str, ...]
GRAMMARS: Mapping[Language, Grammar] = {"en": ENGLISH, "zh": CHINESE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """How an answer is judged, as data.

    - `names`: the final sentence names all that is `expected` and none of the `rivals`.
    - `number`: the numbers in the final sentence are exactly those `expected`, and it names no rival.
    - `exact`: the whole answer is what is `expected`, but for white space and a full stop at its end.
    - `json`: the whole answer is a JSON value equal to the expected one.
    - `ending`: the answer's last word is `expected[0]`, and what stands before it names the rest of `expected` and no rival.
    """

    rule: Literal["names", "number", "exact", "json", "ending"]
    expected: tuple[str, ...]
    rivals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question to the model. `combination` names the facts that it combines, independent of language and wording;
    `chance` is how often somebody who knows the form of the answer, but none of the facts, is right."""

    kind: QuestionKind
    language: Language
    combination: Combination
    messages: tuple[Message, ...]
    answer: str
    grade: Grade
    chance: float


class Kind(Protocol):
    """One kind of question."""

    name: ClassVar[QuestionKind]

    def combinations(self, world: World) -> Sequence[Combination]:
        """All that can be asked, without repetition, in a fixed order."""
        ...

    def held_out(self, world: World, combination: Combination) -> bool:
        """Whether only the exam asks it."""
        ...

    def languages(self, combination: Combination) -> tuple[Language, ...]:
        """The languages in which it can be asked."""
        ...

    def balance(self, world: World, combination: Combination) -> tuple[str, str]:
        """(stratum, label): within a stratum all labels are asked equally often, so that no guess by stratum pays."""
        ...

    def ask(self, world: World, combination: Combination, language: Language, rng: Random) -> Question:
        """The question in words drawn by `rng`."""
        ...


def asked(
    kind: QuestionKind,
    language: Language,
    combination: Combination,
    question: str,
    answer: str,
    grade: Grade,
    chance: float,
) -> Question:
    """A Question of one user turn."""
    return Question(
        kind=kind,
        language=language,
        combination=combination,
        messages=(Message(role="user", content=question),),
        answer=answer,
        grade=grade,
        chance=chance,
    )


def value_grade(world: World, entity: Entity, attribute: Attribute, language: Language) -> Grade:
    """The grade of an answer that must name the value of a fact, and no other value that an entity of that type has."""
    grammar = GRAMMARS[language]
    value = entity.facts[attribute]
    if isinstance(value, int):
        return Grade(rule="number", expected=(str(value),))
    others = {grammar.word(other) for other in world.values(entity.type, attribute)} - {grammar.word(value)}
    return Grade(rule="names", expected=(grammar.word(value),), rivals=tuple(sorted(others)))


def guess_share(values: Sequence[Value]) -> float:
    """How often the commonest of the values is right: the best that can be had without knowing a single fact."""
    return max(Counter(values).values()) / len(values)
