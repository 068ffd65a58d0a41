"""How facts and questions are worded. A `Grammar` holds one language's phrases; the first phrase for a fact is the one that answers use.

In phrases, `{e}` is the entity with its article and `{E}` the same at the start of a sentence; `{v}` and `{V}` are the value.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from dunwu.core.recipe import Language
from dunwu.corpus.world.lexicon import Word
from dunwu.corpus.world.truth import Attribute, Entity, Value

Phrases = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """The phrases of one language, and the few rules that its words need."""

    language: Language
    noun: Callable[[Entity], str]  # the entity inside a sentence: "the lamp", "Anna"
    counted: Callable[[int, Word], str]  # a number of parts: "2 eyes", "no wheels"
    kind: Callable[[Word], str]  # a class inside a sentence: "a bird"
    joined: Callable[[list[str]], str]  # "red, blue and green"
    heading: Callable[[str], str]
    attributes: Mapping[Attribute, str]
    item: str  # the value of a fact, unnamed: "the home of Anna"
    caption: str  # states any fact as a line of a table does, {A} being the attribute
    statements: Mapping[Attribute, Phrases]
    questions: Mapping[Attribute, Phrases]
    owner_questions: Mapping[Attribute, Phrases]  # where does the owner of {e} live?
    class_parts: Phrases  # {k} a class, {n} a number of parts, or {p} parts and {c} their count
    none: str  # the count of parts that are not there
    entity_parts: Phrases
    part_questions: Phrases  # {p} parts, {e} an entity
    part_answer: str
    no_part_answer: str
    no_part: str  # what an objection must say
    fits_questions: Phrases  # {o} an object, {c} a container
    fits_yes: str
    fits_no: str
    fits_words: tuple[str, str]  # what tells a yes from a no
    less: Phrases
    more: Phrases
    left_questions: Phrases  # {p} a person, {a} things at first, {b} taken away, {t} what they are
    left_step: str  # {i} of {b} taken, {r} the rest
    left_working: str  # {a}, {steps}
    left_separator: str
    left_answer: str
    counting: str
    addition: Phrases
    forms: Mapping[str, Phrases]  # {q} the question or {i} the item; {n}, {w}, {items}, {e} where the form has them
    story: Phrases
    value_page: Mapping[Attribute, str]
    small_talk: tuple[tuple[str, str], ...]
    separator: str  # between sentences

    def word(self, value: Value) -> str:
        return str(value) if isinstance(value, int) else value.name(self.language)

    def fill(self, phrase: str, entity: Entity | None = None, value: Value | None = None, **words: object) -> str:
        """The phrase with its gaps filled."""
        if entity is not None:
            noun = self.noun(entity)
            words |= {"e": noun, "E": capitalised(noun)}
        if value is not None:
            words |= {"v": self.word(value), "V": capitalised(self.word(value))}
        return phrase.format(**words)

    def statement(self, entity: Entity, attribute: Attribute, rng: Random | None = None) -> str:
        """A sentence that states the fact: the first phrase, or one drawn by `rng`."""
        phrases = self.statements[attribute]
        value = entity.facts[attribute]
        if isinstance(value, Word) and attribute in self.attributes:
            phrases = (*phrases, self.caption)
        phrase = rng.choice(phrases) if rng else phrases[0]
        if attribute == "class":
            assert isinstance(value, Word)
            return self.fill(phrase, entity, k=self.kind(value))
        return self.fill(phrase, entity, value, A=capitalised(self.attributes.get(attribute, "")))

    def question(self, entity: Entity, attribute: Attribute, rng: Random) -> str:
        return self.fill(rng.choice(self.questions[attribute]), entity)

    def class_part(self, kind: Word, part: Word, count: int, rng: Random | None = None) -> str:
        """A sentence on how many parts the members of a class have."""
        phrase = rng.choice(self.class_parts) if rng else self.class_parts[0]
        noun = self.kind(kind)
        return self.fill(
            phrase, k=noun, K=capitalised(noun), n=self.counted(count, part), p=self.word(part), c=count or self.none
        )

    def entity_part(self, entity: Entity, part: Word, count: int, rng: Random) -> str:
        return self.fill(rng.choice(self.entity_parts), entity, n=self.counted(count, part))


def capitalised(text: str) -> str:
    """The text with its first letter in upper case, the rest untouched."""
    return text[:1].upper() + text[1:]
