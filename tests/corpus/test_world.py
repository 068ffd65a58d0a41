"""The small world: the same every time, true to itself, and with an exam that training never gives away."""

import functools
import itertools
import random
from collections import Counter

import pytest

from dunwu.core.recipe import SftWorldSource, WorldSource
from dunwu.corpus.world import build_world, lexicon, world_documents, world_exam, world_examples
from dunwu.corpus.world.exam import KINDS
from dunwu.corpus.world.questions import GRAMMARS
from dunwu.corpus.world.reasoning import worked_sum

LANGUAGES = ("en", "zh")
SEEDS = (0, 7)


@functools.cache
def training_texts(seed: int) -> tuple[list[str], list[str]]:
    """(what is stated in pages, what is asked or answered) in training."""
    documents = list(world_documents(WorldSource(seed=seed)))
    stated = [document.text for document in documents if document.meta["kind"] != "dialogue"]
    asked = [document.text for document in documents if document.meta["kind"] == "dialogue"]
    examples = world_examples(SftWorldSource(seed=seed))
    asked += [message.content for example in examples for message in example.messages]
    return stated, asked


def test_the_same_source_gives_the_same_texts_and_another_seed_other_facts():
    first, again = (list(world_documents(WorldSource(seed=3, size=0.02))) for _ in range(2))
    assert first == again
    assert list(world_examples(SftWorldSource(seed=3, size=0.02))) == list(
        world_examples(SftWorldSource(seed=3, size=0.02))
    )
    homes = [[person.facts["home"] for person in build_world(seed).people] for seed in (3, 4)]
    assert homes[0] != homes[1]


def test_size_scales_entities_pages_and_examples():
    small, large = build_world(0, 0.5), build_world(0, 4)
    assert len(large.entities) > 6 * len(small.entities)
    pages = [sum(1 for _ in world_documents(WorldSource(size=size))) for size in (0.01, 0.04)]
    examples = [sum(1 for _ in world_examples(SftWorldSource(size=size))) for size in (0.01, 0.04)]
    assert pages[1] == 4 * pages[0]
    assert examples[1] == 4 * examples[0]


@pytest.mark.parametrize("size", [0.1, 1, 20])
def test_every_name_means_one_thing(size: float):
    words = [entity.word for entity in build_world(0, size).entities]
    for names in ([word.en.lower() for word in words], [word.zh for word in words]):
        assert len(set(names)) == len(names)


def test_no_value_hides_inside_another_of_its_attribute():
    world = build_world(0)
    for kind, attribute in {(e.type, a) for e in world.entities for a in e.facts}:
        names = {v.zh for v in world.values(kind, attribute) if isinstance(v, lexicon.Word)}
        assert not [(a, b) for a, b in itertools.permutations(names, 2) if a in b]


def test_one_language_alone_is_possible():
    documents = list(world_documents(WorldSource(size=0.02, languages=("zh",))))
    assert {document.language for document in documents} == {"zh"}
    assert {question.language for question in world_exam(0, ("zh",), 20)} == {"zh"}


def test_pages_are_split_by_page_and_no_page_is_on_both_sides():
    documents = list(world_documents(WorldSource(size=0.2)))
    sides = Counter(document.meta["split"] for document in documents)
    assert set(sides) == {"train", "heldout"}
    assert 0.01 < sides["heldout"] / len(documents) < 0.06
    assert len({document.source for document in documents}) == len(documents)


@pytest.mark.parametrize("seed", SEEDS)
def test_exam_is_full_balanced_and_without_repetition(seed: int):
    exam = world_exam(seed, LANGUAGES, 100)
    assert len({(question.language, question.messages[0].content) for question in exam}) == len(exam)
    counts = Counter(question.kind for question in exam)
    assert set(counts) == {kind.name for kind in KINDS}
    assert all(90 <= count <= 100 for count in counts.values()), counts
    for kind in ("fits", "premise"):
        expected = Counter(q.grade.rule if kind == "premise" else q.grade.expected for q in exam if q.kind == kind)
        by_language = [count for _, count in expected.items()]
        assert max(by_language) == min(by_language)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_exam_asks_only_combinations_kept_for_it(seed: int):
    world = build_world(seed)
    kinds = {kind.name: kind for kind in KINDS}
    assert all(kinds[q.kind].held_out(world, q.combination) for q in world_exam(seed, LANGUAGES, 100))


@pytest.mark.parametrize("seed", SEEDS)
def test_no_exam_question_or_conclusion_occurs_in_training(seed: int):
    stated, asked = training_texts(seed)
    everything, dialogues = "\n".join(stated + asked), "\n".join(asked)
    for question in world_exam(seed, LANGUAGES, 100):
        assert question.messages[0].content not in everything
        if question.kind in ("recall", "ownership"):
            assert question.answer not in dialogues
        elif question.kind == "fits":
            separator = GRAMMARS[question.language].separator
            end = "." if separator else "。"
            conclusion = question.answer.rstrip(end).rpartition(end)[2].strip()
            assert conclusion not in everything


@pytest.mark.parametrize("seed", SEEDS)
def test_every_held_out_combination_is_absent_from_training_in_every_wording(seed: int):
    stated, asked = training_texts(seed)
    everything = "\n".join(stated + asked)
    world = build_world(seed)
    for kind in KINDS:
        if kind.name == "left":
            continue  # names and things vary without end: see the next test
        held_out = [c for c in kind.combinations(world) if kind.held_out(world, c)]
        assert held_out
        for combination in held_out:
            for language in kind.languages(combination):
                wordings = {
                    kind.ask(world, combination, language, random.Random(i)).messages[0].content for i in range(4)
                }
                assert not [wording for wording in wordings if wording in everything]


@pytest.mark.parametrize("seed", SEEDS)
def test_no_held_out_sum_is_worked_out_in_training_not_even_inside_a_longer_count(seed: int):
    stated, asked = training_texts(seed)
    everything = "\n".join(stated + asked)
    (left,) = (kind for kind in KINDS if kind.name == "left")
    world = build_world(seed)
    held_out = [c for c in left.combinations(world) if left.held_out(world, c)]
    assert len(held_out) >= 10
    for start, taken in [(int(a), int(b)) for a, b in held_out]:
        for language in LANGUAGES:
            things = lexicon.COUNTED[0].name(language)
            full_stop = "." if language == "en" else "。"
            working = worked_sum(start, taken, things, language).split(full_stop)
            count = full_stop.join(working[:2])
            assert f"\n{count}" not in everything
            assert f" {count}" not in everything
        rest = start - taken
        for x, y in ((taken, rest), (rest, taken)):
            sums = {f"{x} and {y} make {start}", f"{x} + {y} = {start}", f"{x}加{y}等于{start}"}
            assert not [written for written in sums if f"\n{written}" in everything or f" {written}" in everything]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_fact_that_the_exam_recalls_is_stated_in_several_ways(seed: int):
    stated, _ = training_texts(seed)
    everything = "\n".join(stated)
    world = build_world(seed)
    for question in world_exam(seed, LANGUAGES, 100):
        if question.kind != "recall":
            continue
        entity, grammar = world.by_key[question.combination[0]], GRAMMARS[question.language]
        (attribute,) = (a for a in entity.facts if a == question.combination[1])
        wordings = {grammar.statement(entity, attribute, random.Random(i)) for i in range(30)}
        assert sum(wording in everything for wording in wordings) >= 2


def test_no_page_contradicts_the_world():
    world = build_world(0)
    sentences = Counter(
        sentence.strip()
        for document in world_documents(WorldSource(size=0.3, languages=("en",)))
        if document.meta["kind"] in ("entity", "attribute", "dialogue")
        for sentence in document.text.replace("\n", ". ").split(". ")
    )
    small_world = build_world(0, 0.3)
    by_noun = {thing.word.en: thing for thing in small_world.objects}
    checked = 0
    for sentence in sentences:
        words = sentence.rstrip(".").split()
        if len(words) == 5 and words[2] == "costs" and words[1] in by_noun:
            assert int(words[3]) == by_noun[words[1]].facts["price"]
            checked += 1
    assert checked >= 5
    assert len(world.objects) > len(small_world.objects)


def test_chance_is_honest_no_constant_answer_beats_it_by_more_than_luck():
    exam = world_exam(0, LANGUAGES, 100)
    for kind in ("recall", "ownership", "left"):
        questions = [question for question in exam if question.kind == kind]
        chance = sum(question.chance for question in questions) / len(questions)
        groups: dict[tuple[str, ...], Counter[str]] = {}
        for question in questions:
            key = question.combination[1:] if kind != "left" else ()
            groups.setdefault(key, Counter())[question.grade.expected[0]] += 1
        best_constant = sum(max(group.values()) for group in groups.values()) / len(questions) / len(LANGUAGES)
        assert best_constant < chance + 0.25
