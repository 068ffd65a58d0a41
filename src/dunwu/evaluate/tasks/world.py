"""The small world's exam as rows of a task, and questions to show before it that share no facts with it."""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dunwu.core.errors import DataError
from dunwu.corpus.world import Question, build_world, world_exam
from dunwu.corpus.world.exam import KINDS, QuestionPool
from dunwu.evaluate.refusals import is_sound
from dunwu.evaluate.tasks.rows import TaskRow

if TYPE_CHECKING:
    from dunwu.evaluate.tasks.spec import WorldRows


def world_rows(world: "WorldRows", split: str) -> Iterator[tuple[str, TaskRow]]:
    """Rows of fields `question`, `answer`, `grade`, `language`, `chance` and `sound`, by kind. Raises DataError for another split."""
    if split not in ("test", "train"):
        raise DataError(f"the small world has no split {split!r}; it has test (its exam) and train")
    made = _exam(world) if split == "test" else _practice(world)
    wanted = [question for question in made if not world.kinds or question.kind in world.kinds]
    for number, question in enumerate(wanted, 1):
        yield question.kind, TaskRow(_values(question), f"the small world, question {number}", Path())


def _exam(world: "WorldRows") -> Iterable[Question]:
    return world_exam(world.seed, world.languages, world.per_kind, size=world.size)


def _practice(world: "WorldRows") -> Iterator[Question]:
    """As many, of the facts that the exam leaves to training."""
    built = build_world(world.seed, world.size)
    for kind in KINDS:
        pool = QuestionPool(built, kind, for_exam=False)
        for language in world.languages:
            rng = random.Random(f"shown {world.seed} {kind.name} {language}")
            yield from pool.balanced(language, max(1, world.per_kind // len(world.languages)), rng)


def _values(question: Question) -> dict[str, object]:
    grade = question.grade
    return {
        "question": question.messages[-1].content,
        "answer": question.answer,
        "grade": {"rule": grade.rule, "expected": list(grade.expected), "rivals": list(grade.rivals)},
        "language": question.language,
        "chance": question.chance,
        "sound": is_sound(question),
        "combination": " ".join(map(str, question.combination)),
    }
