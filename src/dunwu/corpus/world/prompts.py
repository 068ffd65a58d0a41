"""Questions of the small world to practise on by reward, and questions to watch that practice with.

Practice never asks a combination of facts that the exam may ask. What is watched is kept apart from it: combinations of the
exam's side that the exam does not ask where there are any, and combinations of the training side that practice never asks
(fine-tuning may have seen these: it asks whatever the exam does not).
"""

import random
from collections.abc import Collection, Iterator

from dunwu.core.recipe import Language, PromptWorldSource
from dunwu.corpus.world.exam import KINDS, SHARES, QuestionPool, world_exam
from dunwu.corpus.world.questions import Combination, Kind, Question
from dunwu.corpus.world.split import fraction
from dunwu.corpus.world.truth import World, build_world

WATCHED_SHARE = 0.1  # of the training side's combinations
_TRIES = 50


def practice_questions(source: PromptWorldSource) -> Iterator[Question]:
    """Different questions, at most `source.questions`; a pure function of the source."""
    world = build_world(source.seed, source.size)
    pools = {kind.name: QuestionPool(world, kind, for_exam=False) for kind in KINDS}
    shares = {kind: share for kind, share in SHARES.items() if not source.kinds or kind in source.kinds}
    rng = random.Random(f"practice {source.seed}")
    seen: set[str] = set()
    for number in range(source.questions):
        language = source.languages[number % len(source.languages)]
        for _ in range(_TRIES):
            (kind,) = rng.choices(list(shares), list(shares.values()))
            question = pools[kind].draw(language, rng)
            if question is None or _watched(world, question) or question.messages[0].content in seen:
                continue
            seen.add(question.messages[0].content)
            yield question
            break


def watched_questions(source: PromptWorldSource, per_kind: int, *, exam_questions: int) -> list[Question]:
    """Up to `per_kind` different questions a kind that neither practice nor an exam of `exam_questions` a kind asks."""
    world = build_world(source.seed, source.size)
    in_exam = {
        (question.kind, question.combination)
        for question in world_exam(source.seed, source.languages, exam_questions, size=source.size)
    }
    rng = random.Random(f"watched {source.seed}")
    return [question for kind in KINDS for question in _watched_of(world, kind, in_exam, source, per_kind, rng)]


def _watched_of(
    world: World,
    kind: Kind,
    in_exam: Collection[tuple[str, Combination]],
    source: PromptWorldSource,
    per_kind: int,
    rng: random.Random,
) -> list[Question]:
    unseen = [
        combination
        for combination in QuestionPool(world, kind, for_exam=True).combinations
        if (kind.name, combination) not in in_exam
    ]
    kept_out = [
        combination
        for combination in QuestionPool(world, kind, for_exam=False).combinations
        if fraction(world.seed, "watched", kind.name, *combination) < WATCHED_SHARE
    ]
    questions: dict[str, Question] = {}
    for combination in rng.sample(unseen, len(unseen)) + rng.sample(kept_out, len(kept_out)):
        usable: list[Language] = [language for language in kind.languages(combination) if language in source.languages]
        if usable and len(questions) < per_kind:
            question = kind.ask(world, combination, rng.choice(usable), rng)
            questions.setdefault(question.messages[0].content, question)
    return list(questions.values())


def _watched(world: World, question: Question) -> bool:
    return fraction(world.seed, "watched", question.kind, *question.combination) < WATCHED_SHARE
