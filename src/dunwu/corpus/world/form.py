"""Questions that ask for a form: in capitals, in one word, as JSON, said three times, as a list, with a given last word."""

import json
import math
from collections.abc import Mapping
from random import Random
from typing import ClassVar

from dunwu.core.recipe import Language
from dunwu.corpus.world import lexicon
from dunwu.corpus.world.facts import BOTH, attribute_named
from dunwu.corpus.world.grammar import Grammar
from dunwu.corpus.world.questions import (
    GRAMMARS,
    Combination,
    Grade,
    Question,
    QuestionKind,
    asked,
    guess_share,
    value_grade,
)
from dunwu.corpus.world.split import held_out
from dunwu.corpus.world.truth import Attribute, Entity, EntityType, World

VALUE_FORMS = ("capitals", "brackets", "one word", "json", "repeat", "ending")
LIST_LENGTH = 3
REPEATS = (2, 3, 4)
# Facts that training asks for often enough to be known by heart: what is tested here is the form.
KNOWN: Mapping[EntityType, tuple[Attribute, ...]] = {"person": ("home", "job", "hobby"), "object": ("owner",)}


class Form:
    """A known fact in a given form. Form and fact each occur in training, the two together only in the exam."""

    name: ClassVar[QuestionKind] = "form"

    def combinations(self, world: World) -> list[Combination]:
        values = [
            (form, entity.key, attribute)
            for entity in world.people + world.objects
            for attribute in KNOWN[entity.type]
            for form in VALUE_FORMS
        ]
        lists = [("list", entity.key) for entity in world.people]
        return values + lists

    def held_out(self, world: World, combination: Combination) -> bool:
        return held_out(world.seed, "form", *combination)

    def languages(self, combination: Combination) -> tuple[Language, ...]:
        return tuple(language for language in BOTH if combination[0] in GRAMMARS[language].forms)

    def balance(self, world: World, combination: Combination) -> tuple[str, str]:
        return "", combination[0]

    def ask(self, world: World, combination: Combination, language: Language, rng: Random) -> Question:
        entity, grammar = world.by_key[combination[1]], GRAMMARS[language]
        if combination[0] == "list":
            return _ask_list(world, combination, entity, grammar, rng)
        return _ask_value(world, combination, entity, attribute_named(combination[2]), grammar, rng)


def _ask_value(
    world: World, combination: Combination, entity: Entity, attribute: Attribute, grammar: Grammar, rng: Random
) -> Question:
    form, language = combination[0], grammar.language
    value, times, end = grammar.word(entity.facts[attribute]), rng.choice(REPEATS), rng.choice(lexicon.END_WORDS)
    question = grammar.question(entity, attribute, rng)
    item = grammar.fill(grammar.item, entity, a=grammar.attributes[attribute])
    ending = end.name(language)
    wording = rng.choice(grammar.forms[form]).format(q=question, i=item, n=times, w=ending)
    if form == "ending":
        answer = grammar.statement(entity, attribute) + grammar.separator + _closing(ending, language)
        plain = value_grade(world, entity, attribute, language)
        grade = Grade(rule="ending", expected=(ending, *plain.expected), rivals=plain.rivals)
    else:
        answer = _formed(form, value, grammar.attributes[attribute], times)
        grade = Grade(rule="json" if form == "json" else "exact", expected=(answer,))
    chance = guess_share(world.values(entity.type, attribute))
    return asked("form", language, combination, wording, answer, grade, chance)


def _closing(word: str, language: Language) -> str:
    return f"{word.capitalize()}." if language == "en" else f"{word}。"


def _formed(form: str, value: str, attribute: str, times: int) -> str:
    match form:
        case "capitals":
            return value.upper()
        case "brackets":
            return f"（{value}）"
        case "one word":
            return value
        case "json":
            return json.dumps({attribute: value}, ensure_ascii=False)
        case "repeat":
            return " ".join([value] * times)
        case _:
            raise ValueError(f"{form!r} is no form of a single value; the forms are {', '.join(VALUE_FORMS)}")


def _ask_list(world: World, combination: Combination, entity: Entity, grammar: Grammar, rng: Random) -> Question:
    attributes = rng.sample(KNOWN[entity.type], LIST_LENGTH)
    names = [grammar.attributes[attribute] for attribute in attributes]
    wording = grammar.fill(rng.choice(grammar.forms["list"]), entity, items=grammar.joined(names))
    lines = [f"{i}. {grammar.word(entity.facts[attribute])}" for i, attribute in enumerate(attributes, 1)]
    answer = "\n".join(lines)
    chance = math.prod(guess_share(world.values(entity.type, attribute)) for attribute in attributes)
    return asked(
        "form", grammar.language, combination, wording, answer, Grade(rule="exact", expected=(answer,)), chance
    )
