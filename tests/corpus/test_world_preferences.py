"""Pairs of the small world: the right answer is right and the wrong one wrong, length tells nothing, and the exam is apart."""

from collections import Counter
from random import Random

import numpy as np
import pytest

from dunwu.core.recipe import PreferenceWorldSource
from dunwu.corpus.world import mistakes
from dunwu.corpus.world.exam import KINDS, QuestionPool
from dunwu.corpus.world.preferences import WorldPairs, kind_of, world_preferences
from dunwu.corpus.world.truth import build_world
from dunwu.evaluate.exam import grade_answer

SOURCE = PreferenceWorldSource(pairs=1500)
STYLE = {mistakes.repeated, mistakes.wrong_form, mistakes.other_language, mistakes.unfinished}  # facts may be right


@pytest.fixture(scope="module", params=[False, True], ids=["training", "exam"])
def pairs(request):
    return list(world_preferences(SOURCE, for_exam=request.param))


def texts(one):
    return one.prompt[0].content, one.chosen[0].content, one.rejected[0].content


def test_pairs_are_a_pure_function_of_the_source():
    few = SOURCE.model_copy(update={"pairs": 50})
    assert list(world_preferences(few)) == list(world_preferences(few)) == list(world_preferences(SOURCE))[:50]
    other = list(world_preferences(few.model_copy(update={"seed": 1})))
    assert [texts(one) for one in other] != [texts(one) for one in world_preferences(few)]


def test_all_kinds_and_both_languages_are_there(pairs):
    kinds = Counter(map(kind_of, pairs))
    assert kinds.keys() == {"recall", "ownership", "fits", "left", "premise", "form", "small talk"}
    assert min(kinds.values()) > 30
    chinese = sum(any("一" <= letter <= "鿿" for letter in one.prompt[0].content) for one in pairs)
    assert chinese == len(pairs) // 2
    assert all(chosen and chosen != rejected for _, chosen, rejected in map(texts, pairs))


def test_length_alone_tells_nothing(pairs):
    gaps = np.array([len(chosen) - len(rejected) for _, chosen, rejected in map(texts, pairs)])
    longer, shorter = int((gaps > 0).sum()), int((gaps < 0).sum())
    assert abs(longer - shorter) < 0.03 * len(pairs)
    assert 0.1 * len(pairs) < len(pairs) - longer - shorter  # many are as long: facts decide there
    # nor does a rule such as "a little longer is better, much longer is worse"
    for low, high in ((1, 15), (15, 1000)):
        won = [int(((gaps >= low) & (gaps < high)).sum()), int(((gaps <= -low) & (gaps > -high)).sum())]
        assert 0.3 < won[0] / sum(won) < 0.7


@pytest.mark.parametrize("for_exam", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_mistakes_are_graded_as_wrong(kind, for_exam):
    world = build_world(3)
    pool, rng = QuestionPool(world, kind, for_exam=for_exam), Random(5)
    seen = Counter()
    every = {*mistakes.OF_KIND[kind.name], *mistakes.ALIKE, *mistakes.SHORTER, *mistakes.LONGER}
    for number in range(60):
        language = ("en", "zh")[number % 2]
        combination = pool.combination(language, rng)
        another = "The lamp is heavy." if language == "en" else "台灯很重。"
        asked = mistakes.ask(world, kind, combination, language, seed=number, another=another)
        assert grade_answer(asked.question.grade, asked.right)
        for mistake in sorted(every, key=lambda one: one.__name__):
            said = mistake(asked, rng)
            if said is None:
                continue
            assert said != asked.right
            seen[mistake] += 1
            if mistake not in STYLE:
                assert not grade_answer(asked.question.grade, said), (mistake.__name__, asked.right, said)
    assert {mistake for mistake in every if not seen[mistake]} <= {mistakes.other_language}


def test_a_wrong_fact_is_consistent():
    world = build_world(0)
    fits = next(kind for kind in KINDS if kind.name == "fits")
    rng = Random(0)
    pool = QuestionPool(world, fits, for_exam=False)
    for number in range(40):
        asked = mistakes.ask(world, fits, pool.combination("en", rng), "en", seed=number, another="")
        said = mistakes.wrong_fact(asked, rng)
        if said is None:
            continue
        size, room = _sizes(said)
        assert ("is less than" in said) == (size < room) == said.rsplit(". ", 1)[1].startswith("Yes")


def _sizes(said):
    first, second, *_ = said.split(". ")
    return [int("".join(letter for letter in part if letter.isdigit())) for part in (first, second)]


def test_no_pair_of_the_exam_combines_what_a_training_pair_combines():
    world = build_world(0)
    training, exam = (
        {pool.kind.name: set(pool.combinations) for pool in WorldPairs(world, for_exam=side)._pools.values()}
        for side in (False, True)
    )
    for kind in KINDS:
        assert exam[kind.name]
        assert not training[kind.name] & exam[kind.name]


def test_questions_of_the_exam_are_not_asked_in_training_pairs():
    asked = {one.prompt[0].content for one in world_preferences(SOURCE) if kind_of(one) != "small talk"}
    apart = {one.prompt[0].content for one in world_preferences(SOURCE, for_exam=True) if kind_of(one) != "small talk"}
    assert len(asked & apart) == 0
