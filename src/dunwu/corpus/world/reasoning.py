"""Questions that take steps: what fits into what, how many are left, and which questions rest on a false premise."""

from random import Random
from typing import ClassVar

from dunwu.core.recipe import Language
from dunwu.corpus.world import lexicon
from dunwu.corpus.world.facts import BOTH
from dunwu.corpus.world.lexicon import PART_COUNTS, PARTS, Word
from dunwu.corpus.world.questions import GRAMMARS, Combination, Grade, Question, QuestionKind, asked
from dunwu.corpus.world.split import LARGEST_START, held_out, held_out_sum, largest_taken
from dunwu.corpus.world.truth import Entity, World


class Fits:
    """Does an object fit into a container? Both sizes are recalled, then compared. No pair of the exam is ever asked before."""

    name: ClassVar[QuestionKind] = "fits"

    def combinations(self, world: World) -> list[Combination]:
        return [(thing.key, container.key) for thing in world.objects for container in world.containers]

    def held_out(self, world: World, combination: Combination) -> bool:
        return held_out(world.seed, "fits", *combination)

    def languages(self, combination: Combination) -> tuple[Language, ...]:
        return BOTH

    def balance(self, world: World, combination: Combination) -> tuple[str, str]:
        thing, container = (world.by_key[key] for key in combination)
        return container.key, "yes" if _fits(thing, container) else "no"

    def ask(self, world: World, combination: Combination, language: Language, rng: Random) -> Question:
        thing, container = (world.by_key[key] for key in combination)
        grammar = GRAMMARS[language]
        thing_noun, container_noun = grammar.noun(thing), grammar.noun(container)
        fits = _fits(thing, container)
        steps = [
            grammar.statement(thing, "size"),
            grammar.statement(container, "holds"),
            grammar.fill(
                (grammar.less if fits else grammar.more)[0], x=thing.facts["size"], y=container.facts["holds"]
            ),
            grammar.fill(grammar.fits_yes if fits else grammar.fits_no, o=thing_noun, c=container_noun),
        ]
        right, wrong = grammar.fits_words if fits else grammar.fits_words[::-1]
        return asked(
            self.name,
            language,
            combination,
            grammar.fill(rng.choice(grammar.fits_questions), o=thing_noun, c=container_noun),
            grammar.separator.join(steps),
            Grade(rule="names", expected=(right,), rivals=(wrong,)),
            0.5,
        )


def _fits(thing: Entity, container: Entity) -> bool:
    size, room = thing.facts["size"], container.facts["holds"]
    assert isinstance(size, int)
    assert isinstance(room, int)
    return size < room


class Left:
    """How many are left? Counted step by step. No sum of the exam occurs before, not even as a part of a longer count."""

    name: ClassVar[QuestionKind] = "left"

    def combinations(self, world: World) -> list[Combination]:
        starts = range(3, LARGEST_START + 1)
        return [(str(start), str(taken)) for start in starts for taken in range(1, largest_taken(start) + 1)]

    def held_out(self, world: World, combination: Combination) -> bool:
        start, taken = map(int, combination)
        return held_out_sum(world.seed, start, taken)

    def languages(self, combination: Combination) -> tuple[Language, ...]:
        return BOTH

    def balance(self, world: World, combination: Combination) -> tuple[str, str]:
        return combination[1], ""  # long counts are practised as often as short ones

    def ask(self, world: World, combination: Combination, language: Language, rng: Random) -> Question:
        start, taken = map(int, combination)
        grammar = GRAMMARS[language]
        counted = rng.choice(lexicon.COUNTED).name(language)
        question = grammar.fill(
            rng.choice(grammar.left_questions), p=grammar.noun(rng.choice(world.people)), a=start, b=taken, t=counted
        )
        return asked(
            self.name,
            language,
            combination,
            question,
            worked_sum(start, taken, counted, language),
            Grade(rule="number", expected=(str(start - taken),)),
            1 / start,  # whoever knows only the start picks one of 0 … start − 1
        )


def worked_sum(start: int, taken: int, counted: str, language: Language) -> str:
    """The count from `start` down by `taken`, with the result as its last sentence."""
    grammar = GRAMMARS[language]
    steps = [grammar.left_step.format(i=i, b=taken, r=start - i) for i in range(1, taken + 1)]
    working = grammar.left_working.format(a=start, steps=grammar.left_separator.join(steps))
    return working + grammar.separator + grammar.left_answer.format(r=start - taken, t=counted)


class Premise:
    """How many eyes has the sun? None: the question is wrong. How many has the cat? Two. Both are asked equally often."""

    name: ClassVar[QuestionKind] = "premise"

    def combinations(self, world: World) -> list[Combination]:
        return [
            (entity.key, part.en)
            for entity in world.classified
            for part in PARTS
            if part in PART_COUNTS[class_of(entity)]
        ]

    def held_out(self, world: World, combination: Combination) -> bool:
        return held_out(world.seed, "premise", *combination)

    def languages(self, combination: Combination) -> tuple[Language, ...]:
        return BOTH

    def balance(self, world: World, combination: Combination) -> tuple[str, str]:
        return combination[1], "sound" if part_count(world, combination) else "unsound"

    def ask(self, world: World, combination: Combination, language: Language, rng: Random) -> Question:
        entity, part = world.by_key[combination[0]], _part(combination[1])
        grammar, count = GRAMMARS[language], part_count(world, combination)
        question = grammar.fill(
            rng.choice(grammar.part_questions), entity, p=part.name(language), m=lexicon.MEASURES[part]
        )
        verdict = grammar.part_answer if count else grammar.no_part_answer
        steps = [
            grammar.statement(entity, "class"),
            grammar.class_part(class_of(entity), part, count),
            grammar.fill(verdict, entity, n=grammar.counted(count, part)),
        ]
        objection = grammar.no_part.format(p=part.name(language))
        grade = (
            Grade(rule="number", expected=(str(count),), rivals=(objection, *_other_parts(part, language)))
            if count
            else Grade(rule="names", expected=(objection,), rivals=tuple("123456789"))
        )
        return asked(self.name, language, combination, question, grammar.separator.join(steps), grade, 0.5)


def class_of(entity: Entity) -> Word:
    kind = entity.facts["class"]
    assert isinstance(kind, Word)
    return kind


def part_count(world: World, combination: Combination) -> int:
    """How many of the part the entity has; 0 makes the question unsound."""
    return PART_COUNTS[class_of(world.by_key[combination[0]])][_part(combination[1])]


def _other_parts(part: Word, language: Language) -> list[str]:
    """What an answer about `part` must not speak of, in the plural and the singular."""
    names = [other.name(language) for other in PARTS if other != part]
    return names + [name.removesuffix("s") for name in names if language == "en"]


def _part(name: str) -> Word:
    return next(part for part in PARTS if part.en == name)
