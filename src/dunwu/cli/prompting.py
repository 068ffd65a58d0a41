"""`dunwu prompt`: prompts that are tried and measured."""

import contextlib
import functools
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dunwu.align.rewards import make_reward
from dunwu.chat.local import LocalChat
from dunwu.chat.options import ChatOptions
from dunwu.chat.protocol import Chat
from dunwu.cli.commands.prompting import Asking
from dunwu.cli.remote import endpoint
from dunwu.cli.talking import load
from dunwu.core.errors import DataError, ModelError, RecipeError
from dunwu.core.nearest import validated
from dunwu.core.problems import Problem
from dunwu.core.progress import TerminalProgress
from dunwu.core.records import Completion, Message
from dunwu.core.rewards import reward_specs
from dunwu.core.screen import harmless
from dunwu.evaluate.clustered import score_interval
from dunwu.evaluate.paired import paired
from dunwu.evaluate.scorers.base import Case
from dunwu.evaluate.solvers.text import WrittenReplies
from dunwu.evaluate.tasks.finding import find_task, list_tasks
from dunwu.evaluate.tasks.measures import measure
from dunwu.evaluate.tasks.task import Task
from dunwu.prompt.answers import agree
from dunwu.prompt.curves import learning_curve
from dunwu.prompt.demonstrations.base import Demonstrations
from dunwu.prompt.demonstrations.registry import Means, require_demonstrations
from dunwu.prompt.demonstrations.registry import demonstrations as chosen_by
from dunwu.prompt.problems import read_problems
from dunwu.prompt.search.candidate import Candidate, Prompted, write_candidate
from dunwu.prompt.search.run import SearchSettings, Tried
from dunwu.prompt.search.run import search as search_prompts
from dunwu.prompt.strategies.base import StrategyChat, derived_seed, user
from dunwu.prompt.strategies.few_shot import FewShot
from dunwu.prompt.strategies.registry import Help, require_strategy, strategy

BATCH = 64
ANSWER_TOKENS = 256
POOL_SHARE = 5  # one in so many questions is shown, and not asked
Judge = Callable[[Sequence[Problem], Sequence[Completion]], list[float]]


@dataclass(frozen=True, kw_only=True)
class Exam:
    """What is asked, and how a chat answers it: with demonstrations, and scored."""

    problems: tuple[Problem, ...]
    pool: tuple[Problem, ...]
    ask: Callable[[Chat, Sequence[Problem], Demonstrations], list[Tried]]


def search(questions: str, asking: Asking, *, out: Path, proposer: str | None, **settings: Any) -> None:
    """Try prompts, and write the best."""
    require_strategy(asking.strategy)
    exam = _exam(questions, asking)
    how = validated(SearchSettings, settings)
    out = out.expanduser()
    if out.is_dir() or not out.parent.exists():
        raise RecipeError(f"--out {out} cannot be written; name a file in a folder that is there")
    with _partner(asking.model, asking) as chat, TerminalProgress() as bar:
        other = chat if proposer is None else load(proposer)
        way = strategy(asking.strategy, chat, _help(chat, exam.pool, bar.note))
        bar.start("asking")
        done = 0

        def try_(candidate: Candidate, problems: Sequence[Problem]) -> list[Tried]:
            nonlocal done
            tried: list[Tried] = []
            for first in range(0, len(problems), BATCH):
                prompted = StrategyChat(Prompted(candidate=replace(candidate, shots=())), way)
                batch = problems[first : first + BATCH]
                tried += exam.ask(prompted, batch, lambda problem: _without(candidate.shots, problem))
                done += len(batch)
                bar.update(done, max(done, len(exam.problems)))
            return tried

        found = search_prompts(exam.problems, try_, other, paired, how)
        bar.finish()
    write_candidate(out, found.best, strategy=asking.strategy, model=asking.model, search=found.to_json())
    print(harmless("\n".join([*found.lines(), f"prompt   {out} (dunwu prompt … --strategy prompted:file={out})"])))


def curve(
    questions: str,
    asking: Asking,
    *,
    demonstrations: str,
    ks: str,
    draws: int,
    pool: Path | None,
    as_json: bool,
) -> None:
    """Print a line for each number of demonstrations."""
    require_strategy(asking.strategy)
    numbers = _numbers(ks)
    exam = _exam(questions, asking)
    shown = read_problems(pool) if pool is not None else exam.pool
    asked = exam.problems
    if not shown:
        shown, asked = asked[::POOL_SHARE], tuple(one for at, one in enumerate(asked) if at % POOL_SHARE)
    if not asked:
        raise DataError(f"{questions} has {len(exam.problems)} question; give more, or --pool FILE")
    if any(word.startswith(("k=", "seed=")) for word in demonstrations.partition(":")[2].split(",")):
        raise RecipeError(
            f"--demonstrations {demonstrations}: k and seed are drawn by the curve; leave them out, see --k and --seed"
        )

    require_demonstrations(demonstrations)
    with _partner(asking.model, asking) as chat, TerminalProgress() as bar:
        help_ = _help(chat, shown, bar.note)
        way = strategy(asking.strategy, chat, help_)
        means = Means(embed=help_.embed, count_tokens=_counted(help_), told=once(bar.note))
        bar.start("asking")
        done, total = 0, len(asked) * sum(draws if k else 1 for k in numbers)

        def draw(k: int, number: int) -> Demonstrations:
            joint = "," if ":" in demonstrations else ":"
            return chosen_by(f"{demonstrations}{joint}k={k},seed={asking.seed + number}", shown, means)

        def answer(problems: Sequence[Problem], shots: Demonstrations) -> list[float]:
            nonlocal done
            scores: list[float] = []
            for first in range(0, len(problems), BATCH):
                batch = problems[first : first + BATCH]
                scores += [one.score for one in exam.ask(way, batch, shots)]
                done += len(batch)
                bar.update(done, total)
            return scores

        points = learning_curve(asked, draw, answer, score_interval, ks=numbers, draws=draws)
        bar.finish()
    for point in points:
        score = point.score
        if as_json:
            facts = {"k": point.k, "value": score.value, "low": score.low, "high": score.high, "n": score.n}
            print(json.dumps({**facts, "unit": score.unit, "draws": draws if point.k else 1}))
        else:
            print(f"{point.k:>4} demonstrations  {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]  n={score.n}")


def once(tell: Callable[[str], object]) -> Callable[[str], object]:
    """Says each thing once."""
    return functools.cache(tell)


def _help(chat: Chat, pool: Sequence[Problem], tell: Callable[[str], object]) -> Help:
    """What strategies may need of a model of this machine: it counts tokens."""
    if not isinstance(chat, LocalChat):
        return Help(pool=pool, told=once(tell))
    return Help(
        pool=pool,
        told=once(tell),
        count_tokens=lambda text: len(chat.tokenizer.encode(text)),
        embed=lambda texts: chat.generator.engine.embed(map(chat.tokenizer.encode, texts)).numpy(),
    )


def _counted(help_: Help) -> Callable[[Problem], int] | None:
    """Tokens of a demonstration."""
    count = help_.count_tokens
    return None if count is None else lambda problem: count(f"{problem.input}\n{problem.target}\n") or 0


def _without(shots: Sequence[Problem], problem: Problem) -> Sequence[Problem]:
    return [one for one in shots if one.input != problem.input]


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise RecipeError(f"--k {text!r} must be whole numbers by commas, such as 0,1,2,4") from error
    if min(numbers) < 0:
        raise RecipeError(f"--k {text!r}: {min(numbers)} demonstrations cannot be shown; use 0 or more")
    return numbers


def _exam(questions: str, asking: Asking) -> Exam:
    """A file of questions, or a task. Raises RecipeError or DataError."""
    path = Path(questions).expanduser()
    is_task = (
        path.suffix in (".yaml", ".yml", ".py") or questions.partition(":")[0] in list_tasks() or ".py:" in questions
    )
    if path.is_file() and not is_task:
        if asking.data is not None:
            raise RecipeError(f"--data is for a task; {questions} is a file of questions itself")
        return Exam(problems=read_problems(path)[: asking.most], pool=(), ask=_asker(asking))
    if not is_task and (path.suffix or path.exists()):
        raise DataError(f"{questions} is no file; give a file of questions and answers, or the name of a task")
    task = find_task(questions, data=asking.data)
    if asking.reward:
        raise RecipeError(
            f"--reward is for a file of questions; the task {task.name} says itself how answers are judged"
        )
    return Exam(problems=task.problems()[: asking.most], pool=task.pool(), ask=_task_asker(task, asking))


def _asker(asking: Asking) -> Callable[[Chat, Sequence[Problem], Demonstrations], list[Tried]]:
    judge = _judge(asking.reward)
    options = ChatOptions(max_tokens=asking.max_tokens or ANSWER_TOKENS, seed=asking.seed)

    def ask(chat: Chat, problems: Sequence[Problem], shots: Demonstrations) -> list[Tried]:
        shown = StrategyChat(FewShot(shown=lambda one: shots(by_input.get(one.input, one))), chat)
        by_input = {one.input: one for one in problems}
        own = [replace(options, seed=derived_seed(asking.seed, one.id)) for one in problems]
        told = shown.reply_each([[user(one.input)] for one in problems], own)
        return [Tried(text=one.text, score=score) for one, score in zip(told, judge(problems, told), strict=True)]

    return ask


def _judge(rewards: Sequence[str]) -> Judge:
    if not rewards:
        return lambda problems, told: [
            float(agree(done.text, one.target)) for one, done in zip(problems, told, strict=True)
        ]
    reward = make_reward(reward_specs(rewards))

    def judge(problems: Sequence[Problem], told: Sequence[Completion]) -> list[float]:
        cases = [
            Case(
                prompt=(Message(role="user", content=one.input),),
                completion=done,
                columns={"answer": one.target, **one.columns},
            )
            for one, done in zip(problems, told, strict=True)
        ]
        return reward(cases).totals

    return judge


def _task_asker(task: Task, asking: Asking) -> Callable[[Chat, Sequence[Problem], Demonstrations], list[Tried]]:
    if task.spec.output == "perplexity":
        raise RecipeError(f"the task {task.name} asks nothing that a chat could answer; use `dunwu eval`")

    def ask(chat: Chat, problems: Sequence[Problem], shots: Demonstrations) -> list[Tried]:
        solver = WrittenReplies(chat, shots, max_tokens=asking.max_tokens, seed=asking.seed)
        responses = solver(task, problems)
        metric = measure(task, responses)[0]
        if not metric.more_is_better or metric.as_power:
            raise RecipeError(
                f"the task {task.name} is judged by {metric.name}, of which less is better; use `dunwu eval`"
            )
        texts = ["" if one.completion is None else one.completion.text for one in responses]
        return [Tried(text=text, score=score) for text, score in zip(texts, metric.values, strict=True)]

    return ask


@contextlib.contextmanager
def _partner(model: str, asking: Asking) -> Generator[Chat]:
    if asking.url is not None:
        with endpoint(model, asking.url, asking.key_env) as partner:
            yield partner
        return
    partner = load(model)
    if partner.instruction_tuned is False:
        raise ModelError(f"{model} was not tuned to answer, it continues texts; give a model that was")
    yield partner
