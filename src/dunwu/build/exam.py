"""The exam of a recipe's small world, if it has one."""

from collections.abc import Iterator

from dunwu.core.recipe import Recipe, WorldSource
from dunwu.corpus.world import Question, world_exam


def world_of(recipe: Recipe) -> WorldSource | None:
    """The recipe's first small world, that of the corpus or else the replayed one: the exam asks about it."""
    sources = (*recipe.corpus.sources, *recipe.replay.sources)
    return next((source for source in sources if isinstance(source, WorldSource)), None)


def exam_questions(recipe: Recipe, per_kind: int) -> list[Question]:
    """The questions that the recipe's models are asked; none without a small world."""
    world = world_of(recipe)
    return [] if world is None else world_exam(world.seed, world.languages, per_kind, size=world.size)


def exam_texts(recipe: Recipe) -> Iterator[str]:
    """Questions with their answers, which no document may give away."""
    for question in exam_questions(recipe, recipe.evaluate.exam_questions):
        yield "\n".join([*(message.content for message in question.messages), question.answer])
