"""The facts of the small world: who and what there is, and what is true of each. Nothing here knows how a fact is worded."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from dunwu.corpus.world import lexicon
from dunwu.corpus.world.lexicon import Word
from dunwu.corpus.world.split import fraction

EntityType = Literal["person", "place", "object", "container", "animal", "thing"]
Attribute = Literal[
    "home",
    "job",
    "hobby",
    "food",
    "country",
    "owner",
    "colour",
    "material",
    "price",
    "weight",
    "size",
    "holds",
    "keeper",
    "class",
]
Value = Word | int

# What the exam may ask for without it ever having been asked before. The other attributes are steps of reasoning.
RECALLED: Mapping[EntityType, tuple[Attribute, ...]] = {
    "person": ("food",),
    "object": ("colour", "material", "price", "weight"),
    "animal": ("food", "keeper"),
}
PLACE_COUNT, PERSON_COUNT, OBJECT_COUNT, CONTAINER_COUNT = 10, 20, 30, 12  # at size 1.0
FICTIONAL_SHARE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """Somebody or something, with all that is true of it."""

    type: EntityType
    word: Word
    facts: Mapping[Attribute, Value]

    @property
    def key(self) -> str:
        return self.word.en


@dataclass(frozen=True, kw_only=True)
class World:
    """All entities, by type, in a fixed order. A larger world of the same seed has the same first real entities."""

    seed: int
    people: tuple[Entity, ...]
    places: tuple[Entity, ...]
    objects: tuple[Entity, ...]
    containers: tuple[Entity, ...]
    animals: tuple[Entity, ...]
    things: tuple[Entity, ...]

    @property
    def entities(self) -> tuple[Entity, ...]:
        return self.people + self.places + self.objects + self.containers + self.animals + self.things

    @property
    def classified(self) -> tuple[Entity, ...]:
        """Entities that belong to a class with known parts."""
        return self.animals + self.things

    @cached_property
    def by_key(self) -> dict[str, Entity]:
        return {entity.key: entity for entity in self.entities}

    def values(self, entity_type: EntityType, attribute: Attribute) -> list[Value]:
        """What the entities of a type have for that attribute, one value an entity."""
        return [e.facts[attribute] for e in self.entities if e.type == entity_type and attribute in e.facts]


def build_world(seed: int, size: float = 1.0) -> World:
    """The world of a seed; `size` multiplies the number of entities (1.0: about 110)."""
    places = _named("place", lexicon.PLACES, _count(PLACE_COUNT, size), 0)
    people = _named("person", lexicon.PEOPLE, _count(PERSON_COUNT, size), 1)
    place_words, person_words = [w for _, w in places], [w for _, w in people]
    choose = _Chooser(seed)
    countries = _countries(place_words)
    return World(
        seed=seed,
        places=tuple(Entity(type="place", word=w, facts={"country": countries[w]}) for _, w in places),
        people=tuple(_person(choose, w, place_words) for _, w in people),
        objects=tuple(
            _object(choose, w, person_words)
            for _, w in _named("object", lexicon.OBJECTS, _count(OBJECT_COUNT, size), 2)
        ),
        containers=_containers(choose, _count(CONTAINER_COUNT, size), person_words),
        animals=_classified(choose, "animal", size, person_words),
        things=_classified(choose, "thing", size, person_words),
    )


@dataclass(frozen=True, slots=True)
class _Chooser:
    """Draws a value for an (entity, attribute) from the seed alone, so that a world's facts do not depend on its order."""

    seed: int

    def of(self, word: Word, attribute: Attribute, options: Sequence[Value]) -> Value:
        return options[int(fraction(self.seed, "fact", word.en, attribute) * len(options))]


def _count(base: int, size: float) -> int:
    return max(4, round(base * size))


def _named(entity_type: EntityType, real: Sequence[Word], count: int, family: int) -> list[tuple[EntityType, Word]]:
    """Real names first, then made-up ones: at least a fifth are made up."""
    real_count = min(len(real), count - round(count * FICTIONAL_SHARE))
    made_up = [lexicon.fictional(family, i) for i in range(1, count - real_count + 1)]
    if entity_type in ("person", "place"):
        made_up = [Word(word.en.capitalize(), word.zh) for word in made_up]
    return [(entity_type, word) for word in (*real[:real_count], *made_up)]


def _countries(places: Sequence[Word]) -> dict[Word, Word]:
    real = dict(zip(lexicon.PLACES, lexicon.COUNTRIES, strict=True))
    made_up = (Word(f"{word.en}land", f"{word.zh}国") for word in places)
    return {place: real.get(place, invented) for place, invented in zip(places, made_up, strict=True)}


def _person(choose: _Chooser, word: Word, places: Sequence[Word]) -> Entity:
    facts: dict[Attribute, Value] = {
        "home": choose.of(word, "home", places),
        "job": choose.of(word, "job", lexicon.JOBS),
        "hobby": choose.of(word, "hobby", lexicon.HOBBIES),
        "food": choose.of(word, "food", lexicon.FOODS),
    }
    return Entity(type="person", word=word, facts=facts)


def _object(choose: _Chooser, word: Word, people: Sequence[Word]) -> Entity:
    facts: dict[Attribute, Value] = {
        "owner": choose.of(word, "owner", people),
        "colour": choose.of(word, "colour", lexicon.COLOURS),
        "material": choose.of(word, "material", lexicon.MATERIALS),
        "price": choose.of(word, "price", range(11, 100)),  # coins
        "weight": choose.of(word, "weight", range(100, 1000, 50)),  # grams
        "size": choose.of(word, "size", [cm for cm in range(11, 96) if cm % 10 != 5]),  # never equal to a container's
    }
    return Entity(type="object", word=word, facts=facts)


def _containers(choose: _Chooser, count: int, people: Sequence[Word]) -> tuple[Entity, ...]:
    """Containers whose sizes are spread over 25 to 85 cm, so that each takes some objects and not others."""
    words = [word for _, word in _named("container", lexicon.CONTAINERS, count, 3)]
    sizes = [25 + 10 * (i % 7) for i in range(count)]
    random.Random(f"containers {choose.seed}").shuffle(sizes)
    return tuple(
        Entity(
            type="container",
            word=word,
            facts={"holds": cm, "owner": choose.of(word, "owner", people)},
        )
        for word, cm in zip(words, sizes, strict=True)
    )


def _classified(
    choose: _Chooser, entity_type: Literal["animal", "thing"], size: float, people: Sequence[Word]
) -> tuple[Entity, ...]:
    """Members of the classes, real and made up. Animals have a keeper and a favourite food."""
    entities: list[Entity] = []
    for number, (kind, members) in enumerate(lexicon.MEMBERS.items()):
        if (kind in lexicon.ANIMAL_CLASSES) != (entity_type == "animal"):
            continue
        for _, word in _named(entity_type, members, max(2, round(len(members) * size)) + 1, 4 + number):
            facts: dict[Attribute, Value] = {"class": kind}
            if entity_type == "animal":
                facts["food"] = choose.of(word, "food", lexicon.FOODS)
                facts["keeper"] = choose.of(word, "keeper", people)
            entities.append(Entity(type=entity_type, word=word, facts=facts))
    return tuple(entities)
