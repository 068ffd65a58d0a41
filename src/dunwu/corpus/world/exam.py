"""The exam, the training questions that share no combination with it, and the conversations made of them."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

from dunwu.core.recipe import Language, SftWorldSource
from dunwu.core.records import Example, Message
from dunwu.corpus.world.facts import Ownership, Recall
from dunwu.corpus.world.form import Form
from dunwu.corpus.world.questions import GRAMMARS, Combination, Kind, Question, QuestionKind
from dunwu.corpus.world.reasoning import Fits, Left, Premise
from dunwu.corpus.world.truth import World, build_world

KINDS: tuple[Kind, ...] = (Recall(), Ownership(), Fits(), Left(), Premise(), Form())
EXAMPLES = 18_000  # conversations at size 1.0
# How often each kind is asked in training: what takes more steps needs more practice.
SHARES: Mapping[QuestionKind, float] = {
    "recall": 0.14,
    "ownership": 0.1,
    "fits": 0.14,
    "left": 0.16,
    "premise": 0.16,
    "form": 0.3,
}
SMALL_TALK_SHARE = 0.02
SECOND_TURN_SHARE = 0.15
_TRIES = 20
Strata = list[list[list[Combination]]]  # stratum, label, combinations


class QuestionPool:
    """The combinations of one kind on one side of the split, drawn evenly over strata and labels."""

    def __init__(self, world: World, kind: Kind, *, for_exam: bool) -> None:
        self.world, self.kind = world, kind
        groups: dict[str, dict[str, list[Combination]]] = defaultdict(lambda: defaultdict(list))
        for combination in kind.combinations(world):
            if kind.held_out(world, combination) == for_exam:
                stratum, label = kind.balance(world, combination)
                groups[stratum][label].append(combination)
        most = max((len(labels) for labels in groups.values()), default=0)
        # A stratum that lacks a label would give its answer away.
        self._strata: Strata = [list(labels.values()) for labels in groups.values() if len(labels) == most]

    @cached_property
    def combinations(self) -> list[Combination]:
        return [combination for labels in self._strata for members in labels for combination in members]

    def draw(self, language: Language, rng: random.Random) -> Question | None:
        """A question, or None where nothing can be asked in that language."""
        combination = self.combination(language, rng)
        return None if combination is None else self.kind.ask(self.world, combination, language, rng)

    def combination(self, language: Language, rng: random.Random) -> Combination | None:
        """Facts to ask for, or None where nothing can be asked in that language."""
        if not self._strata:
            return None
        for _ in range(_TRIES):
            combination = rng.choice(rng.choice(rng.choice(self._strata)))
            if language in self.kind.languages(combination):
                return combination
        return None

    def balanced(self, language: Language, count: int, rng: random.Random) -> list[Question]:
        """Up to `count` different questions, with equally many of each label within each stratum."""
        rounds = _rounds(self._strata, lambda c: language in self.kind.languages(c), rng)
        questions: dict[str, Question] = {}
        for _ in range(_TRIES):
            for row in rounds:
                asked = [self.kind.ask(self.world, combination, language, rng) for combination in row]
                fresh = [q for q in asked if q.messages[0].content not in questions]
                if len(fresh) == len(row) and len(questions) + len(row) <= count:
                    questions |= {q.messages[0].content: q for q in fresh}
        return list(questions.values())


def _rounds(strata: Strata, usable: Callable[[Combination], bool], rng: random.Random) -> list[list[Combination]]:
    """Rows that hold one combination of every label of a stratum; no combination twice; in random order."""
    rows: list[list[Combination]] = []
    for labels in strata:
        columns = [
            rng.sample(members, len(members)) for members in ([c for c in m if usable(c)] for m in labels) if members
        ]
        rows += [list(row) for row in zip(*columns, strict=False)]
    return rng.sample(rows, len(rows))


def world_exam(seed: int, languages: Sequence[Language], per_kind: int, *, size: float = 1.0) -> list[Question]:
    """The exam of a world: up to `per_kind` questions a kind, shared evenly between the languages, balanced within each.

    A small world has fewer unseen combinations than asked for, and then a shorter exam; no question occurs twice.
    """
    world = build_world(seed, size)
    questions: list[Question] = []
    for kind in KINDS:
        pool = QuestionPool(world, kind, for_exam=True)
        for i, language in enumerate(languages):
            count = per_kind * (i + 1) // len(languages) - per_kind * i // len(languages)
            questions += pool.balanced(language, count, random.Random(f"exam {seed} {kind.name} {language}"))
    return questions


class TrainingQuestions:
    """An endless supply of questions that the exam does not ask."""

    def __init__(self, world: World) -> None:
        self._pools = {kind.name: QuestionPool(world, kind, for_exam=False) for kind in KINDS}

    def draw(self, language: Language, rng: random.Random) -> Question:
        while True:
            (kind,) = rng.choices(list(SHARES), list(SHARES.values()))
            question = self._pools[kind].draw(language, rng)
            if question:
                return question

    def conversation(self, language: Language, rng: random.Random) -> tuple[Message, ...]:
        """One question and its answer, sometimes two, now and then a greeting."""
        if rng.random() < SMALL_TALK_SHARE:
            return _turn(*rng.choice(GRAMMARS[language].small_talk))
        turns = 2 if rng.random() < SECOND_TURN_SHARE else 1
        drawn = [self.draw(language, rng) for _ in range(turns)]
        return tuple(message for q in drawn for message in _turn(q.messages[0].content, q.answer))


def _turn(question: str, answer: str) -> tuple[Message, Message]:
    return Message(role="user", content=question), Message(role="assistant", content=answer)


def world_examples(source: SftWorldSource) -> Iterator[Example]:
    """Conversations to learn from: `EXAMPLES` at size 1.0, a pure function of the source."""
    questions = TrainingQuestions(build_world(source.seed, source.size))
    rng = random.Random(f"examples {source.seed}")
    for number in range(max(1, round(EXAMPLES * source.size))):
        language = source.languages[number % len(source.languages)]
        yield Example(messages=questions.conversation(language, rng), source=f"world/{source.seed}/sft#{number}")
