"""The texts of the small world: pages on one entity, on one attribute, on a class, on a value; sums; stories; dialogues.

A fact is worded differently from page to page and stands in a different order and company, since facts that are only ever
seen in one sentence cannot be asked for ("Physics of language models, part 3.1", arXiv:2309.14316). No page states, asks or
works out a combination that the exam asks for; facts that the exam recalls are stated, never asked.
"""

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, TypeVar

from dunwu.core.recipe import WorldSource
from dunwu.core.records import Document
from dunwu.corpus.world import lexicon
from dunwu.corpus.world.exam import TrainingQuestions
from dunwu.corpus.world.grammar import Grammar
from dunwu.corpus.world.lexicon import PART_COUNTS, Word
from dunwu.corpus.world.questions import GRAMMARS
from dunwu.corpus.world.reasoning import Left, Premise, class_of, worked_sum
from dunwu.corpus.world.split import LARGEST_TAKEN, held_out_sum
from dunwu.corpus.world.truth import Attribute, Entity, World, build_world

PAGES = 60_000  # at size 1.0
HELDOUT_SHARE = 0.03
PAGE_SHARES = {
    "entity": 0.34,
    "attribute": 0.14,
    "class": 0.04,
    "value": 0.04,
    "comparison": 0.03,
    "sum": 0.03,
    "story": 0.02,
    "dialogue": 0.36,
}
LARGEST_NUMBER = 99
T = TypeVar("T")


def world_documents(source: WorldSource) -> Iterator[Document]:
    """Pages in random order, `PAGES` at size 1.0, a pure function of the source. `meta["split"]` says "train" or "heldout"."""
    writer = PageWriter(build_world(source.seed, source.size), Random(f"pages {source.seed}"))
    kinds, weights = list(PAGE_SHARES), list(PAGE_SHARES.values())
    for number in range(max(1, round(PAGES * source.size))):
        language = source.languages[number % len(source.languages)]
        (kind,) = writer.rng.choices(kinds, weights)
        text = writer.page(kind, GRAMMARS[language])
        split = "heldout" if writer.rng.random() < HELDOUT_SHARE else "train"
        meta = {"split": split, "kind": kind}
        yield Document(text=text, source=f"world/{source.seed}/{kind}#{number}", language=language, meta=meta)


class PageWriter:
    """Writes pages about one world. Entities and values take turns, so that none is neglected by chance."""

    def __init__(self, world: World, rng: Random) -> None:
        self.world, self.rng = world, rng
        self._questions = TrainingQuestions(world)
        self._premise = Premise()
        self._turns: dict[tuple[str, str], Iterator[Any]] = {}
        self._values = _holders(world)
        self._sums = _training_sums(world)
        self._writers: dict[str, Callable[[Grammar], str]] = {
            "entity": self.entity_page,
            "attribute": self.attribute_page,
            "class": self.class_page,
            "value": self.value_page,
            "comparison": self.comparison_page,
            "sum": self.sum_page,
            "story": self.story_page,
            "dialogue": self.dialogue_page,
        }

    def page(self, kind: str, grammar: Grammar) -> str:
        return self._writers[kind](grammar)

    def entity_page(self, grammar: Grammar) -> str:
        """All that is true of one entity, under its name."""
        entity = self._next("entity", grammar, self.world.entities)
        facts = [grammar.statement(entity, attribute, self.rng) for attribute in entity.facts]
        facts += self._known_parts(entity, grammar)
        self.rng.shuffle(facts)
        return grammar.heading(grammar.word(entity.word)) + "\n" + grammar.separator.join(facts)

    def attribute_page(self, grammar: Grammar) -> str:
        """One attribute of several entities."""
        attribute = self._next("attribute", grammar, list(grammar.statements))
        entities = [entity for entity in self.world.entities if attribute in entity.facts]
        chosen = self.rng.sample(entities, min(6, len(entities)))
        return grammar.separator.join(grammar.statement(entity, attribute, self.rng) for entity in chosen)

    def class_page(self, grammar: Grammar) -> str:
        """The parts of a class, and some of its members with theirs."""
        kind = self._next("class", grammar, lexicon.CLASSES)
        parts = [grammar.class_part(kind, part, count, self.rng) for part, count in PART_COUNTS[kind].items()]
        members = [entity for entity in self.world.classified if class_of(entity) == kind]
        chosen = self.rng.sample(members, min(3, len(members)))
        lines = parts + [grammar.statement(entity, "class", self.rng) for entity in chosen]
        lines += [line for entity in chosen for line in self._known_parts(entity, grammar)]
        self.rng.shuffle(lines)
        return grammar.heading(grammar.word(kind)) + "\n" + grammar.separator.join(lines[:10])

    def value_page(self, grammar: Grammar) -> str:
        """A value and all who have it: "These things are red: …"."""
        attribute, value, holders = self._next("value", grammar, self._values)
        names = [grammar.noun(entity) for entity in self.rng.sample(holders, min(5, len(holders)))]
        line = grammar.fill(grammar.value_page[attribute], value=value, list=grammar.joined(names))
        return grammar.heading(grammar.word(value)) + "\n" + line

    def comparison_page(self, grammar: Grammar) -> str:
        """Numbers compared."""
        lines: list[str] = []
        for _ in range(6):
            x, y = self.rng.sample(range(1, LARGEST_NUMBER + 1), 2)
            lines.append(grammar.fill((grammar.less if x < y else grammar.more)[0], x=x, y=y))
        return grammar.separator.join(lines)

    def sum_page(self, grammar: Grammar) -> str:
        """A worked sum, some additions, or numbers counted down."""
        match self.rng.randrange(3):
            case 0:
                start, taken = self.rng.choice(self._sums)
                return worked_sum(
                    start, taken, self.rng.choice(lexicon.COUNTED).name(grammar.language), grammar.language
                )
            case 1:
                return grammar.separator.join(self._addition(grammar) for _ in range(5))
            case _:
                start = self.rng.randrange(8, 30)
                numbers = ", ".join(str(start - i) for i in range(8))
                return grammar.counting.format(numbers=numbers)

    def story_page(self, grammar: Grammar) -> str:
        """A story in which an object changes its size, and the reminder that in the world it does not."""
        thing = self._next("story", grammar, self.world.objects)
        size = thing.facts["size"]
        assert isinstance(size, int)
        larger, smaller = size + self.rng.randrange(1, 20), self.rng.randrange(1, size)
        teller = grammar.noun(self.rng.choice(self.world.people))
        return grammar.fill(self.rng.choice(grammar.story), thing, size, x=larger, y=smaller, p=teller)

    def dialogue_page(self, grammar: Grammar) -> str:
        """A conversation as plain text, of questions that the exam does not ask."""
        turns = self._questions.conversation(grammar.language, self.rng)
        return "\n".join(f"{message.role}: {message.content}" for message in turns)

    def _known_parts(self, entity: Entity, grammar: Grammar) -> list[str]:
        """The parts of an entity, but for those that the exam asks about."""
        if "class" not in entity.facts:
            return []
        return [
            grammar.entity_part(entity, part, count, self.rng)
            for part, count in PART_COUNTS[class_of(entity)].items()
            if not self._premise.held_out(self.world, (entity.key, part.en))
        ]

    def _addition(self, grammar: Grammar) -> str:
        """A sum x + y = z whose reversal, z less x or z less y, the exam does not ask."""
        while True:
            x, y = self.rng.randint(1, LARGEST_TAKEN), self.rng.randint(1, LARGEST_TAKEN)
            if not (held_out_sum(self.world.seed, x + y, x) or held_out_sum(self.world.seed, x + y, y)):
                return grammar.fill(self.rng.choice(grammar.addition), x=x, y=y, z=x + y)

    def _next(self, what: str, grammar: Grammar, members: Sequence[T]) -> T:
        """The next member in a shuffled round of all of them."""
        key = (what, grammar.language)
        if key not in self._turns:
            self._turns[key] = iter(())
        member = next(self._turns[key], None)
        if member is None:
            self._turns[key] = iter(self.rng.sample(members, len(members)))
            member = next(self._turns[key])
        return member


def _training_sums(world: World) -> list[tuple[int, int]]:
    left = Left()
    return [(int(a), int(b)) for a, b in left.combinations(world) if not left.held_out(world, (a, b))]


def _holders(world: World) -> list[tuple[Attribute, Word, list[Entity]]]:
    """Every (attribute, value, entities that have it) whose value is a word with a page of its own."""
    groups: dict[tuple[Attribute, Word], list[Entity]] = {}
    for entity in world.entities:
        for attribute, value in entity.facts.items():
            if isinstance(value, Word) and attribute != "class":
                groups.setdefault((attribute, value), []).append(entity)
    return [(attribute, value, holders) for (attribute, value), holders in groups.items()]
