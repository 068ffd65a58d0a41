"""Questions about facts: recall (one fact) and ownership (two facts in a row)."""

from random import Random
from typing import ClassVar

from dunwu.core.recipe import Language
from dunwu.corpus.world.lexicon import Word
from dunwu.corpus.world.questions import GRAMMARS, Combination, Question, QuestionKind, asked, guess_share, value_grade
from dunwu.corpus.world.split import held_out
from dunwu.corpus.world.truth import RECALLED, Attribute, Entity, World

OWNER_HOPS: tuple[Attribute, ...] = ("home", "job", "hobby")
BOTH: tuple[Language, ...] = ("en", "zh")


def attribute_named(name: str) -> Attribute:
    """The attribute of that name. Raises KeyError for a name that is none."""
    return _ATTRIBUTES[name]


_ATTRIBUTES: dict[str, Attribute] = {name: name for name in GRAMMARS["en"].statements}


class Recall:
    """One fact that the pages state. Those of the exam are stated there and never asked: neither in training dialogues nor as
    a step of another answer."""

    name: ClassVar[QuestionKind] = "recall"

    def combinations(self, world: World) -> list[Combination]:
        return [
            (entity.key, attribute) for entity in world.entities for attribute in entity.facts if attribute != "class"
        ]

    def held_out(self, world: World, combination: Combination) -> bool:
        key, attribute = combination
        return recall_held_out(world, world.by_key[key], attribute_named(attribute))

    def languages(self, combination: Combination) -> tuple[Language, ...]:
        return BOTH

    def balance(self, world: World, combination: Combination) -> tuple[str, str]:
        return "", ""

    def ask(self, world: World, combination: Combination, language: Language, rng: Random) -> Question:
        entity, attribute = world.by_key[combination[0]], attribute_named(combination[1])
        grammar = GRAMMARS[language]
        return asked(
            self.name,
            language,
            combination,
            grammar.question(entity, attribute, rng),
            grammar.statement(entity, attribute),
            value_grade(world, entity, attribute, language),
            guess_share(world.values(entity.type, attribute)),
        )


def recall_held_out(world: World, entity: Entity, attribute: Attribute) -> bool:
    """Whether the fact may be stated in pages but must not be asked, or said in an answer, before the exam."""
    return attribute in RECALLED.get(entity.type, ()) and held_out(world.seed, "recall", entity.key, attribute)


class Ownership:
    """Something about the owner of a thing: "The lamp belongs to Anna. Anna lives in Paris." """

    name: ClassVar[QuestionKind] = "ownership"

    def combinations(self, world: World) -> list[Combination]:
        return [(entity.key, attribute) for entity in world.objects + world.containers for attribute in OWNER_HOPS]

    def held_out(self, world: World, combination: Combination) -> bool:
        return held_out(world.seed, "ownership", *combination)

    def languages(self, combination: Combination) -> tuple[Language, ...]:
        return BOTH

    def balance(self, world: World, combination: Combination) -> tuple[str, str]:
        return "", ""

    def ask(self, world: World, combination: Combination, language: Language, rng: Random) -> Question:
        thing, attribute = world.by_key[combination[0]], attribute_named(combination[1])
        grammar = GRAMMARS[language]
        owner_word = thing.facts["owner"]
        assert isinstance(owner_word, Word)
        owner = world.by_key[owner_word.en]
        steps = [grammar.statement(thing, "owner"), grammar.statement(owner, attribute)]
        return asked(
            self.name,
            language,
            combination,
            grammar.fill(rng.choice(grammar.owner_questions[attribute]), thing),
            grammar.separator.join(steps),
            value_grade(world, owner, attribute, language),
            guess_share(world.values("person", attribute)),
        )
