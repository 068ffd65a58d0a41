"""Wrong answers to questions of the small world, as models really err: a fact that is not so, a slip in a count, a conclusion
that does not follow, a false premise taken for true or a sound one refused, another form than was asked for, too little, or
too much.

A mistake is a function `(asked, rng) → text`, or None where it does not apply. Most are made by asking the same question, in
the same words, in a world in which one fact is another: such an answer is wrong, and consistent.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from dunwu.core.recipe import Language
from dunwu.corpus.world.facts import attribute_named
from dunwu.corpus.world.form import KNOWN
from dunwu.corpus.world.grammar import Grammar
from dunwu.corpus.world.lexicon import END_WORDS, PART_COUNTS, PARTS, Word
from dunwu.corpus.world.questions import GRAMMARS, Combination, Kind, Question, QuestionKind
from dunwu.corpus.world.reasoning import class_of, part_count
from dunwu.corpus.world.truth import Attribute, Entity, Value, World

REFUSALS: Mapping[Language, Sequence[str]] = {
    "en": (
        "I do not know.",
        "I cannot answer that.",
        "Nobody can say.",
        "I am sorry, but that is a question which I cannot answer.",
    ),
    "zh": ("我不知道。", "我不能回答这个问题。", "这个谁也说不清。", "这个问题没有答案，所以我不回答。"),
}
_TRIES = 12


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question with all that made it, so that it can be asked again in the same words. `another`: the right answer to some
    other question."""

    world: World
    kind: Kind
    combination: Combination
    language: Language
    seed: int
    question: Question
    another: str

    @property
    def right(self) -> str:
        return self.question.answer

    @property
    def grammar(self) -> Grammar:
        return GRAMMARS[self.language]

    def answer_in(self, world: World) -> str:
        """What would be the right answer in another world."""
        return self.kind.ask(world, self.combination, self.language, Random(self.seed)).answer


Mistake = Callable[[Asked, Random], str | None]


def ask(world: World, kind: Kind, combination: Combination, language: Language, *, seed: int, another: str) -> Asked:
    """The question of that combination, in words that `seed` chooses."""
    question = kind.ask(world, combination, language, Random(seed))
    return Asked(
        world=world,
        kind=kind,
        combination=combination,
        language=language,
        seed=seed,
        question=question,
        another=another,
    )


def wrong_fact(asked: Asked, rng: Random) -> str | None:
    """One of the facts in the answer is not so, and all that follows from it is said accordingly."""
    for _ in range(_TRIES):
        entity, attribute = rng.choice(_facts_in(asked))
        value = _another_value(asked, entity, attribute, rng)
        if value is None:
            continue
        said = asked.answer_in(_with_fact(asked.world, entity, attribute, value))
        if _last(said, asked.grammar) != _last(asked.right, asked.grammar):
            return said
    return None


def _facts_in(asked: Asked) -> list[tuple[Entity, Attribute]]:
    world, parts = asked.world, asked.combination
    match asked.kind.name:
        case "recall":
            return [(world.by_key[parts[0]], attribute_named(parts[1]))]
        case "ownership":
            thing = world.by_key[parts[0]]
            owner = thing.facts["owner"]
            assert isinstance(owner, Word)
            return [(thing, "owner"), (world.by_key[owner.en], attribute_named(parts[1]))]
        case "fits":
            return [(world.by_key[parts[0]], "size"), (world.by_key[parts[1]], "holds")]
        case "premise":
            return [(world.by_key[parts[0]], "class")]
        case "form":
            entity = world.by_key[parts[1]]
            return [(entity, attribute) for attribute in _attributes_of_form(asked)]
        case "left":
            raise AssertionError("a sum states no facts of the world")


def _attributes_of_form(asked: Asked) -> Sequence[Attribute]:
    return KNOWN["person"] if asked.combination[0] == "list" else (attribute_named(asked.combination[2]),)


def _another_value(asked: Asked, entity: Entity, attribute: Attribute, rng: Random) -> Value | None:
    """A value that others have for that attribute."""
    here = entity.facts[attribute]
    if attribute == "class":
        part = next(part for part in PARTS if part.en == asked.combination[1])
        count = part_count(asked.world, asked.combination)
        others: list[Value] = [kind for kind, counts in PART_COUNTS.items() if counts.get(part, count) != count]
    elif attribute == "owner" and asked.kind.name == "ownership":
        others = _owners_of_another_kind(asked, here)
    else:
        others = [value for value in asked.world.values(entity.type, attribute) if value != here]
    return rng.choice(others) if others else None


def _owners_of_another_kind(asked: Asked, owner: Value) -> list[Value]:
    """People of whom something else is true: with another of whom the same is, the conclusion would be right."""
    attribute, people = attribute_named(asked.combination[1]), asked.world.people
    here = next(person for person in people if person.word == owner)
    return [person.word for person in people if person.facts[attribute] != here.facts[attribute]]


def _with_fact(world: World, entity: Entity, attribute: Attribute, value: Value) -> World:
    changed = dataclasses.replace(entity, facts={**entity.facts, attribute: value})
    groups = ("people", "places", "objects", "containers", "animals", "things")
    return dataclasses.replace(
        world,
        **{
            name: tuple(changed if one is entity else one for one in getattr(world, name))
            for name in groups
            if entity in getattr(world, name)
        },
    )


def _sentences(text: str, grammar: Grammar) -> list[str]:
    """The sentences of an answer, each with its full stop."""
    border = "(?<=。)" if grammar.language == "zh" else r"(?<=\.) "
    return [sentence for sentence in re.split(border, text) if sentence]


def _last(text: str, grammar: Grammar) -> str:
    return (_sentences(text, grammar) or [""])[-1]


def wrong_conclusion(asked: Asked, rng: Random) -> str | None:
    """Whether something fits: the sizes are right, and the comparison, the conclusion, or both are turned about."""
    grammar = asked.grammar
    thing, container = (asked.world.by_key[key] for key in asked.combination)
    size, room = thing.facts["size"], container.facts["holds"]
    assert isinstance(size, int)
    assert isinstance(room, int)
    fits = size < room
    says_less, says_fits = rng.choice(((not fits, not fits), (fits, not fits), (not fits, not fits)))
    steps = [
        grammar.statement(thing, "size"),
        grammar.statement(container, "holds"),
        grammar.fill((grammar.less if says_less else grammar.more)[0], x=size, y=room),
        grammar.fill(
            grammar.fits_yes if says_fits else grammar.fits_no, o=grammar.noun(thing), c=grammar.noun(container)
        ),
    ]
    return grammar.separator.join(steps)


def wrong_count_of_parts(asked: Asked, rng: Random) -> str | None:
    """How many parts: the class is right, its parts are not, so that a false premise is agreed with, or a sound one refused."""
    entity, grammar = asked.world.by_key[asked.combination[0]], asked.grammar
    part = next(part for part in PARTS if part.en == asked.combination[1])
    count = part_count(asked.world, asked.combination)
    said = rng.choice([number for number in (0, 1, 2, 4, 6) if number != count])
    steps = [
        grammar.statement(entity, "class"),
        grammar.class_part(class_of(entity), part, rng.choice((said, said, count))),
        grammar.fill(grammar.part_answer if said else grammar.no_part_answer, entity, n=grammar.counted(said, part)),
    ]
    return grammar.separator.join(steps)


def wrong_sum(asked: Asked, rng: Random) -> str | None:
    """A count that slips by one or two at some step, or takes a step too few or too many, and goes on from there."""
    grammar, (start, taken) = asked.grammar, map(int, asked.combination)
    steps, result = taken, start - taken
    rests = [start - i for i in range(1, taken + 1)]
    match rng.choice(("slip", "slip", "conclusion", "few", "many")):
        case "slip":
            at, by = rng.randrange(taken), rng.choice((-2, -1, 1, 2))
            rests = [rest if i < at else rest + by for i, rest in enumerate(rests)]
            result = rests[-1]
        case "conclusion":
            result += rng.choice((-2, -1, 1, 2))
        case "few" if taken > 1:
            steps, rests = taken - 1, rests[:-1]
            result = rests[-1]
        case _:
            steps, rests = taken + 1, [*rests, start - taken - 1]
            result = rests[-1]
    if result < 0 or min(rests) < 0:
        return None
    said = [grammar.left_step.format(i=i, b=taken, r=rest) for i, rest in enumerate(rests[:steps], 1)]
    working = grammar.left_working.format(a=start, steps=grammar.left_separator.join(said))
    return working + grammar.separator + grammar.left_answer.format(r=result, t=_counted(asked))


def _counted(asked: Asked) -> str:
    """What the sum counts, as its last sentence says."""
    start, taken = map(int, asked.combination)
    before, after = asked.grammar.left_answer.format(r=start - taken, t="\0").split("\0")
    return asked.right[asked.right.rindex(before) + len(before) : len(asked.right) - len(after)]


def wrong_form(asked: Asked, rng: Random) -> str | None:
    """The right facts in another form than was asked for."""
    grammar, entity = asked.grammar, asked.world.by_key[asked.combination[1]]
    if asked.combination[0] == "list":
        lines = asked.right.split("\n")
        items = [line.split(". ", 1)[1] for line in lines]
        return rng.choice((grammar.joined(items), "\n".join(lines[:-1]), "\n".join(items), " ".join(items)))
    attribute = attribute_named(asked.combination[2])
    value, plain = grammar.word(entity.facts[attribute]), grammar.statement(entity, attribute)
    end = rng.choice(END_WORDS).name(grammar.language)
    others = {
        "capitals": (value, value.capitalize(), plain.upper(), plain),
        "brackets": (value, f"（{plain}）", plain),
        "one word": (plain, f"{value} {end}", f"{value} {value}"),
        "json": (value, plain, f'{{"{value}"}}', f"{grammar.attributes[attribute]}: {value}"),
        "repeat": tuple(" ".join([value] * times) for times in (1, 2, 3, 4, 5)),
        "ending": (plain, f"{end} {plain}", plain + grammar.separator + plain),
    }
    wrong = [text for text in others[asked.combination[0]] if text not in (asked.right, "")]
    return rng.choice(wrong) if wrong else None


def other_language(asked: Asked, rng: Random) -> str | None:
    """The answer in the language that was not spoken."""
    other: Language = "zh" if asked.language == "en" else "en"
    if other not in asked.kind.languages(asked.combination):
        return None
    said = asked.kind.ask(asked.world, asked.combination, other, Random(asked.seed)).answer
    return None if said == asked.right else said


def off_topic(asked: Asked, rng: Random) -> str | None:
    """Something true that was not asked for."""
    return None if asked.another == asked.right else asked.another


def refusal(asked: Asked, rng: Random) -> str | None:
    """Nothing is said, though it could be."""
    return rng.choice(REFUSALS[asked.language])


def unfinished(asked: Asked, rng: Random) -> str | None:
    """The answer breaks off: before its last sentence, or somewhere in it."""
    sentences = _sentences(asked.right, asked.grammar)
    if len(sentences) > 1 and rng.random() < 0.5:
        return asked.grammar.separator.join(sentences[: rng.randrange(1, len(sentences))])
    size = int(len(asked.right) * rng.uniform(0.3, 0.85))
    return asked.right[:size].strip() or None


def empty(asked: Asked, rng: Random) -> str | None:
    """Not a word."""
    return ""


def rambling(asked: Asked, rng: Random) -> str | None:
    """The right answer, and then something that nobody asked for."""
    return asked.right + (asked.grammar.separator or "") + asked.another if asked.another != asked.right else None


def repeated(asked: Asked, rng: Random) -> str | None:
    """The right answer said again and again, or its end."""
    times = rng.choice((2, 2, 3))
    again = asked.right if rng.random() < 0.5 else _last(asked.right, asked.grammar)
    return asked.grammar.separator.join([asked.right, *[again] * (times - 1)])


OF_KIND: Mapping[QuestionKind, tuple[Mistake, ...]] = {
    "recall": (wrong_fact,),
    "ownership": (wrong_fact,),
    "fits": (wrong_conclusion, wrong_fact),
    "left": (wrong_sum,),
    "premise": (wrong_count_of_parts, wrong_fact),
    "form": (wrong_form, wrong_fact),
}
"""What goes wrong with questions of a kind."""
ALIKE: tuple[Mistake, ...] = (off_topic, other_language)
SHORTER: tuple[Mistake, ...] = (refusal, unfinished, unfinished, empty)
LONGER: tuple[Mistake, ...] = (rambling, rambling, repeated)
"""What goes wrong with any question."""
