"""Which demonstrations a problem gets: the first of its pool, or drawn by a seed as lm-evaluation-harness draws them."""

import itertools
import random
from collections.abc import Callable, Sequence

from dunwu.core.errors import DataError
from dunwu.core.problems import Problem
from dunwu.evaluate.tasks.task import Task

Demonstrations = Callable[[Problem], Sequence[Problem]]
SEED = 1234  # lm-evaluation-harness's


def usual_shots(task: Task, count: int | None = None, *, seed: int = SEED) -> Demonstrations:
    """As the task says; `count` None takes its own number."""
    count = task.spec.shots.count if count is None else count
    return first_shots(task, count) if task.spec.shots.choose == "first" else random_shots(task, count, seed=seed)


def first_shots(task: Task, count: int) -> Demonstrations:
    """The first `count` of the problem's pool, itself left out. Raises DataError, when asked, where there are fewer."""

    def first(problem: Problem) -> Sequence[Problem]:
        if not count:
            return ()
        others = (one for one in task.pool_about(problem.subject) if one.id != problem.id)
        return _enough(task, problem, list(itertools.islice(others, count)), count)

    return first


def random_shots(task: Task, count: int, *, seed: int = SEED) -> Demonstrations:
    """`count` of the problem's pool, drawn problem after problem from one generator a subject.

    So lm-evaluation-harness draws; the draws of a problem depend on its place, not on which others are asked.
    """
    drawn: dict[str, Sequence[Problem]] = {}

    def draw_all() -> None:
        generators: dict[str, random.Random] = {}
        for problem in task.problems():
            rng = generators.setdefault(problem.subject, random.Random(seed))
            drawn[problem.id] = _drawn(task, problem, count, rng)

    def chosen(problem: Problem) -> Sequence[Problem]:
        if count and not drawn:
            draw_all()
        return drawn[problem.id] if count else ()

    return chosen


def _drawn(task: Task, problem: Problem, count: int, rng: random.Random) -> Sequence[Problem]:
    pool = task.pool_about(problem.subject)
    if not task.asks_what_it_shows:
        return rng.sample(_enough(task, problem, pool, count), count)
    _enough(task, problem, pool, count + 1)
    found = [one for one in rng.sample(pool, count + 1) if one.columns != problem.columns][:count]
    if len(found) == count:
        return found
    others = [one for one in pool if one.columns != problem.columns]  # the same question stands in the data twice
    return rng.sample(_enough(task, problem, others, count), count)


def _enough(task: Task, problem: Problem, pool: Sequence[Problem], count: int) -> Sequence[Problem]:
    if len(pool) < count:
        about = f" about {problem.subject}" if problem.subject else ""
        raise DataError(
            f"{task.name} has {len(pool)} demonstrations{about}, and {count} are needed; ask for fewer, or give data with more of "
            f"them (split {task.spec.shots.split or 'shots.split, which is not set'!r})"
        )
    return pool
