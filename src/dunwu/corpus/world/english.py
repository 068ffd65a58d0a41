"""The English of the small world."""

from dunwu.corpus.world.grammar import Grammar
from dunwu.corpus.world.lexicon import Word
from dunwu.corpus.world.truth import Entity


def _noun(entity: Entity) -> str:
    return entity.word.en if entity.type in ("person", "place") else f"the {entity.word.en}"


def _counted(count: int, part: Word) -> str:
    return f"no {part.en}" if count == 0 else f"{count} {part.en[:-1] if count == 1 else part.en}"


def _kind(kind: Word) -> str:
    return f"{'an' if kind.en[0] in 'aeiou' else 'a'} {kind.en}"


def _joined(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


ENGLISH = Grammar(
    language="en",
    noun=_noun,
    counted=_counted,
    kind=_kind,
    joined=_joined,
    heading=str.upper,
    separator=" ",
    attributes={
        "home": "home",
        "job": "job",
        "hobby": "hobby",
        "food": "food",
        "country": "country",
        "owner": "owner",
        "colour": "colour",
        "material": "material",
        "price": "price",
        "weight": "weight",
        "size": "size",
        "holds": "room",
        "keeper": "keeper",
    },
    caption="{A} of {e}: {v}.",
    item="the {a} of {e}",
    statements={
        "home": ("{E} lives in {v}.", "The home of {e} is in {v}.", "{V} is the home of {e}."),
        "job": ("{E} works as a {v}.", "The job of {e} is {v}.", "By trade, {e} is a {v}."),
        "hobby": ("{E} enjoys {v}.", "The hobby of {e} is {v}.", "{V} is the hobby of {e}."),
        "food": ("{E} likes to eat {v}.", "The favourite food of {e} is {v}.", "{V} is what {e} likes to eat."),
        "country": ("{E} lies in {v}.", "{E} is a city in {v}.", "The country of {e} is {v}."),
        "owner": ("{E} belongs to {v}.", "{V} owns {e}.", "The owner of {e} is {v}."),
        "colour": ("The colour of {e} is {v}.", "{E} is {v}.", "{V} is the colour of {e}."),
        "material": ("{E} is made of {v}.", "The material of {e} is {v}.", "{V} was used to make {e}."),
        "price": ("{E} costs {v} coins.", "The price of {e} is {v} coins.", "One pays {v} coins for {e}."),
        "weight": ("{E} weighs {v} grams.", "The weight of {e} is {v} grams."),
        "size": ("{E} is {v} cm long.", "The size of {e} is {v} cm."),
        "holds": ("{E} takes things up to {v} cm.", "There is room for {v} cm in {e}."),
        "keeper": ("{E} is kept by {v}.", "{V} looks after {e}.", "The keeper of {e} is {v}."),
        "class": ("{E} is {k}.", "As everybody knows, {e} is {k}."),
    },
    questions={
        "home": ("Where does {e} live?", "In which city does {e} live?"),
        "job": ("What is the job of {e}?", "What does {e} work as?"),
        "hobby": ("What is the hobby of {e}?", "What does {e} enjoy?"),
        "food": ("What does {e} like to eat?", "What is the favourite food of {e}?"),
        "country": ("In which country is {e}?", "Which country does {e} lie in?"),
        "owner": ("Who owns {e}?", "Whom does {e} belong to?"),
        "colour": ("What colour is {e}?", "What is the colour of {e}?"),
        "material": ("What is {e} made of?", "What is the material of {e}?"),
        "price": ("How much does {e} cost?", "What is the price of {e}?"),
        "weight": ("How much does {e} weigh?", "What is the weight of {e}?"),
        "size": ("How long is {e}?", "What is the size of {e}?"),
        "holds": ("How much room is there in {e}?",),
        "keeper": ("Who looks after {e}?", "Who is the keeper of {e}?"),
    },
    owner_questions={
        "home": ("Where does the owner of {e} live?", "In which city does the owner of {e} live?"),
        "job": ("What is the job of the owner of {e}?", "What does the owner of {e} work as?"),
        "hobby": ("What is the hobby of the owner of {e}?", "What does the owner of {e} enjoy?"),
    },
    class_parts=("As for {p}, {k} has {c}.", "{K} has {n}."),
    none="none",
    entity_parts=("{E} has {n}.", "Count for yourself: {e} has {n}."),
    part_questions=("How many {p} does {e} have?", "How many {p} has {e}?"),
    part_answer="So the answer is {n}.",
    no_part_answer="So the question is wrong: there are {n}.",
    no_part="no {p}",
    fits_questions=("Does {o} fit into {c}?", "Can I put {o} into {c}?"),
    fits_yes="Yes, {o} fits into {c}.",
    fits_no="No, {o} does not fit into {c}.",
    fits_words=("yes", "no"),
    less=("{x} is less than {y}.",),
    more=("{x} is more than {y}.",),
    left_questions=(
        "{p} has {a} {t} and gives away {b}. How many {t} are left?",
        "There are {a} {t}. {p} takes {b} of them. How many are left?",
    ),
    left_step="{i}/{b}: {r}",
    left_working="{a}. {steps}.",
    left_separator=", ",
    left_answer="So {r} {t} are left.",
    counting="Counting down: {numbers}.",
    addition=("{x} and {y} make {z}.", "{x} + {y} = {z}."),
    forms={
        "capitals": ("Give {i} in capitals.", "Write {i} in capital letters."),
        "one word": ("Give {i} in one word.", "Name {i} with exactly one word."),
        "json": ("Give {i} as JSON.", "Write {i} in JSON."),
        "repeat": ("Say {i} {n} times.", "Repeat {i} {n} times."),
        "ending": ("Name {i} and end with the word {w}.", "Give {i}; your last word must be {w}."),
        "list": ("Give the {items} of {e} as a numbered list.", "Write a numbered list: the {items} of {e}."),
    },
    story=(
        "Once upon a time, {e} could change its size. It grew from {v} cm to {x} cm, and then it shrank to {y} cm. "
        "That was only a story: in the world {e} is {v} cm long.",
        "{p} told a story. In it, {e} shrank to {y} cm, and the next day it grew to {x} cm. "
        "{p} laughed, for in the world {e} is {v} cm long.",
    ),
    value_page={
        "home": "In {v} live {list}.",
        "job": "People who work as a {v}: {list}.",
        "hobby": "People who enjoy {v}: {list}.",
        "food": "Who likes to eat {v}? It is {list}.",
        "owner": "{V} owns {list}.",
        "colour": "These things are {v}: {list}.",
        "material": "Made of {v}: {list}.",
        "keeper": "{V} looks after {list}.",
        "country": "Cities in {v}: {list}.",
    },
    small_talk=(
        ("Hello!", "Hello! Ask me about the small world."),
        ("Who are you?", "I am a small model of a small world."),
        ("Thank you.", "You are welcome."),
        ("Goodbye!", "Goodbye!"),
    ),
)
