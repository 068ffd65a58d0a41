"""`dunwu eval`."""

import contextlib
import dataclasses
import datetime
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dunwu import __version__
from dunwu.build.report_evaluation import write_evaluation_page
from dunwu.chat.protocol import Chat
from dunwu.cli.calibrating import CalibratedChoices
from dunwu.cli.evaluating_options import Evaluating
from dunwu.cli.evaluating_partner import Partner, Place, find_model, opened
from dunwu.cli.exposing import learned, with_exposure
from dunwu.core import journal
from dunwu.core.errors import DataError, RecipeError
from dunwu.core.files import read_json
from dunwu.core.journal import Journal, require_same
from dunwu.core.lineage import stable_hash
from dunwu.core.problems import Problem
from dunwu.core.progress import TerminalProgress
from dunwu.core.screen import harmless
from dunwu.evaluate.outcome import Figure, Outcome, Sample, TaskOutcome, write_outcome
from dunwu.evaluate.remembering import Memory, Remembered, RememberingChat, RememberingText
from dunwu.evaluate.running import Asking, TaskRun, run_task
from dunwu.evaluate.scorers.registry import Means
from dunwu.evaluate.solvers.base import Demonstrations, Solver
from dunwu.evaluate.solvers.choice import ByLikelihood
from dunwu.evaluate.solvers.text import WrittenReplies, WrittenText
from dunwu.evaluate.tasks.demonstrations import usual_shots
from dunwu.evaluate.tasks.finding import find_task, list_tasks
from dunwu.evaluate.tasks.task import Task
from dunwu.prompt.demonstrations.registry import Means as ShotMeans
from dunwu.prompt.demonstrations.registry import demonstrations
from dunwu.prompt.strategies.registry import Help, require_strategy, strategy

EVALUATIONS = Path("evaluations")
ANSWERS, PAGE = "answers.jsonl", "report.html"
PLAIN = ("likelihood", "text", "chat")
DRAWN_AT_A_TIME = 64  # a part of what drawn answers follow from
SHOWN = 5  # of the questions whose prompts were cut or refused; all are in samples.jsonl


def evaluate(model: str, given: Evaluating) -> None:
    """Run tasks on a model, write results, samples and a page, and print the figures."""
    tasks = find_tasks(given)
    _require_possible(given)
    place = find_model(model, given)
    asked = {task.name: _chosen(task, given) for task in tasks}
    settings = _settings(tasks, given, place)
    out = given.out or EVALUATIONS / f"{_file_name(place.name)}-{stable_hash(settings)[:8]}"
    started_s = time.monotonic()
    with _memory(out.expanduser(), settings, given, place) as memory, TerminalProgress() as progress:
        runs = _run(tasks, asked, given, place, memory, progress)
        runs, unsearched = with_exposure(runs, tasks, asked, learned(given, place), progress)
    outcome = Outcome(
        model=place.name,
        identity=place.identity,
        settings=settings,
        tasks=tuple(run.outcome for run in runs),
        dunwu=__version__,
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started_s, 2),
        unsearched=unsearched,
    )
    samples = [sample for run in runs for sample in run.samples]
    write_outcome(out.expanduser(), outcome, samples)
    page = write_evaluation_page(out.expanduser() / PAGE, outcome, samples)
    if given.as_json:
        print(json.dumps(read_json(out.expanduser() / "results.json"), ensure_ascii=False))
        return
    print(harmless("\n".join(_lines(outcome, samples))))
    print(harmless(f"\n{page}; compare with another one: dunwu compare {out} OTHER"))


# --------------------------------------------------------------------------------------------------------------- tasks


def find_tasks(given: Evaluating) -> list[Task]:
    """The tasks that were named, each with its data. Raises RecipeError for one that there is not, with the nearest name."""
    names = list(_names(given.tasks))
    if not names:
        raise RecipeError(
            f"--tasks names none; known are {', '.join(list_tasks())}, and your own as FILE.yaml or FILE.py:NAME"
        )
    of_one = dict(entry.split("=", 1) for entry in given.data if "=" in entry and not Path(entry).exists())
    of_all = [entry for entry in given.data if "=" not in entry or Path(entry).exists()]
    if len(of_all) > 1:
        raise RecipeError(f"--data gives {of_all[0]} and {of_all[1]} for all tasks; write TASK=FOLDER for each")
    tasks = [find_task(name, data=of_one.pop(_key(name), of_all[0] if of_all else None)) for name in names]
    if of_one:
        raise RecipeError(
            f"--data names {next(iter(of_one))}, which is none of --tasks ({', '.join(map(_key, names))})"
        )
    twice = [task.name for task in tasks if sum(other.name == task.name for other in tasks) > 1]
    if twice:
        raise RecipeError(f"--tasks names {twice[0]} twice; name it once, with its subjects as {twice[0]}:A,B")
    return tasks


def _names(given: Sequence[str]) -> Iterator[str]:
    """`a,b:x,y,c` is a, b with the subjects x and y, and c where that is a task."""
    for text in given:
        name = ""
        for part in (part.strip() for part in text.split(",") if part.strip()):
            is_subject = (
                ":" in name
                and ":" not in part
                and part not in list_tasks()
                and Path(part).suffix not in (".yaml", ".yml", ".py")
            )
            if is_subject:
                name += f",{part}"
                continue
            if name:
                yield name
            name = part
        if name:
            yield name


def _key(name: str) -> str:
    return Path(name.partition(":")[0]).stem if Path(name.partition(":")[0]).suffix else name.partition(":")[0]


def _chosen(task: Task, given: Evaluating) -> tuple[Problem, ...]:
    """The problems that are asked: all, or some that the seed draws, in their order. More of them hold all of fewer."""
    problems = task.problems()
    if given.limit is None or given.limit >= len(problems):
        return problems
    drawn = sorted(range(len(problems)), key=lambda place: stable_hash([given.seed, problems[place].id]))
    return tuple(problems[place] for place in sorted(drawn[: given.limit]))


# --------------------------------------------------------------------------------------------------- settings and memory


def _require_possible(given: Evaluating) -> None:
    """Raise RecipeError for what cannot be asked so, before anything is opened."""
    if given.solver not in ("auto", *PLAIN):
        require_strategy(given.solver)
    if not given.timeout_s > 0:
        raise RecipeError(f"--timeout {given.timeout} leaves an endpoint no time to answer; give some, such as 30s")
    if given.corpus not in ("auto", "none") and not Path(given.corpus).expanduser().exists():
        raise DataError(
            f"--corpus {given.corpus} does not exist; give the folder of what the model learned from, auto or none"
        )
    if given.samples > 1 and given.drawn_at == 0:
        raise RecipeError(
            f"--temperature 0 gives one answer {given.samples} times; give more, such as 0.8, or no --samples"
        )
    if given.samples > 1 and given.solver == "likelihood":
        raise RecipeError(
            "likelihoods are not drawn: leave out --samples, or let answers be written (--solver text or chat)"
        )
    if wrong := next((k for k in given.pass_at if not 1 <= k <= given.samples), None):
        raise RecipeError(
            f"--pass {wrong} asks how often one of {wrong} is right, and there are {given.samples}; give --samples {wrong} or more"
        )
    if given.pass_at and given.samples == 1:
        raise RecipeError("--pass needs several answers to each question; give --samples")


def _settings(tasks: Sequence[Task], given: Evaluating, place: Place) -> dict[str, Any]:
    """What a run is known by: with others it is another run."""
    keys = (
        "solver",
        "shots",
        "demonstrations",
        "calibrate",
        "limit",
        "samples",
        "seed",
        "max_tokens",
        "system",
    )
    return {
        "model": place.name,
        "identity": place.identity,
        "tasks": {task.name: task.fingerprint for task in tasks},
        **{key: getattr(given, key) for key in keys},
        "temperature": given.drawn_at,
    }


@contextlib.contextmanager
def _memory(out: Path, settings: dict[str, Any], given: Evaluating, place: Place) -> Iterator[Memory]:
    """The answers that are there. Raises DataError where the folder holds another run, or things of somebody else's."""
    file = out / ANSWERS
    if out.is_dir() and not file.exists() and any(out.iterdir()):
        raise DataError(f"{out} holds other things, and no evaluation; give an empty or a new folder with --out")
    with journal.opened(file, Remembered) as answers:
        _settle(answers, settings, given, out)
        yield Memory(answers, place.identity)


def _settle(answers: Journal[Remembered], settings: dict[str, Any], given: Evaluating, out: Path) -> None:
    if answers.head == settings:
        return
    if len(answers) and not given.anew:
        require_same(answers.head, settings, out)
    answers.settle(settings)


# ------------------------------------------------------------------------------------------------------------- running


def _run(
    tasks: Sequence[Task],
    asked: dict[str, tuple[Problem, ...]],
    given: Evaluating,
    place: Place,
    memory: Memory,
    progress: TerminalProgress,
) -> list[TaskRun]:
    with opened(place, given) as partner:
        remembering = dataclasses.replace(
            partner,
            text=RememberingText(partner.text, memory),
            chat=RememberingChat(partner.chat, memory),
        )
        ways = [_asking(task, remembering, given) for task in tasks]
        for task, (_, prompt) in zip(tasks, ways, strict=True):
            _require_prompts(asked[task.name], prompt)
        runs: list[TaskRun] = []
        for task, (asking, prompt) in zip(tasks, ways, strict=True):
            progress.start(task.name)
            runs.append(run_task(task, asking, asked[task.name], progress=progress, prompt=prompt))
    if memory.known and not memory.asked:
        progress.note("Every answer was there already: nothing was asked anew (--anew and another --out ask again).")
    elif memory.known:
        progress.note(f"{memory.known} answers were there already, {memory.asked} were asked for.")
    return runs


def _require_prompts(problems: Sequence[Problem], prompt: Callable[[Problem], str]) -> None:
    """Raise DataError where a subject has too few demonstrations, before anything is asked."""
    for problem in {problem.subject: problem for problem in problems}.values():
        prompt(problem)


def _asking(task: Task, partner: Partner, given: Evaluating) -> tuple[Asking, Callable[[Problem], str]]:
    """How a task is run, and what its prompts look like."""
    kind = _kind(task, partner, given)
    if given.calibrate != "none" and kind != "likelihood":
        raise RecipeError(
            f"--calibrate {given.calibrate} is for choices by likelihood, and {task.name} is asked by {kind}; leave it out"
        )
    shown = _demonstrations(task, partner, given)
    chat = partner.chat
    if kind not in PLAIN:
        chat = strategy(
            kind, chat, Help(pool=task.pool(), count_tokens=partner.text.count_tokens, embed=partner.embed, told=_aside)
        )
    system = partner.system_prompt if given.system is None else given.system
    solvers = [_solver(kind, task, partner, chat, shown, given, system, given.seed + at) for at in range(given.samples)]
    drawn = given.drawn_at > 0 and kind != "likelihood"
    asking = Asking(
        solvers=solvers,
        solver_name=kind if kind in PLAIN else f"chat, {kind}",
        pass_at=given.pass_at,
        batch=partner.batch or (DRAWN_AT_A_TIME if drawn else None),
        means=Means(chat=partner.chat),
    )

    def prompt(problem: Problem) -> str:
        if kind in ("likelihood", "text"):
            return task.text(problem, shown(problem))
        return "\n\n".join(f"[{message.role}] {message.content}" for message in task.messages(problem, shown(problem)))

    return asking, prompt


def _kind(task: Task, partner: Partner, given: Evaluating) -> str:
    """How the task is asked. Raises RecipeError where this task or model cannot be asked so."""
    output = task.spec.output
    if given.solver == "auto":
        if output == "perplexity" or (output == "choice" and partner.is_here and given.samples == 1):
            return "likelihood"
        return "chat" if partner.speaks is not False and output != "perplexity" else "text"
    if output == "perplexity" and given.solver != "likelihood":
        raise RecipeError(f"{task.name} measures how likely its text is; ask it with --solver likelihood")
    if output == "text" and given.solver == "likelihood":
        raise RecipeError(
            f"{task.name} has no choices whose likelihood could be asked; ask it with --solver text or chat"
        )
    if given.solver not in ("likelihood", "text") and partner.speaks is False:
        raise RecipeError(
            f"{partner.name} was not trained to chat, which --solver {given.solver} needs; use --solver text or likelihood"
        )
    return given.solver


def _solver(
    kind: str,
    task: Task,
    partner: Partner,
    chat: Chat,
    shown: Demonstrations,
    given: Evaluating,
    system: str,
    seed: int,
) -> Solver:
    how: dict[str, Any] = {"max_tokens": given.max_tokens, "temperature": given.drawn_at, "seed": seed}
    if kind in ("likelihood", "text"):
        if given.calibrate != "none" and kind == "likelihood":
            return CalibratedChoices(partner.text, shown, given.calibrate, seed=given.seed)
        return ByLikelihood(partner.text, shown) if kind == "likelihood" else WrittenText(partner.text, shown, **how)
    return WrittenReplies(chat, shown, system=system, **how)


@functools.cache
def _aside(text: str) -> None:
    """Says each thing once."""
    print(harmless(text), file=sys.stderr)


def _demonstrations(task: Task, partner: Partner, given: Evaluating) -> Demonstrations:
    if given.demonstrations is None:
        return usual_shots(task, given.shots, seed=given.seed)
    text = given.demonstrations
    if given.shots is not None and "k=" not in text:
        text += f"{',' if ':' in text else ':'}k={given.shots}"
    count = partner.text.count_tokens
    means = ShotMeans(
        embed=partner.embed, count_tokens=lambda one: count(f"{one.input}\n{one.target}\n") or 0, told=_aside
    )
    by_subject: dict[str, Demonstrations] = {}

    def chosen(problem: Problem) -> Sequence[Problem]:
        """Of the problem's subject, where the pool tells subjects; as the usual ones."""
        if problem.subject not in by_subject:
            own = [one for one in task.pool() if one.subject == problem.subject] or task.pool()
            by_subject[problem.subject] = demonstrations(text, own, means)
        return by_subject[problem.subject](problem)

    return chosen


# ------------------------------------------------------------------------------------------------------------ printing


def _lines(outcome: Outcome, samples: Sequence[Sample]) -> Iterator[str]:
    yield f"{outcome.model}: {_questions(sum(task.asked for task in outcome.tasks))} in {outcome.seconds:.0f} s"
    for task in outcome.tasks:
        part = f"{task.asked:,} of {task.total:,} questions" if task.asked < task.total else _questions(task.asked)
        clusters = f" in {task.groups:,} groups" if task.groups else ""
        shots = f", {_counted(task.shots, 'demonstration')}" if task.shots else ""
        draws = f", {task.samples} answers each" if task.samples > 1 else ""
        yield f"\n{task.name}: {part}{clusters}, by {task.solver}{shots}{draws}"
        for figure in task.figures:
            yield f"  {_figure(figure)}"
        if not task.figures:
            yield f"  no figure: none of the task's metrics is for answers by {task.solver}"
        yield from _exposure_lines(task)
        yield from _faults(task, [sample for sample in samples if sample.task == task.name])
    if outcome.unsearched:
        yield "\nNot searched for the questions, which --corpus FOLDER does:"
        yield from (f"  {reason}" for reason in outcome.unsearched)


def _figure(figure: Figure) -> str:
    score = figure.score
    limits = f"[{_number(score.low)}, {_number(score.high)}]" if math.isfinite(score.low) else "no interval"
    chance = f"  chance {score.chance:.3f}" if score.chance is not None else ""
    better = "" if figure.more_is_better else "  (less is better)"
    return f"{score.name:<18} {_number(score.value)}  {limits}  n={score.n:,}{chance}{better}"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100_000 else f"{value:.3g}"


def _exposure_lines(task: TaskOutcome) -> Iterator[str]:
    told = task.exposure
    if told is None:
        return
    if not told.checked:
        yield "  in the corpus      not told: every question is too short to be looked for"
        return
    unknown = f", {task.asked - told.checked:,} too short to tell" if told.checked < task.asked else ""
    whole = f" share a run of words, {told.whole.value:.1%} nearly all they say" if told.whole and told.dirty else ""
    yield f"  in the corpus      {told.seen.value:.1%} of {told.checked:,} questions{whole}{unknown}"
    for label, figures in (("not seen", told.clean), ("seen", told.dirty)):
        if figures and told.dirty:
            yield f"    {label:<16} {_figure(figures[0])}"


def _faults(task: TaskOutcome, samples: Sequence[Sample]) -> Iterator[str]:
    """What did not fit the context, by question."""
    unit = "tokens" if task.solver == "likelihood" else "of their first messages"
    kinds: list[tuple[str, Callable[[Sample], str | int]]] = [
        ("not asked, which count as wrong", lambda one: one.refused),
        ("lost demonstrations, so many", lambda one: "" if one.refused else one.dropped),
        (f"lost a beginning, so many {unit}", lambda one: "" if one.refused else one.cut),
    ]
    for what, told in kinds:
        found = [sample for sample in samples if told(sample)]
        if not found:
            continue
        named = ", ".join(f"{one.id} ({told(one)})" if what != kinds[0][0] else one.id for one in found[:SHOWN])
        more = f" and {len(found) - SHOWN:,} more (samples.jsonl names all)" if len(found) > SHOWN else ""
        yield f"  Longer than the context: {_questions(len(found))} {what}: {named}{more}"
        if what == kinds[0][0]:
            yield f"    {found[0].id}: {found[0].refused}"
    if task.shots and task.solver != "likelihood" and samples and not any(map(_demonstrations_read, samples)):
        yield "  No question was read with a demonstration: the figures are those of asking without any"


def _demonstrations_read(sample: Sample) -> int:
    """How many the model read, of an answer that was written. Each is two messages of a conversation, the first of which go first."""
    return 0 if sample.refused else max(0, sample.shots - math.ceil(sample.cut / 2))


def _questions(count: int) -> str:
    return _counted(count, "question")


def _counted(count: int, what: str) -> str:
    return f"1 {what}" if count == 1 else f"{count:,} {what}s"


def _file_name(name: str) -> str:
    return (
        "".join(character if character.isalnum() or character in "-_." else "-" for character in name).strip(".-")
        or "model"
    )
